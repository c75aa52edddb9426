"""The Imagen pipeline: a cascade in pixels."""

from __future__ import annotations

import json
from dataclasses import replace

import imagen_parts as parts
import numpy as np
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    IFPipeline,
    IFSuperResolutionPipeline,
    UNet2DConditionModel,
)
from diffusion_parts import TEXT_WIDTH
from PIL import Image
from torch import Tensor

from t2i.cli import main
from t2i.diffusion.guidance import threshold_prediction
from t2i.diffusion.noise_augmentation import upsample
from t2i.pipelines import AutoPipeline, ImagenPipeline
from t2i.pipelines.imagen import pipeline as imagen

PROMPTS = ["a red cat", "a blue car on top of a tree"]
HOW = {"num_inference_steps": 3, "output_type": "pt"}


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def generate(pipe, prompt=PROMPTS[0], **how) -> Tensor:
    return pipe(prompt, **HOW | {"generator": seeded(0)} | how).images


@pytest.fixture(scope="module")
def base() -> ImagenPipeline:
    return parts.pipeline(sr=0)


@pytest.fixture(scope="module")
def cascade() -> ImagenPipeline:
    return parts.pipeline()


# --- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sr", [0, 1, 2])
def test_each_super_resolution_model_enlarges_the_images(sr):
    pipe = parts.pipeline(sr)
    assert pipe.image_size == 8 * 2**sr == generate(pipe).shape[-1]
    assert pipe("a red cat", num_inference_steps=2).images[0].size == (pipe.image_size,) * 2
    array = generate(pipe, output_type="np")
    assert array.shape == (1, pipe.image_size, pipe.image_size, 3) and 0 <= array.min() <= array.max() <= 1


@pytest.mark.parametrize("scheduler", [None, "ddpm", "euler", "heun"])
def test_a_batch_is_its_images(cascade, scheduler):
    """Each depends on its own generator only, in batches of any size, also where the sampler adds noise."""
    both = generate(cascade, PROMPTS, generator=seeded(3, 4), scheduler=scheduler)
    for i, seed in enumerate((3, 4)):
        one = generate(cascade, PROMPTS[i], generator=seeded(seed), scheduler=scheduler)
        assert torch.allclose(both[i], one[0], atol=1e-4)
    cascade.max_batch_bytes = 1
    one_by_one = generate(cascade, PROMPTS, generator=seeded(3, 4), scheduler=scheduler)
    cascade.max_batch_bytes = None
    assert torch.allclose(one_by_one, both, atol=1e-4)
    assert (both[0] - both[1]).abs().max() > 1e-2


