"""Latent diffusion tasks beyond text-to-image: image-to-image, inpainting, variations, interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline as TheirImg2Img
from diffusers import StableDiffusionInpaintPipeline as TheirInpaint
from diffusion_parts import CHANNELS, SIDE, dit, pipeline, t5
from PIL import Image

from t2i.data.toybox_v1 import Scene, Thing
from t2i.diffusion.flow import RectifiedFlow
from t2i.diffusion.interpolation import slerp
from t2i.diffusion.objective import DiffusionObjective
from t2i.diffusion.schedulers import SCHEDULERS, make_scheduler
from t2i.pipelines import (
    AutoPipeline,
    LatentDiffusionImg2ImgPipeline,
    LatentDiffusionInpaintPipeline,
    LatentDiffusionPipeline,
)

SIZE = 8 * SIDE
PROMPTS = ["a red cat", "a blue car on top of a tree"]


@pytest.fixture(scope="module")
def parts() -> dict:
    return pipeline().components


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(parts) -> LatentDiffusionPipeline:
    return quiet(LatentDiffusionPipeline(**parts))


@pytest.fixture
def img2img(pipe) -> LatentDiffusionImg2ImgPipeline:
    return quiet(LatentDiffusionImg2ImgPipeline.from_pipe(pipe))


@pytest.fixture
def inpaint(pipe) -> LatentDiffusionInpaintPipeline:
    return quiet(LatentDiffusionInpaintPipeline.from_pipe(pipe))


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Scene((Thing("armchair", "avocado"),)).render(SIZE)


@pytest.fixture(scope="module")
def mask() -> Image.Image:
    """A white block aligned with latent borders, so that diffusers' downscaling of masks agrees with ours."""
    white = np.zeros((SIZE, SIZE), np.uint8)
    white[16:48, 8:40] = 255
    return Image.fromarray(white)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


def pixels(images) -> np.ndarray:
    return np.stack([np.asarray(i) for i in images]).astype(int)


def latents(pipe, *args, **how) -> torch.Tensor:
    return pipe(*args, num_inference_steps=5, output_type="latent", **how).images


def rebuilt(pipe, image) -> np.ndarray:
    with torch.no_grad():
        tensor = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None] / 127.5 - 1
        return (pipe.image_tokenizer.reconstruct(tensor) / 2 + 0.5).permute(0, 2, 3, 1).numpy()


# --- image to image -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", [None, *SCHEDULERS])
def test_at_strength_1_nothing_of_the_picture_is_left(pipe, img2img, image, scheduler):
    how = {"scheduler": scheduler, "num_images_per_prompt": 2}
    plain = latents(pipe, PROMPTS, generator=seeded(1, 2, 3, 4), **how)
    edited = latents(img2img, PROMPTS, image, 1.0, generator=seeded(1, 2, 3, 4), **how)
    assert torch.equal(edited, plain)


def test_pictures_come_in_every_form_that_diffusers_takes(img2img, image):
    array = np.asarray(image)
    tensor = torch.from_numpy(array / np.float32(255)).movedim(-1, 0)
    ways = [image, [image], array, array[None], [array], array / np.float32(255), tensor, tensor[None], [tensor]]
    outs = [latents(img2img, "a red cat", way, np.float32(0.5), generator=seeded(0)) for way in ways]
    assert all((out - outs[0]).abs().max() < 1e-5 for out in outs)


def test_encoding_an_image_keeps_no_graph(img2img, inpaint, image, mask):
    """Otherwise the encoder's activations would stay in memory for gradients that are never computed."""
    for pipe, more in ((img2img, {}), (inpaint, {"mask_image": mask})):
        encoded = []
        hook = pipe.vae.encoder.register_forward_hook(lambda module, given, out, to=encoded: to.append(out))
        latents(pipe, "a red cat", image=image, strength=0.5, generator=seeded(0), **more)
        hook.remove()
        assert encoded and not any(out.requires_grad for out in encoded)


