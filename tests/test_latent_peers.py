"""What users of diffusers do with a latent diffusion pipeline besides calling it."""

from __future__ import annotations

import json

import diffusion_parts as parts
import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForText2Image, DiffusionPipeline, StableDiffusionPipeline
from transformers import CLIPTextConfig, CLIPTextModel

from t2i.diffusion.objective import DiffusionObjective
from t2i.pipelines import AutoPipeline, LatentDiffusionPipeline
from t2i.pipelines.latent_diffusion.inputs import read_masks

PROMPTS = ["a red cat", "a blue car on top of a tree"]
HOW = {"num_inference_steps": 4, "guidance_scale": 3.0}


@pytest.fixture
def ours() -> LatentDiffusionPipeline:
    return parts.pipeline()


@pytest.fixture
def theirs(ours, tmp_path) -> StableDiffusionPipeline:
    ours.save_pretrained(tmp_path)
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(pipe, callback=None, tell=("latents", "prompt_embeds"), **how) -> np.ndarray:
    how = {"generator": seeded(), "output_type": "np"} | HOW | how
    tell = {} if callback is None else {"callback_on_step_end_tensor_inputs": list(tell)}
    return pipe("a red cat", callback_on_step_end=callback, **tell, **how).images


# --- callbacks ------------------------------------------------------------------------------------------------------


def led(pipe, step, t, tensors):
    """One step of a guidance that needs a gradient of the denoiser."""
    with torch.enable_grad():
        x = tensors["latents"].detach().requires_grad_()
        states = tensors["prompt_embeds"][-1:]
        x0 = x - 0.5 * pipe.unet(x, t, encoder_hidden_states=states).sample
        (gradient,) = torch.autograd.grad(x0.square().sum(), x)
    return {"latents": tensors["latents"] - 0.01 * gradient}


def test_a_callback_can_ask_the_denoiser_for_gradients(ours, theirs):
    plain, guided = draw(ours), draw(ours, led)
    assert np.abs(guided - plain).max() > 0.01
    assert np.abs(guided - draw(theirs, led)).max() < 1e-3


def test_what_a_callback_changes_in_place_is_changed(ours, theirs):
    def silenced(pipe, step, t, tensors):
        tensors["prompt_embeds"].zero_()
        return tensors

    silent = draw(ours, silenced)
    assert np.abs(silent - draw(ours)).max() > 0.01
    assert np.abs(silent - draw(theirs, silenced)).max() < 1e-3


def test_a_callback_finds_the_sampler_at_work_and_the_pipeline_keeps_its_own(ours):
    own, seen = ours.scheduler, []

    def look(pipe, step, t, tensors):
        seen.append((type(pipe.scheduler).__name__, len(pipe.scheduler.timesteps)))
        return tensors

    draw(ours, look)
    draw(ours, look, scheduler="euler", num_inference_steps=2)
    assert seen == [("DDIMScheduler", 4)] * 4 + [("EulerDiscreteScheduler", 2)] * 2
    assert ours.scheduler is own

    def stop(pipe, step, t, tensors):
        raise KeyError("stopped")

    with pytest.raises(KeyError, match="stopped"):
        draw(ours, stop)
    assert ours.scheduler is own


# --- seeds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"scheduler": "euler-ancestral"}, {"scheduler": "ddpm"}, {"eta": 1.0}])
def test_how_many_are_drawn_at_once_changes_nothing(ours, how):
    """With one generator for all: the available memory must not change the images."""
    how = {"num_images_per_prompt": 3, "output_type": "latent", **HOW, **how}
    whole = ours(PROMPTS, generator=seeded(), **how).images
    ours.max_batch_bytes = 1
    assert torch.allclose(ours(PROMPTS, generator=seeded(), **how).images, whole, atol=1e-4)
    assert all((a - b).abs().max() > 0.1 for i, a in enumerate(whole) for b in whole[:i])


@pytest.mark.parametrize("how", [{"num_images_per_prompt": 3}, {"eta": 1.0}])
def test_one_generator_draws_what_it_draws_in_diffusers(ours, theirs, how):
    """Several images with a deterministic sampler, or one with any; the next call continues as in diffusers."""
    generators = seeded(), seeded()
    for _ in range(2):
        ours_drew, they_drew = (
            draw(pipe, generator=g, **how) for pipe, g in zip((ours, theirs), generators, strict=True)
        )
        assert np.abs(ours_drew - they_drew).max() < 1e-3


# --- files ----------------------------------------------------------------------------------------------------------