def test_several_images_per_prompt_are_those_of_their_generators(cascade):
    four = generate(cascade, PROMPTS, num_images_per_prompt=2, generator=seeded(0, 1, 0, 1))
    for i, (prompt, seed) in enumerate([(p, s) for p in PROMPTS for s in (0, 1)]):
        assert torch.allclose(four[i], generate(cascade, prompt, generator=seeded(seed))[0], atol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_guidance_of_1_is_the_conditional_model(base, scale):
    """Then a negative prompt has no effect, which is logged."""
    plain = generate(base, guidance_scale=scale)
    assert torch.equal(generate(base, guidance_scale=scale, negative_prompt="a dog"), plain)
    # Guidance at exactly 1, with both halves computed: u + 1 (c − u).
    assert torch.allclose(generate(base, guidance_scale=1.0 + 1e-6), plain, atol=1e-3)
    assert (generate(base, guidance_scale=4.0) - plain).abs().max() > 1e-3


def test_the_negative_prompt_of_guidance_is_by_default_the_empty_one(base):
    default = generate(base)
    assert torch.equal(generate(base, negative_prompt=""), default)
    assert (generate(base, negative_prompt="a dog") - default).abs().max() > 1e-4


def test_augmentation_level_0_conditions_on_the_clean_image(cascade, base, monkeypatch):
    small, seen = generate(base) * 2 - 1, []
    original = cascade.sr_unet.forward

    def forward(sample, timestep, states, mask, augmentation_level):
        seen.append((sample[:, 3:], augmentation_level))
        return original(sample, timestep, states, mask, augmentation_level)

    monkeypatch.setattr(cascade.sr_unet, "forward", forward)
    for level in (0.0, 0.5):
        generate(cascade, augmentation_level=level)
        grid, given = seen[-1]
        assert given == level
        assert torch.allclose(grid[-1:], upsample(small, parts.LARGE), atol=1e-5) == (level == 0)


def test_every_stage_has_its_own_options(cascade):
    """One value for all stages is the same as that value for each."""
    options = {"guidance_scale": (4.0, 1.0), "thresholding": ("static", "dynamic"), "num_inference_steps": (2, 3)}
    out = generate(cascade, **options)
    assert (generate(cascade, **options | {"guidance_scale": (1.0, 4.0)}) - out).abs().max() > 1e-3
    once = {"guidance_scale": 2.0, "thresholding": "static", "num_inference_steps": 2, "augmentation_level": 0.3}
    each = {name: [value] * 2 for name, value in once.items()} | {"augmentation_level": [0.3]}
    assert torch.equal(generate(cascade, **once), generate(cascade, **each))


@pytest.mark.parametrize("kind", ["v_prediction", "sample", "epsilon"])
def test_thresholding_bounds_x0_at_every_step(kind, monkeypatch):
    """Static thresholding clips it, dynamic thresholding at percentile 1 scales it; without, it is far outside."""
    pipe, seen = parts.pipeline(0, kind), {}

    def spy(config, predicted, x, t, threshold):
        before = parts.COSINE.split(kind, predicted, x, t.reshape(1))[0]
        thresholded = threshold_prediction(config, predicted, x, t, threshold)
        seen.setdefault(name, []).append((before, threshold(before)))
        return thresholded

    monkeypatch.setattr(imagen, "threshold_prediction", spy)
    for name, options in {"static": {}, "dynamic": {"percentile": 1.0}, "none": {}}.items():
        generate(pipe, guidance_scale=20.0, thresholding=name, **options)
    assert set(seen) == {"static", "dynamic"} and len(seen["static"]) == 3
    for before, after in seen["static"]:
        assert torch.equal(after, before.clamp(-1, 1))
    assert any(before.abs().max() > 1.5 for before, _ in seen["static"])
    for before, after in seen["dynamic"]:
        assert torch.allclose(after, before / before.abs().max().clamp(min=1), atol=1e-6)


@pytest.mark.parametrize("text", ["t5", "clip"])
def test_text_padding_does_not_matter(text, monkeypatch):
    """The states of padding are masked, for CLIP too."""
    pipe = parts.pipeline(1, text=text)
    out, encode = generate(pipe), pipe._encode

    def longer(prompts):
        given = encode(prompts)
        assert not given.mask.all()
        states = torch.where(given.mask[..., None], given.states, 9.0)
        more = torch.randn(len(states), 5, TEXT_WIDTH)
        mask = torch.cat([given.mask, torch.zeros(len(states), 5, dtype=torch.bool)], 1)
        return replace(given, states=torch.cat([states, more], 1), mask=mask)

    monkeypatch.setattr(pipe, "_encode", longer)
    assert torch.allclose(generate(pipe), out, atol=1e-4)


@pytest.mark.parametrize("sr", [0, 1])
def test_save_and_load_give_the_same_image(sr, tmp_path):
    pipe = parts.pipeline(sr)
    pipe.save_pretrained(tmp_path)
    again = AutoPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert type(again) is ImagenPipeline
    assert torch.allclose(generate(again), generate(pipe), atol=1e-5)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["unet"] == ["t2i.diffusion.efficient_unet", "EfficientUNet"]


def test_images_that_are_not_finite_are_an_error():
    pipe = parts.pipeline(0)
    pipe.unet.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"images are not finite in torch.float32: lower the guidance_scale"):
        generate(pipe)


def test_half_precision_generates(cascade, tmp_path):
    cascade.save_pretrained(tmp_path)
    half = AutoPipeline.from_pretrained(tmp_path, torch.bfloat16)
    assert half.unet.dtype == torch.bfloat16 and generate(half).isfinite().all()


# --- callbacks ------------------------------------------------------------------------------------------------------


