"""Inputs of image-to-image and inpainting, and the order in which they use generators: as in diffusers."""

from __future__ import annotations

import diffusion_parts as parts
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image

from t2i.data.toybox_v1 import Scene, Thing
from t2i.pipelines import (
    AutoPipeline,
    LatentDiffusionImg2ImgPipeline,
    LatentDiffusionInpaintPipeline,
    LatentDiffusionPipeline,
)

SIZE = 8 * parts.SIDE
TASKS = {
    "img2img": (StableDiffusionImg2ImgPipeline, LatentDiffusionImg2ImgPipeline),
    "inpaint": (StableDiffusionInpaintPipeline, LatentDiffusionInpaintPipeline),
}


@pytest.fixture(scope="module")
def theirs() -> StableDiffusionPipeline:
    return StableDiffusionPipeline(**parts.pipeline().components, requires_safety_checker=False)


@pytest.fixture(params=TASKS)
def pair(request, theirs):
    """diffusers' pipeline and ours for one task, with the same components."""
    pipes = [cls.from_pipe(theirs) for cls in TASKS[request.param]]
    for pipe in pipes:
        pipe.set_progress_bar_config(disable=True)
    return pipes


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Scene((Thing("armchair", "avocado"),)).render(SIZE)


def half_white() -> torch.Tensor:
    """A mask whose edge coincides with latent borders, so that ours and diffusers' downscaling of masks agree."""
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., : SIZE // 2] = 1
    return mask


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def edited(pipe, image, **how) -> torch.Tensor:
    """Latents (n, C, h, w)."""
    if "Inpaint" in type(pipe).__name__:
        how = {"mask_image": half_white(), "height": SIZE, "width": SIZE} | how
    how = {"strength": 0.6, "num_inference_steps": 5, "guidance_scale": 3.0, "output_type": "latent"} | how
    return pipe("a red cat", image=image, **how).images


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image) / np.float32(255)).movedim(-1, 0)[None]


# --- images ---------------------------------------------------------------------------------------------------------


def test_numbers_from_minus_1_to_1_are_read_as_such_with_a_warning(pair, image, caplog):
    tensor = as_tensor(image)
    want = edited(pair[1], tensor, generator=seeded())
    assert not caplog.records
    signed = 2 * tensor - 1
    for given in (signed, signed[0], [signed], signed.double(), signed.permute(0, 2, 3, 1).numpy()):
        caplog.clear()
        assert torch.allclose(edited(pair[1], given, generator=seeded()), want, atol=1e-4)
        assert [r.getMessage() for r in caplog.records] == [
            "the image has values below 0, and so is read as in [-1, 1]: tensors should be in [0, 1]"
        ]
    with pytest.warns(FutureWarning, match=r"range in \[-1,1\] is deprecated"):
        assert torch.allclose(edited(pair[0], signed, generator=seeded()), want, atol=1e-3)


def test_latents_take_the_place_of_an_image(pair, image):
    scaled = torch.randn(1, parts.CHANNELS, parts.SIDE, parts.SIDE, generator=seeded(7))
    generators = seeded(), seeded()
    more = {"masked_image_latents": scaled} if "Inpaint" in type(pair[0]).__name__ else {}
    want = edited(pair[0], scaled, generator=generators[0], **more)
    assert (edited(pair[1], scaled, generator=generators[1]) - want).abs().max() < 1e-3
    assert torch.equal(*(g.get_state() for g in generators))  # nothing is encoded, so nothing is sampled
    for given in (scaled[0], [scaled], [scaled[0]]):
        assert torch.allclose(edited(pair[1], given, generator=seeded()), want, atol=1e-3)
    with pytest.raises(ValueError, match=r"the latents given as image, \(1, 4, 8, 8\), must be finite"):
        edited(pair[1], scaled * float("nan"))
    with pytest.raises(ValueError, match="give one image, or one for each prompt: there are 2 for 1"):
        edited(pair[1], torch.cat([scaled, scaled]))


def test_latents_come_back_outside_of_the_mask(theirs):
    pipe = LatentDiffusionInpaintPipeline.from_pipe(theirs)
    scaled = torch.randn(1, parts.CHANNELS, parts.SIDE, parts.SIDE, generator=seeded(7))
    out = edited(pipe, scaled, strength=1.0, generator=seeded())
    half = parts.SIDE // 2
    assert torch.equal(out[..., half:], scaled[..., half:])
    assert (out[..., :half] != scaled[..., :half]).all()
    pixels = edited(pipe, scaled, strength=1.0, generator=seeded(), output_type="pt")
    with torch.no_grad():
        assert torch.allclose(pixels, pipe.image_tokenizer.decode(out) / 2 + 0.5, atol=1e-5)