def test_at_strength_0_the_picture_comes_back_through_the_autoencoder(img2img, image):
    out = img2img("a red cat", image, 0, num_inference_steps=5, generator=seeded(0), output_type="np").images
    assert np.abs(out - rebuilt(img2img, image)).max() < 1e-5


@pytest.mark.parametrize("scheduler", [None, *SCHEDULERS])
def test_more_strength_changes_more(img2img, image, scheduler):
    start = latents(img2img, "a red cat", image, 0)
    ways = [
        latents(img2img, "a red cat", image, s, generator=seeded(0), scheduler=scheduler, guidance_scale=1)
        for s in (0.2, 1.0)
    ]
    changes = [(way - start).square().mean() for way in ways]
    assert 0 < changes[0] < changes[1]


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "heun", "dpm++", "unipc"])
@pytest.mark.parametrize("strength", [0.4, 0.8])
def test_image_to_image_is_diffusers_own(img2img, image, scheduler, strength, tmp_path):
    LatentDiffusionPipeline(**img2img.components).save_pretrained(tmp_path)
    theirs = quiet(TheirImg2Img.from_pretrained(tmp_path))
    theirs.scheduler = make_scheduler(scheduler, img2img.scheduler.config)
    how = {"prompt": PROMPTS[0], "image": image, "strength": strength, "num_inference_steps": 5, "guidance_scale": 4}
    want = theirs(**how, generator=seeded(3), output_type="np").images
    got = img2img(**how, generator=seeded(3), output_type="np", scheduler=scheduler).images
    assert want.std() > 0.01
    assert np.abs(got - want).max() <= 1e-3


def test_a_flow_starts_on_the_straight_line_from_picture_to_noise(parts, image):
    flow = RectifiedFlow()
    sampler = DiffusionObjective(prediction_type="flow").scheduler()
    pipe = quiet(LatentDiffusionImg2ImgPipeline(**{**parts, "scheduler": sampler}))
    tensor = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None] / 127.5 - 1
    seen = []
    handle = pipe.unet.register_forward_pre_hook(lambda _, args: seen.append(args[:2]))
    noise = torch.randn(1, CHANNELS, SIDE, SIDE)
    latents(pipe, "a red cat", image, 0.6, latents=noise, generator=seeded(0), guidance_scale=1)
    handle.remove()
    x, t = seen[0]
    with torch.no_grad():
        picture = pipe.image_tokenizer.encode(tensor, *seeded(0))
    assert len(seen) == 3
    assert torch.allclose(x, flow.add_noise(picture, noise, t.reshape(1)), atol=1e-5)