def test_a_callback_sees_every_step_of_every_stage_and_may_change_it(cascade):
    seen = []

    def zero(pipe, step, timestep, tensors):
        seen.append((step, int(timestep), tuple(tensors["images"].shape)))
        return {"images": torch.zeros_like(tensors["images"])}

    assert torch.equal(generate(cascade, callback_on_step_end=zero), torch.full((1, 3, 16, 16), 0.5))
    assert [step for step, *_ in seen] == list(range(6))
    assert [shape for *_, shape in seen] == [(1, 3, 8, 8)] * 3 + [(1, 3, 16, 16)] * 3
    assert seen[0][1] == seen[3][1] == 999


def test_an_interrupted_call_returns_images_of_the_last_stages_size(cascade):
    steps = []

    def stop(pipe, step, timestep, tensors):
        steps.append(step)
        pipe._interrupt = step == 1
        return {}

    assert generate(cascade, callback_on_step_end=stop).shape == (1, 3, 16, 16)
    assert steps == [0, 1]
    assert generate(cascade).shape == (1, 3, 16, 16), "the next call runs"


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"guidance_scale": (2.0, 2.0, 2.0)}, "guidance_scale has 3 values for 2 stages"),
        ({"augmentation_level": (0.1, 0.2)}, "augmentation_level has 2 values for 1 super-resolution stages"),
        ({"augmentation_level": 1.5}, r"augmentation_level must lie in \[0, 1\]"),
        ({"guidance_scale": -1}, "guidance_scale must be at least 0"),
        ({"num_inference_steps": 0}, "at least 1"),
        ({"num_inference_steps": 2000}, "at most 1000"),
        ({"percentile": 0.0}, r"percentile must lie in \(0, 1\]"),
        ({"percentile": 0.9, "thresholding": "static"}, "a percentile belongs to dynamic thresholding"),
        ({"thresholding": "hard"}, "choose one of dynamic, static, none"),
        ({"output_type": "latent"}, "generates pixels, not latents"),
        ({"output_type": "jpeg"}, "unknown output_type"),
        ({"height": 8}, "generates images of 16×16"),
        ({"generator": seeded(0, 1)}, "1 images need 1 generators"),
        ({"negative_prompt": ["a", "b"]}, "as many negative prompts"),
        ({"callback_on_step_end_tensor_inputs": ["latents"]}, "no tensor 'latents'"),
        ({"scheduler": "eular"}, "did you mean euler"),
        ({"num_images_per_prompt": 0}, "at least 1"),
    ],
)
def test_invalid_arguments_are_refused(cascade, wrong, says):
    with pytest.raises(ValueError, match=says):
        cascade(**({"prompt": "a red cat"} | wrong))


def test_options_without_effect_are_logged(base, cascade, caplog):
    generate(base, augmentation_level=0.2)
    generate(base, guidance_scale=1.0, negative_prompt="a dog")
    generate(base, negative_prompt="a green cat")
    generate(cascade, eta=0.5)
    said = [record.getMessage() for record in caplog.records]
    assert [line.split()[0] for line in said] == ["augmentation_level", "negative_prompt", "eta"]


def test_models_that_do_not_follow_each_other_are_refused(cascade):
    given = cascade.components
    with pytest.raises(ValueError, match=r"takes images of 16×16, the stage before generates 8×8: .*imagen-sr --base"):
        ImagenPipeline(**given | {"sr_unet": parts.unet(16, 32)})
    with pytest.raises(ValueError, match="sr_unet takes no low-resolution image"):
        ImagenPipeline(**given | {"sr_unet": parts.unet()})
    with pytest.raises(ValueError, match=r"unet is a super-resolution model: .* t2i train imagen-base"):
        ImagenPipeline(**given | {"unet": given["sr_unet"]})
    with pytest.raises(ValueError, match="sr_unet and its scheduler belong together"):
        ImagenPipeline(**given | {"sr_scheduler": None})
    other = parts.EfficientUNet(8, 16, **parts.SIZES)
    with pytest.raises(ValueError, match="text states of width 16, the text encoder's have 32"):
        ImagenPipeline(**given | {"unet": other})


# --- commands -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(cascade, tmp_path_factory):
    out = tmp_path_factory.mktemp("imagen")
    cascade.save_pretrained(out)
    return str(out)


