"""Checkpoints saved by diffusers: Stable Diffusion folders and single files, in Python and by commands."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path

import diffusion_parts as parts
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    DDIMScheduler,
    DDPMPipeline,
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LDMPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from t2i.cli import main
from t2i.data.toybox_v1 import Scene, Thing
from t2i.pipelines import AutoPipeline, LatentDiffusionPipeline

SIZE = 8 * parts.SIDE
HOW = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "np"}
TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TOWER |= {"image_size": 32, "patch_size": 16}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def images(pipe, **how) -> np.ndarray:
    return quiet(pipe)("a red cat", **HOW | {"generator": seeded()} | how).images


@pytest.fixture(scope="module")
def components() -> dict:
    return parts.pipeline().components


@pytest.fixture
def theirs(components) -> StableDiffusionPipeline:
    return quiet(StableDiffusionPipeline(**components, requires_safety_checker=False))


@pytest.fixture
def image() -> Image.Image:
    return Scene((Thing("armchair", "avocado"),)).render(SIZE)


@pytest.fixture
def mask() -> Image.Image:
    white = np.zeros((SIZE, SIZE), np.uint8)
    white[16:48, 8:40] = 255
    return Image.fromarray(white)


# --- folders --------------------------------------------------------------------------------------------------------


def change(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def old_sampler(folder: Path) -> None:
    change(folder / "scheduler" / "scheduler_config.json", clip_sample=True, steps_offset=0)


def from_before_0_9(folder: Path) -> None:
    change(folder / "unet" / "config.json", _diffusers_version="0.8.0", sample_size=32)


def with_further_parts(folder: Path) -> None:
    torch.manual_seed(0)
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=TOWER, projection_dim=8))
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(-2.0)  # objects to every image
    feature = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**TOWER, projection_dim=8))
    further = {"safety_checker": checker, "feature_extractor": feature, "image_encoder": tower}
    StableDiffusionPipeline(**pipe.components | further).save_pretrained(folder)


@pytest.mark.parametrize("made", [old_sampler, from_before_0_9, with_further_parts])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_folder_opens_as_diffusers_opens_it(theirs, tmp_path, made):
    theirs.scheduler = DDIMScheduler(clip_sample=False, steps_offset=1)
    theirs.save_pretrained(tmp_path)
    made(tmp_path)
    want, got = StableDiffusionPipeline.from_pretrained(tmp_path), AutoPipeline.from_pretrained(tmp_path)
    assert type(got) is StableDiffusionPipeline
    how = {"num_inference_steps": 1, "output_type": "latent"} if made is from_before_0_9 else {}
    expected, found = (quiet(pipe)("a red cat", **HOW | how, generator=seeded()) for pipe in (want, got))
    assert np.array_equal(expected.images, found.images)
    assert expected.nsfw_content_detected == found.nsfw_content_detected
    assert found.images.shape[1:3] == ((4, 64) if made is from_before_0_9 else (SIZE, SIZE))  # 512 pixels wide
    # With the components that diffusers has corrected, our class generates the same image.
    ours = LatentDiffusionPipeline.from_pipe(got)
    assert np.abs(np.asarray(images(ours, **how)) - np.asarray(expected.images)).max() < 1e-4


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_outdated_configs_are_corrected_as_by_diffusers(components, tmp_path):
    old = DDIMScheduler(clip_sample=True, steps_offset=0)
    ours = LatentDiffusionPipeline(**components | {"scheduler": old})
    ours.save_pretrained(tmp_path)
    assert np.abs(images(ours) - images(DiffusionPipeline.from_pretrained(tmp_path))).max() < 1e-4


def test_only_what_t2i_saved_opens_as_ours(components, tmp_path):
    LatentDiffusionPipeline(**components).save_pretrained(tmp_path)
    theirs = DiffusionPipeline.from_pretrained(tmp_path)
    theirs.save_pretrained(tmp_path / "again")
    assert type(theirs) is StableDiffusionPipeline
    assert type(AutoPipeline.from_pretrained(tmp_path)) is LatentDiffusionPipeline
    assert type(AutoPipeline.from_pretrained(tmp_path / "again")) is StableDiffusionPipeline


@pytest.mark.parametrize("cls", [StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline])
def test_pipelines_of_other_tasks_open_as_what_they_are(components, cls, tmp_path):
    cls(**components, requires_safety_checker=False).save_pretrained(tmp_path)
    assert type(AutoPipeline.from_pretrained(tmp_path)) is cls


def test_textual_inversion_and_ip_adapter_are_diffusers_own(theirs, image, tmp_path):
    torch.manual_seed(0)
    theirs.save_pretrained(tmp_path)
    # The denoiser and text encoder are changed, so they must not be those shared by tests.
    pipe = AutoPipeline.from_pretrained(
        tmp_path,
        image_encoder=CLIPVisionModelWithProjection(CLIPVisionConfig(**TOWER, projection_dim=8)),
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    )
    plain = images(pipe)
    save_file({"<thing>": torch.randn(1, parts.TEXT_WIDTH)}, tmp_path / "word.safetensors")
    pipe.load_textual_inversion(tmp_path, weight_name="word.safetensors", token="<thing>")
    with_word = quiet(pipe)("a <thing>", **HOW, generator=seeded()).images
    assert np.abs(with_word - quiet(pipe)("a thing", **HOW, generator=seeded()).images).max() > 1e-3
    width, tokens = parts.TEXT_WIDTH, 4
    adapter = {
        "image_proj.proj.weight": torch.randn(tokens * width, 8),
        "image_proj.proj.bias": torch.randn(tokens * width),
        "image_proj.norm.weight": torch.ones(width),
        "image_proj.norm.bias": torch.zeros(width),
    }
    attentions = [a.to_k.weight for name, a in pipe.unet.named_modules() if name.endswith("attn2")]
    for i, weight in enumerate(attentions):
        adapter |= {f"ip_adapter.{2 * i + 1}.to_{kind}_ip.weight": torch.randn_like(weight) for kind in "kv"}
    save_file(adapter, tmp_path / "ip.safetensors")
    pipe.load_ip_adapter(tmp_path, subfolder="", weight_name="ip.safetensors", image_encoder_folder=None)
    assert np.abs(images(pipe, ip_adapter_image=image) - plain).max() > 1e-3
    with pytest.raises(ValueError, match=r"has an IP-Adapter.*StableDiffusionPipeline\.from_pipe"):
        images(LatentDiffusionPipeline.from_pipe(pipe))


# --- single files ---------------------------------------------------------------------------------------------------

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}
RESNET |= {"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}


def original_name(name: str) -> str:
    """The name of a U-Net weight in original files, for the two levels with one layer of the tests' U-Net."""
    if found := re.match(r"time_embedding\.linear_(\d)\.(.*)", name):
        return f"time_embed.{2 * int(found[1]) - 2}.{found[2]}"
    for ours, original in (("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2")):
        if name.startswith(f"{ours}."):
            return name.replace(ours, original)
    where, block, kind, layer, rest = re.match(r"(\w+?)_blocks?(?:\.(\d))?\.(\w+)\.(\d)\.(.*)", name).groups()
    if kind == "resnets":
        part, end = rest.split(".")
        rest = f"{RESNET[part]}.{end}"
    place = {"resnets": "0", "attentions": "1"}.get(kind)
    if where == "mid":
        return f"middle_block.{2 * int(layer) + (kind == 'attentions')}.{rest}"
    at = 2 * int(block) + int(layer) + (where == "down")
    if kind == "downsamplers":
        return f"input_blocks.{at + 1}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{at + 1}.1.{rest}"
    return f"{'input' if where == 'down' else 'output'}_blocks.{at}.{place}.{rest}"