def test_what_diffusers_processors_make_is_taken(theirs, image):
    pipe, other = (cls.from_pipe(theirs) for cls in reversed(TASKS["inpaint"]))
    mask = Image.fromarray((255 * half_white()[0, 0]).byte().numpy())
    assert torch.equal(pipe.mask_processor.preprocess(mask), other.mask_processor.preprocess(mask))
    made = pipe.image_processor.preprocess(image)
    assert torch.equal(made, other.image_processor.preprocess(image))
    want = edited(pipe, image, mask_image=mask, generator=seeded())
    got = edited(pipe, made, mask_image=pipe.mask_processor.preprocess(mask), generator=seeded())
    assert torch.allclose(got, want, atol=1e-4)


# --- generators -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("sampler", [DDIMScheduler, EulerAncestralDiscreteScheduler])
def test_an_image_follows_from_its_generator_alone_or_among_others(pair, image, sampler, strength):
    ours = pair[1]
    ours.scheduler = sampler.from_config(ours.scheduler.config)
    how = {"image": image, "strength": strength}
    alone = edited(ours, generator=seeded(3), **how)
    for generators in ([seeded(3)], (seeded(3),), [seeded(3), seeded(4)]):
        got = edited(ours, generator=generators, num_images_per_prompt=len(generators), **how)
        assert torch.allclose(got[0], alone[0], atol=1e-4)
    assert (got[1] - got[0]).abs().max() > 0.1


@pytest.mark.parametrize("given", [{}, {"latents": torch.ones(1, parts.CHANNELS, parts.SIDE, parts.SIDE)}])
@pytest.mark.parametrize("tiny", [False, True])
def test_generators_are_used_in_diffusers_order(theirs, image, tiny, given):
    """Also with given noise, and with a deterministic autoencoder."""
    channels = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    blocks = {"num_encoder_blocks": (1,) * 4, "num_decoder_blocks": (1,) * 4}
    torch.manual_seed(0)
    vae = AutoencoderTiny(latent_channels=parts.CHANNELS, **channels, **blocks).eval() if tiny else theirs.vae
    found = []
    for cls in TASKS["inpaint"]:
        pipe = cls.from_pipe(theirs, vae=vae)
        pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
        one, each = seeded(3), [seeded(3)]
        found.append([edited(pipe, image, strength=1.0, generator=g, **given) for g in (one, each)])
        found[-1].append(one.get_state())
    assert (found[0][0] - found[1][0]).abs().max() < 1e-3 > (found[0][1] - found[1][1]).abs().max()
    assert torch.equal(found[0][2], found[1][2])


# --- what runs in diffusers' classes alone --------------------------------------------------------------------------


def test_denoisers_of_further_inputs_run_in_diffusers_classes(theirs, image, tmp_path):
    of_nine = UNet2DConditionModel.from_config(theirs.unet.config, in_channels=9)
    of_guidance = UNet2DConditionModel.from_config(theirs.unet.config, time_cond_proj_dim=16)
    says = {
        of_nine: "takes 9 channels, as those for inpainting alone do .*AutoPipeline.*StableDiffusionInpaintPipeline",
        of_guidance: r"takes the guidance scale as an input \(time_cond_proj_dim\).*AutoPipeline",
    }
    for i, (unet, match) in enumerate(says.items()):
        components = theirs.components | {"unet": unet}
        for cls in (LatentDiffusionPipeline, LatentDiffusionImg2ImgPipeline, LatentDiffusionInpaintPipeline):
            with pytest.raises(ValueError, match=match) as refused:
                cls(**components)
            assert "\n" not in str(refused.value)
        StableDiffusionInpaintPipeline(**components, requires_safety_checker=False).save_pretrained(tmp_path / str(i))
        pipe = AutoPipeline.from_pretrained(tmp_path / str(i))
        assert type(pipe) is StableDiffusionInpaintPipeline
        assert edited(pipe, image, generator=seeded()).isfinite().all()


def test_an_attribute_that_only_diffusers_has_names_its_class(theirs, image, caplog):
    ours = LatentDiffusionPipeline.from_pipe(theirs)
    for name in ("load_ip_adapter", "load_textual_inversion"):
        assert not hasattr(ours, name) and hasattr(StableDiffusionPipeline.from_pipe(ours), name)
        with pytest.raises(AttributeError, match=rf"has no {name}: diffusers.StableDiffusionPipeline.from_pipe\(pipe"):
            getattr(ours, name)
    pipe = LatentDiffusionInpaintPipeline.from_pipe(theirs)
    edited(pipe, image, generator=seeded(), masked_image_latents=torch.zeros(1, 4, 8, 8))
    assert "masked_image_latents has no effect" in caplog.text