def test_every_loader_of_diffusers_opens_what_is_stable_diffusion(ours, tmp_path):
    ours.save_pretrained(tmp_path)
    for loader in (DiffusionPipeline, AutoPipelineForText2Image, StableDiffusionPipeline):
        assert type(loader.from_pretrained(tmp_path)) is StableDiffusionPipeline
    for loader in (AutoPipeline, LatentDiffusionPipeline):
        again = loader.from_pretrained(tmp_path)
        assert type(again) is LatentDiffusionPipeline
        again.set_progress_bar_config(disable=True)
        assert np.abs(draw(again) - draw(ours)).max() < 1e-5


def test_what_diffusers_cannot_draw_has_our_name(ours, tmp_path):
    flow = DiffusionObjective(prediction_type="flow").scheduler()
    others = {
        "flow": {"scheduler": flow},
        "t5": {"text_encoder": parts.t5(ours.tokenizer)},
        "dit": {"unet": parts.dit()},
    }
    for name, part in others.items():
        LatentDiffusionPipeline(**(ours.components | part)).save_pretrained(tmp_path / name)
        index = json.loads((tmp_path / name / "model_index.json").read_text())
        assert index["_class_name"] == "LatentDiffusionPipeline"
        assert type(AutoPipeline.from_pretrained(tmp_path / name)) is LatentDiffusionPipeline


# --- what else there is ---------------------------------------------------------------------------------------------


def test_stable_diffusion_s_switches_are_there_and_change_no_more_than_they_say(ours):
    plain = draw(ours)
    ours.vae.enable_slicing()
    ours.fuse_qkv_projections()
    assert np.abs(draw(ours) - plain).max() < 1e-4
    ours.unfuse_qkv_projections()
    ours.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    assert np.abs(draw(ours) - plain).max() > 1e-3
    ours.disable_freeu()
    assert np.abs(draw(ours) - plain).max() < 1e-4


def test_prompts_are_encoded_once_for_several_pictures(ours):
    states, against = ours.encode_prompt(PROMPTS, "cpu", 2, True)  # in diffusers' order
    assert states.shape[0] == against.shape[0] == 4
    assert torch.equal(states[0], states[1]) and not torch.equal(states[1], states[2])


def test_masks_come_in_all_the_shapes_that_diffusers_takes():
    mask = (torch.arange(64).view(8, 8) % 3 == 0).float()
    want = mask.bool()[None, None]
    for given in (mask, mask[None], mask[None, None], mask.numpy(), mask.numpy()[None, :, :, None]):
        assert torch.equal(read_masks(given, 2, (8, 8)), want)
    assert torch.equal(read_masks((255 * mask).byte().numpy(), 2, (8, 8)), want)
    assert torch.equal(read_masks(torch.stack([mask, mask]), 2, (8, 8)), want.expand(2, 1, 8, 8))


def test_a_public_text_encoder_may_have_room_for_more_tokens_than_there_are(ours, theirs, tmp_path, caplog):
    config = ours.text_encoder.config
    for more, folder in ((1.9, tmp_path / "some"), (5, tmp_path / "most")):
        sizes = config.to_dict() | {"vocab_size": int(more * config.vocab_size)}
        theirs.text_encoder = CLIPTextModel(CLIPTextConfig(**sizes)).eval()
        theirs.save_pretrained(folder)
    caplog.clear()
    assert type(AutoPipeline.from_pretrained(tmp_path / "some")) is StableDiffusionPipeline
    assert "tokens only, the text encoder a vocabulary of" in caplog.text
    with pytest.raises(ValueError, match=r"tokens, the text encoder a vocabulary of .* do not belong together"):
        AutoPipeline.from_pretrained(tmp_path / "most")
    ours.text_encoder = StableDiffusionPipeline.from_pretrained(tmp_path / "some").text_encoder
    ours.save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match="do not belong together"):
        AutoPipeline.from_pretrained(tmp_path / "ours")


def test_each_component_may_have_a_precision_of_its_own(ours, theirs, tmp_path):
    dtypes = {"unet": torch.bfloat16, "default": torch.float16}
    for pipe, folder in ((ours, tmp_path / "ours"), (theirs, tmp_path / "theirs")):
        pipe.save_pretrained(folder)
        for how in ({"dtype": dtypes}, {"torch_dtype": dtypes}):
            again = AutoPipeline.from_pretrained(folder, **how)
            assert type(again) is type(pipe)
            found = {name: getattr(again, name).dtype for name in ("unet", "vae", "text_encoder")}
            assert found == {"unet": torch.bfloat16, "vae": torch.float16, "text_encoder": torch.float16}
    only = AutoPipeline.from_pretrained(tmp_path / "ours", dtype={"unet": torch.bfloat16})
    assert (only.unet.dtype, only.vae.dtype) == (torch.bfloat16, torch.float32)
    with pytest.raises(ValueError, match=r"single file have one dtype: give a torch.dtype"):
        AutoPipeline.from_pretrained(tmp_path / "model.safetensors", dtype=dtypes)