@pytest.fixture
def original(theirs) -> dict[str, torch.Tensor]:
    """Names and weights of an original file, without the autoencoder."""
    weights = {f"model.diffusion_model.{original_name(k)}": v for k, v in theirs.unet.state_dict().items()}
    text = theirs.text_encoder.state_dict().items()
    return weights | {f"cond_stage_model.transformer.text_model.{k}": v.contiguous() for k, v in text}


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_a_single_file_gives_the_image_of_its_folder(theirs, original, name, tmp_path):
    theirs.save_pretrained(tmp_path / "folder")
    file = tmp_path / name
    save_file(original, file) if file.suffix == ".safetensors" else torch.save({"state_dict": original}, file)
    for opened in (AutoPipeline.from_pretrained, AutoPipeline.from_single_file):
        pipe = opened(file, config=str(tmp_path / "folder"), vae=theirs.vae)
        assert type(pipe) is StableDiffusionPipeline
        assert np.array_equal(images(pipe), images(theirs))


def test_a_file_that_is_no_pipeline_is_refused_in_one_sentence_and_runs_nothing(theirs, original, tmp_path):
    theirs.save_pretrained(tmp_path / "folder")
    save_file(original, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:1000])
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    save_file({"unet.x.lora_A.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")

    class Payload:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"a": torch.zeros(1), "b": Payload()}, tmp_path / "code.ckpt")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(Payload()))
    refused = {
        "cut.safetensors": "cut.safetensors cannot be read as weights: it is damaged",
        "code.ckpt": "holds other things than tensors",
        "pickle.ckpt": "holds other things than tensors",
        "other.safetensors": "does not hold the weights of a StableDiffusionPipeline",
        "lora.safetensors": "holds a LoRA",
        "none.safetensors": "there is no file .*none.safetensors",
    }
    for name, says in refused.items():
        with pytest.raises((ValueError, FileNotFoundError), match=says) as error:
            AutoPipeline.from_pretrained(tmp_path / name, config=str(tmp_path / "folder"))
        assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(FileNotFoundError, match=r"holds only weights, and the pipeline config .* give config=FOLDER"):
        AutoPipeline.from_pretrained(tmp_path / "whole.safetensors", local_files_only=True)