def test_the_command_generates(folder, tmp_path, capsys):
    given = ["generate", "a red cat", "--pipeline", folder, "--num-images", "1", "--num-inference-steps", "2"]
    options = ["--guidance-scale", "4", "--thresholding", "static", "--augmentation-level", "0.3"]
    main([*given, *options, "--out", f"{tmp_path}/"])
    [file] = tmp_path.glob("*.png")
    with Image.open(file) as image:
        settings = json.loads(image.text["settings"])
        assert image.size == (16, 16)
    assert settings["thresholding"] == "static" and settings["augmentation_level"] == 0.3
    pipe = AutoPipeline.from_pretrained(folder)
    how = {"guidance_scale": 4.0, "thresholding": "static", "augmentation_level": 0.3, "num_inference_steps": 2}
    again = pipe("a red cat", **how, generator=seeded(0)).images[0]
    with Image.open(file) as image:
        assert np.abs(np.asarray(image, int) - np.asarray(again, int)).max() <= 1


def test_what_only_imagen_has_is_refused_by_other_systems(folder, tmp_path):
    out = ["--out", str(tmp_path / "x.png")]
    with pytest.raises(SystemExit, match="toybox/ldm takes no --thresholding"):
        main(["generate", "a cat", "--pipeline", "toybox/ldm", "--thresholding", "static", *out])
    with pytest.raises(SystemExit, match="takes no --top-k"):
        main(["generate", "a cat", "--pipeline", folder, "--top-k", "3", *out])
    with pytest.raises(SystemExit, match=r"--percentile must lie in \(0, 1\]"):
        main(["generate", "a cat", "--pipeline", folder, "--percentile", "2", *out])


def test_it_is_evaluated_as_any_system(folder, tmp_path):
    options = ["--num-images", "4", "--num-inference-steps", "1", "--augmentation-level", "0.2"]
    main(["eval", folder, "--metrics", "compositional", *options, "--out", str(tmp_path / "report")])
    header = json.loads((tmp_path / "report" / "manifest.json").read_text())["header"]
    assert header["class"] == "ImagenPipeline" and header["options"]["augmentation_level"] == 0.2
    assert {"unet", "sr_unet", "text_encoder"} == set(header["weights_sha256"])


# --- DeepFloyd IF ---------------------------------------------------------------------------------------------------


def if_unet(channels: int, **options) -> UNet2DConditionModel:
    torch.manual_seed(6)
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=channels,
        out_channels=6,  # with the variance
        block_out_channels=(16, 16),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        encoder_hid_dim=TEXT_WIDTH,
        encoder_hid_dim_type="text_proj",
        attention_head_dim=8,
        norm_num_groups=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        **options,
    ).eval()


@pytest.mark.filterwarnings("ignore")
def test_folders_of_deepfloyd_if_open(base, tmp_path):
    """In diffusers' own classes, and generate what they do there."""
    scheduler = DDPMScheduler(variance_type="learned_range", beta_schedule="squaredcos_cap_v2", thresholding=True)
    text = {"tokenizer": base.tokenizer, "text_encoder": base.text_encoder}
    none = dict.fromkeys(("safety_checker", "feature_extractor", "watermarker"))
    first = IFPipeline(**text, unet=if_unet(3), scheduler=scheduler, **none, requires_safety_checker=False)
    options = {"class_embed_type": "timestep", "act_fn": "gelu"}
    second = IFSuperResolutionPipeline(
        **text,
        unet=if_unet(6, **options),
        scheduler=scheduler,
        image_noising_scheduler=DDPMScheduler(),
        **none,
        requires_safety_checker=False,
    )
    image = torch.rand(1, 3, 8, 8) * 2 - 1
    for pipe, given in ((first, {}), (second, {"image": image, "height": 16, "width": 16})):
        folder = tmp_path / type(pipe).__name__
        pipe.save_pretrained(folder)
        opened = AutoPipeline.from_pretrained(folder)
        assert type(opened) is type(pipe)
        how = {"num_inference_steps": 2, "output_type": "pt", **given}
        ours, theirs = (p("a red cat", generator=seeded(0)[0], **how).images for p in (opened, pipe))
        assert torch.allclose(ours, theirs, atol=1e-4)
    given, out = ["--pipeline", str(tmp_path / "IFPipeline"), "--num-images", "1"], tmp_path / "cat.png"
    main(["generate", "a cat", *given, "--num-inference-steps", "2", "--out", str(out)])
    assert out.is_file()