def test_an_edited_picture_depends_on_its_own_generator_and_picture_alone(img2img, image):
    other = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    together = latents(
        img2img, PROMPTS, [image, other], 0.6, num_images_per_prompt=2, generator=seeded(0, 1, 2, 3), scheduler="ddpm"
    )
    img2img.max_batch_bytes = 1  # so little that every image is a separate batch
    for i in range(4):
        picture = (image, other)[i // 2]
        alone = latents(img2img, PROMPTS[i // 2], picture, 0.6, generator=seeded(i), scheduler="ddpm")
        assert torch.allclose(alone[0], together[i], atol=1e-5)


def test_a_tensor_of_pictures_says_what_pil_images_say(img2img, image):
    tensor = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None] / 255
    got = latents(img2img, "a red cat", tensor, 0.5, generator=seeded(0))
    assert torch.allclose(got, latents(img2img, "a red cat", image, 0.5, generator=seeded(0)), atol=1e-4)


def test_variations_are_image_to_image_with_one_seed_after_the_other(img2img, image):
    three = img2img.variations(image, 3, 0.6, seed=5, num_inference_steps=5)
    assert len(three) == 3
    alone = img2img("", image, 0.6, num_inference_steps=5, guidance_scale=1, generator=seeded(6)).images[0]
    assert np.abs(pixels([three[1]]) - pixels([alone])).max() <= 1
    assert pixels([three[0]]).tolist() != pixels([three[1]]).tolist()


# --- inpainting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheduler", "strength"), [*((name, 1.0) for name in SCHEDULERS), ("heun", 0.5), (None, 0.5)])
def test_the_rest_of_the_picture_is_unchanged_bit_for_bit(inpaint, image, mask, scheduler, strength):
    how = {"num_inference_steps": 4, "scheduler": scheduler, "num_images_per_prompt": 2}
    out = inpaint("a red cat", image, mask, strength, generator=seeded(0, 1), **how).images
    white = np.asarray(mask) > 0
    for picture in pixels(out):
        assert (picture[~white] == np.asarray(image)[~white]).all()
        assert (picture[white] != np.asarray(image)[white]).any()


def test_a_mask_of_any_shape_keeps_every_black_pixel(inpaint, image):
    white = np.random.default_rng(0).random((SIZE, SIZE)) < 0.3
    out = inpaint("a red cat", image, Image.fromarray(white), num_inference_steps=2, generator=seeded(0)).images
    assert (pixels(out)[0][~white] == np.asarray(image)[~white]).all()


def test_latents_are_free_where_any_of_their_pixels_is_and_end_as_the_pictures_elsewhere(inpaint, image):
    white = np.zeros((SIZE, SIZE), bool)
    white[23, 40] = white[48:, :7] = True
    free = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    free[2, 5] = free[6:, 0] = True
    end = latents(inpaint, "a red cat", image, Image.fromarray(white), generator=seeded(0))[0]
    tensor = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        picture = inpaint.image_tokenizer.encode(tensor, *seeded(0))[0]  # a sample, as in diffusers
    assert torch.equal((end - picture).abs().amax(0) > 1e-5, free)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_empty_mask_returns_the_picture(inpaint, image, dtype):
    black = Image.new("L", image.size)
    whole = quiet(LatentDiffusionInpaintPipeline.from_pipe(inpaint, dtype=dtype))
    out = whole("a red cat", image, black, num_inference_steps=2).images[0]
    whole.to(dtype=torch.float32)  # the components are shared
    assert out.tobytes() == image.tobytes()


def test_a_white_mask_is_text_to_image(pipe, inpaint, image):
    white = Image.new("1", image.size, 1)
    noise = torch.randn(1, CHANNELS, SIDE, SIDE)
    plain = latents(pipe, "a red cat", latents=noise)
    assert torch.equal(latents(inpaint, "a red cat", image, white, latents=noise), plain)


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpm++"])
def test_inpainting_is_diffusers_own(inpaint, image, mask, scheduler, tmp_path):
    LatentDiffusionPipeline(**inpaint.components).save_pretrained(tmp_path)
    theirs = quiet(TheirInpaint.from_pretrained(tmp_path))
    theirs.scheduler = make_scheduler(scheduler, inpaint.scheduler.config)
    how = {"prompt": PROMPTS[0], "image": image, "mask_image": mask, "strength": 0.8, "num_inference_steps": 5}
    size = {"height": SIZE, "width": SIZE}
    want = theirs(**how, **size, guidance_scale=4, generator=seeded(3), output_type="latent").images
    got = inpaint(**how, guidance_scale=4, generator=seeded(3), output_type="latent", scheduler=scheduler).images
    assert (got - want).abs().max() <= 1e-3


def test_one_mask_for_all_or_one_for_each_picture(inpaint, image, mask):
    other = mask.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    out = inpaint(PROMPTS, [image, image], [mask, other], num_inference_steps=2, generator=seeded(0, 1)).images
    for picture, white in zip(pixels(out), (mask, other), strict=True):
        assert ((picture != np.asarray(image)).any(-1) <= (np.asarray(white) > 0)).all()


def test_masks_saved_as_colours_and_as_numbers_are_masks(inpaint, image, mask):
    tensor = torch.tensor(np.asarray(mask)[None, None] / 255)
    ways = [mask, *(mask.convert(mode) for mode in ("RGB", "P", "1", "RGBA", "LA")), tensor]
    outs = [latents(inpaint, "a red cat", image, way, generator=seeded(0)) for way in ways]
    assert all(torch.equal(out, outs[0]) for out in outs)


# --- interpolation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", [None, "ddpm", "euler-ancestral"])
def test_the_ends_of_an_interpolation_are_the_plain_pictures(pipe, scheduler):
    how = {"num_inference_steps": 4, "scheduler": scheduler, "output_type": "np"}
    way = pipe.interpolate(PROMPTS, seeds=(3, 4), num=4, **how)
    assert way.shape == (4, SIZE, SIZE, 3)
    for end, prompt, seed in ((0, PROMPTS[0], 3), (-1, PROMPTS[1], 4)):
        plain = pipe(prompt, generator=seeded(seed), **how).images[0]
        assert np.abs(way[end] - plain).max() < 1e-4


def test_one_prompt_with_two_seeds_and_two_prompts_with_one_seed(pipe):
    how = {"num": 3, "num_inference_steps": 3, "output_type": "np"}
    seeds = pipe.interpolate("a red cat", (0, 1), **how)
    prompts = pipe.interpolate(PROMPTS, 0, **how)
    assert np.abs(seeds[0] - prompts[0]).max() < 1e-4
    for way in (seeds, prompts):
        steps = np.abs(np.diff(way, axis=0)).mean((1, 2, 3))
        assert (steps > 0).all()
        assert steps.max() < 2 * np.abs(way[0] - way[-1]).mean()  # on the way, no detour


def test_slerp_keeps_to_the_sphere_at_even_speed():
    a, b = torch.nn.functional.normalize(torch.randn(2, 4096, dtype=torch.float64), dim=1)
    way = torch.stack([slerp(a, b, w) for w in torch.linspace(0, 1, 9).tolist()])
    assert torch.equal(way[0], a)
    assert torch.allclose(way[-1], b, atol=1e-15)
    assert torch.allclose(way.norm(dim=1), torch.ones(9, dtype=torch.float64))
    angles = (way[1:] * way[:-1]).sum(1).arccos()
    assert torch.allclose(angles, angles[:1].expand(8), atol=1e-6)
    assert torch.equal(slerp(a, a, 0.3), a)


def test_padding_of_t5_stays_hidden_on_the_way(parts):
    pipe = quiet(LatentDiffusionPipeline(**{**parts, "text_encoder": t5(parts["tokenizer"]), "unet": dit()}))
    how = {"num_inference_steps": 3, "output_type": "latent"}
    way = pipe.interpolate(PROMPTS, seeds=2, num=3, **how)
    for end, prompt in ((0, PROMPTS[0]), (-1, PROMPTS[1])):
        assert torch.allclose(way[end], pipe(prompt, generator=seeded(2), **how).images[0], atol=1e-4)
    assert not torch.allclose(way[0], way[1], atol=1e-3)


# --- one set of parts -----------------------------------------------------------------------------------------------


def test_the_parts_are_shared_and_keep_their_precision(pipe):
    pipe.to(dtype=torch.bfloat16)
    try:
        for cls in (LatentDiffusionImg2ImgPipeline, LatentDiffusionInpaintPipeline):
            for edit in (cls.from_pipe(pipe), cls(**pipe.components)):
                assert all(edit.components[name] is part for name, part in pipe.components.items())
                assert edit.dtype == torch.bfloat16
    finally:
        pipe.to(dtype=torch.float32)


def test_a_call_that_fails_leaves_the_pipeline_as_it_was(pipe, inpaint, image, mask):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inpaint("a red cat", image, mask, num_inference_steps=2, callback_on_step_end=stop)
    before = latents(inpaint, "a red cat", image, mask, generator=seeded(0))
    assert torch.equal(latents(inpaint, "a red cat", image, mask, generator=seeded(0)), before)


def test_a_saved_editing_pipeline_opens_as_what_it_was(inpaint, image, mask, tmp_path):
    inpaint.save_pretrained(tmp_path)
    again = quiet(AutoPipeline.from_pretrained(tmp_path))
    assert type(again) is LatentDiffusionInpaintPipeline
    want = latents(inpaint, "a red cat", image, mask, generator=seeded(0))
    assert torch.allclose(latents(again, "a red cat", image, mask, generator=seeded(0)), want, atol=1e-5)


# --- mistakes -------------------------------------------------------------------------------------------------------

PICTURE, ODD = Image.new("RGB", (SIZE, SIZE)), Image.new("RGB", (SIZE + 1, SIZE))
BAD_EDITS = [
    ({"strength": 1.5}, r"strength must lie in \[0, 1\]"),
    ({"strength": -0.1}, r"strength must lie in \[0, 1\]"),
    ({"strength": float("nan")}, r"strength must lie in \[0, 1\]"),
    ({"strength": 0.19, "num_inference_steps": 5}, "steps of 6 or more, or a strength of 0.2"),
    ({"strength": "much"}, r"strength must lie in \[0, 1\]"),
    ({"image": None}, "image must be a PIL image, .* not nothing"),
    ({"image": "cat.png"}, "not a str: Image.open"),
    ({"image": []}, "image must be a PIL image"),
    ({"image": ODD}, "65×64 is not divisible by 8: scale it, to 64×64 for instance"),
    ({"image": [PICTURE, ODD]}, "must have one size, not 64×64 and 65×64"),
    ({"image": [PICTURE, PICTURE]}, "one for each prompt: there are 2 for 1"),
    ({"image": torch.full((1, 3, SIZE, SIZE), -1.5)}, r"in \[0, 1\], not \(1, 3, 64, 64\) from -1.5"),
    ({"image": torch.zeros(SIZE, SIZE)}, r"must be \(n, 3, H, W\)"),
    ({"image": np.zeros((SIZE, SIZE), np.uint8)}, r"must be \(n, 3, H, W\)"),
    ({"image": [torch.zeros(3, SIZE, SIZE), PICTURE]}, "image must be a PIL image"),
    ({"height": 32}, "scale the image instead of giving height"),
    ({"prompt": None}, "prompt"),
    ({"num_inference_steps": 0}, "at least 1"),
]
BAD_MASKS = [
    (None, "mask_image must be a PIL image, .* not nothing"),
    (Image.new("L", (32, SIZE)), "the mask is 32×64, the image 64×64"),
    (Image.new("RGBA", (SIZE, SIZE)), "transparent in places"),
    (Image.new("RGB", (SIZE, SIZE), "red"), r"has colours \(mode RGB\): save it in grey"),
    (torch.full((1, 1, SIZE, SIZE), 2.0), r"masks must be \(n, 1, H, W\) in \[0, 1\]"),
    (torch.zeros(1, 1, 8, 8), "the mask is 8×8, the image 64×64"),
    ([PICTURE.convert("L")] * 2, "one for each image: there are 2 for 1"),
]
BAD_WAYS = [
    ({"prompts": "a", "num": 1}, "num must be at least 2"),
    ({"prompts": ("a", "b", "c")}, "prompts must be one str or two"),
    ({"prompts": "a", "seeds": (1, "2")}, "seeds must be one int or two"),
    ({"prompts": "a", "seeds": -1}, "seeds must be at least 0"),
    ({"prompts": "a", "generator": None}, "interpolate sets generator itself"),
]


@pytest.mark.parametrize(("change", "says"), BAD_EDITS)
def test_a_bad_edit_is_refused_in_one_sentence(img2img, change, says):
    with pytest.raises(ValueError, match=says):
        img2img(**{"prompt": "a red cat", "image": PICTURE, "strength": 0.5, **change})


@pytest.mark.parametrize(("bad", "says"), BAD_MASKS)
def test_a_bad_mask_is_refused_in_one_sentence(inpaint, bad, says):
    with pytest.raises(ValueError, match=says):
        inpaint("a red cat", PICTURE, bad)


@pytest.mark.parametrize(("how", "says"), BAD_WAYS)
def test_a_bad_interpolation_is_refused_in_one_sentence(pipe, how, says):
    with pytest.raises(ValueError, match=says):
        pipe.interpolate(**how)