# --- our class and diffusers' ---------------------------------------------------------------------------------------


def test_every_option_of_a_call_does_what_it_does_in_diffusers(components, theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    theirs = AutoPipeline.from_pretrained(tmp_path)  # with clip_skip, which transformers 5 has broken
    ours = LatentDiffusionPipeline.from_pipe(theirs)
    plain = images(ours)
    sampler = EulerDiscreteScheduler.from_config(theirs.scheduler.config)
    for how in (
        {"clip_skip": 1},
        {"timesteps": [999, 500, 20], "num_inference_steps": None},
        {"sigmas": [12.0, 3.0, 1.0, 0.0], "num_inference_steps": None},
        {"cross_attention_kwargs": {"scale": 0.5}},
        {"eta": 0.7},
    ):
        for pipe in (ours, theirs):
            pipe.scheduler = sampler if "sigmas" in how or "timesteps" in how else components["scheduler"]
        got = images(ours, **how)
        assert np.abs(got - images(theirs, **how)).max() < 1e-4
        assert ("scale" in str(how)) == (np.abs(got - plain).max() < 1e-4)


@pytest.mark.parametrize("strength", [0.7, 1.0])
@pytest.mark.parametrize("sampler", [DDIMScheduler, EulerAncestralDiscreteScheduler])
@pytest.mark.parametrize("number", [1, 2])
def test_one_generator_is_used_in_diffusers_order(theirs, image, mask, sampler, number, strength):
    """Encoding, then noise; for several images, with samplers that add no noise themselves."""
    if number > 1 and sampler is not DDIMScheduler:
        pytest.skip("each image's later noise is from a generator of its own here")
    theirs.scheduler = sampler.from_config(theirs.scheduler.config)
    how = {"image": image, "strength": strength, "num_images_per_prompt": number, "num_inference_steps": 5}
    how |= {"output_type": "latent"}
    tasks = [(StableDiffusionInpaintPipeline, AutoPipelineForInpainting, {"mask_image": mask})]
    if strength < 1:  # at 1 nothing of the image is kept here, but a trace in diffusers' img2img
        tasks.append((StableDiffusionImg2ImgPipeline, AutoPipelineForImage2Image, {}))
    for cls, loader, more in tasks:
        other = cls.from_pipe(theirs)
        ours = loader.from_pipe(LatentDiffusionPipeline.from_pipe(theirs))
        size = {"height": SIZE, "width": SIZE} if more else {}
        generators = seeded(3), seeded(3)
        want = images(other, **how | more | size, generator=generators[0])
        got = images(ours, **how | more, generator=generators[1])
        assert (got - want).abs().max() < 1e-3
        assert torch.equal(*(g.get_state() for g in generators))


def test_editing_with_a_tiny_autoencoder_is_diffusers_own(theirs, image, mask):
    torch.manual_seed(0)
    channels = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    blocks = {"num_encoder_blocks": (1,) * 4, "num_decoder_blocks": (1,) * 4}
    theirs.vae = AutoencoderTiny(latent_channels=parts.CHANNELS, **channels, **blocks).eval()
    ours = LatentDiffusionPipeline.from_pipe(theirs)
    how = {"image": image, "strength": 0.7, "num_inference_steps": 5, "output_type": "latent"}
    for loader, more in ((AutoPipelineForImage2Image, {}), (AutoPipelineForInpainting, {"mask_image": mask})):
        size = {"height": SIZE, "width": SIZE} if more else {}
        want, got = (images(loader.from_pipe(pipe), **how | more | size) for pipe in (theirs, ours))
        assert (got - want).abs().max() < 1e-3


def test_parts_may_be_missing_where_they_are_not_needed(components):
    text = {"text_encoder", "tokenizer"}
    encoder = LatentDiffusionPipeline(**{k: v if k in text else None for k, v in components.items()})
    states, against = encoder.encode_prompt("a red cat", "cpu", 1, True)
    rest = LatentDiffusionPipeline(**{k: None if k in text else v for k, v in components.items()})
    got = quiet(rest)(prompt_embeds=states, negative_prompt_embeds=against, **HOW, generator=seeded()).images
    assert np.array_equal(got, images(LatentDiffusionPipeline(**components)))
    for pipe, says in ((encoder, "has no unet"), (rest, "has no text encoder with a tokenizer: give prompt_embeds")):
        with pytest.raises(ValueError, match=says):
            images(pipe)


def test_a_denoiser_of_images_that_are_not_square(components):
    unet = UNet2DConditionModel.from_config(components["unet"].config, sample_size=[4, 8])
    ours = LatentDiffusionPipeline(**components | {"unet": unet})
    assert images(ours, num_inference_steps=1).shape == (1, 32, 64, 3)
    assert quiet(ours)("a cat", 64, 32, 1, output_type="np").images.shape == (1, 64, 32, 3)  # diffusers' argument order
    with pytest.raises(ValueError, match="trained on images of 32×64"):
        ours.image_size  # noqa: B018 - raises


def test_pipelines_with_other_parts_are_refused(components):
    vae, unet, scheduler = (components[name] for name in ("vae", "unet", "scheduler"))
    with pytest.raises(ValueError, match="does not take a LDMPipeline's vqvae"):
        LatentDiffusionPipeline.from_pipe(LDMPipeline(vae, unet, scheduler))
    with pytest.raises(ValueError, match="needs a vae, which a DDPMPipeline does not have"):
        LatentDiffusionPipeline.from_pipe(DDPMPipeline(unet, scheduler))


@pytest.mark.filterwarnings("error::DeprecationWarning:diffusers")
def test_casts_and_calls_log_no_needless_warning(components, caplog):
    ours = LatentDiffusionPipeline(**components)
    images(ours, scheduler="dpm++")
    ours.to(torch.bfloat16).to(torch.float32)
    assert "float32" not in caplog.text


# --- commands -------------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(theirs, image, mask, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    image.save("photo.png")
    mask.save("mask.png")
    theirs.save_pretrained("sd")
    return tmp_path


def command(*args: str) -> np.ndarray:
    shutil.rmtree("o", ignore_errors=True)  # otherwise existing names get a number
    main([*args, "--pipeline", "sd", "--num-images", "1", "--num-inference-steps", "3", "--out", "o/"])
    return np.asarray(Image.open(f"o/{'variation' if len(args) < 3 else 'a-red-cat'}-0.png")).astype(int)


def test_commands_make_diffusers_images(elsewhere, theirs, image, mask):
    how = {"num_inference_steps": 3, "generator": [seeded()]}
    plain = theirs("a red cat", **how).images[0]
    assert np.abs(command("generate", "a red cat", "--seed", "0") - np.asarray(plain)).max() <= 1
    edited = StableDiffusionImg2ImgPipeline.from_pipe(theirs)
    want = quiet(edited)("a red cat", image, 0.7, num_inference_steps=3, generator=[seeded()]).images[0]
    got = command("edit", "photo.png", "a red cat", "--strength", "0.7")
    assert np.abs(got - np.asarray(want)).max() <= 1
    got, white = command("inpaint", "photo.png", "mask.png", "a red cat"), np.asarray(mask) > 0
    assert (got[~white] == np.asarray(image)[~white]).all()
    assert (got[white] != np.asarray(image)[white]).any()
    other = command("generate", "a red cat", "--scheduler", "euler-ancestral")
    assert np.abs(other - np.asarray(plain)).max() > 1


def test_an_editing_folder_generates_and_an_inpainting_model_says_which_command_it_is_for(
    elsewhere, theirs, components
):
    plain = command("generate", "a red cat", "--seed", "0")
    StableDiffusionImg2ImgPipeline(**components, requires_safety_checker=False).save_pretrained("sd")
    assert np.array_equal(command("generate", "a red cat", "--seed", "0"), plain)
    wide = UNet2DConditionModel.from_config(components["unet"].config, in_channels=9)
    of_nine = components | {"unet": wide, "requires_safety_checker": False}
    StableDiffusionInpaintPipeline(**of_nine).save_pretrained("sd")
    command("inpaint", "photo.png", "mask.png", "a red cat")
    for args in (["generate", "a red cat"], ["edit", "photo.png", "a red cat"]):
        with pytest.raises(SystemExit, match="sd is for inpainting alone: t2i inpaint IMAGE MASK --pipeline sd"):
            command(*args)
