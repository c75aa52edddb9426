"""The latent diffusion pipeline."""

from __future__ import annotations

import logging
from functools import cache

import diffusion_parts as parts
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, EulerAncestralDiscreteScheduler, PNDMScheduler
from diffusers import StableDiffusionPipeline as Diffusers
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor

from t2i.checks import UsageError
from t2i.diffusion.objective import DiffusionObjective
from t2i.diffusion.schedule import NoiseSchedule
from t2i.pipelines import AutoPipeline, LatentDiffusionPipeline
from t2i.pipelines.commands.generate import main as generate

PROMPTS = ["a red cat", "a blue car on top of a tree"]
STEPS = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "pt"}


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


@cache
def made() -> LatentDiffusionPipeline:
    return parts.pipeline()


@pytest.fixture
def pipe() -> LatentDiffusionPipeline:
    return LatentDiffusionPipeline(**made().components)


def draw(pipe, prompt=PROMPTS, **how) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    return pipe(prompt, **(STEPS | how)).images


def test_output_types_show_the_same_picture(pipe):
    kinds = {kind: draw(pipe, "a cat", generator=seeded(5), output_type=kind) for kind in ("pil", "np", "pt", "latent")}
    pil, array, tensor = np.array(kinds["pil"][0]) / 255, kinds["np"][0], kinds["pt"][0].permute(1, 2, 0).numpy()
    assert kinds["pil"][0].size == (64, 64)
    assert np.array_equal(array, tensor)
    assert np.abs(array - pil).max() <= 0.5 / 255 + 1e-6
    assert 0 <= array.min() < array.max() <= 1
    assert kinds["latent"].shape == (1, 4, 8, 8)
    assert torch.equal((pipe.image_tokenizer.decode(kinds["latent"]) + 1) / 2, kinds["pt"])


# --- the same as diffusers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"negative_prompt": "a tree", "guidance_rescale": 0.7}, {"guidance_scale": 1.0}])
def test_what_is_saved_gives_the_same_picture_in_diffusers(pipe, tmp_path, how):
    pipe.save_pretrained(tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    theirs = Diffusers.from_pretrained(tmp_path)
    for scheduler in (DDIMScheduler, EulerAncestralDiscreteScheduler):
        generated = []
        for led in (pipe, theirs):
            led.scheduler = scheduler.from_config(led.scheduler.config)
            for generator in (torch.Generator().manual_seed(7), seeded(7)):
                generated.append(draw(led, "a red cat", generator=generator, **how))
        assert all((p - generated[0]).abs().max() < 1e-3 for p in generated)


def test_one_generator_serves_all_images_as_in_diffusers(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    ours, theirs = (
        draw(p, num_images_per_prompt=2, generator=torch.Generator().manual_seed(3))
        for p in (pipe, Diffusers.from_pretrained(tmp_path))
    )
    assert (ours - theirs).abs().max() < 1e-3


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_folder_of_stable_diffusion_opens_and_gives_diffusers_picture(tmp_path, kind):
    ours = made().components
    components = {name: ours[name] for name in ("vae", "text_encoder", "tokenizer", "unet")}
    scheduler = PNDMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, prediction_type=kind
    )
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    theirs = Diffusers(**components, scheduler=scheduler, **none)
    theirs.save_pretrained(tmp_path)
    again = AutoPipeline.from_pretrained(tmp_path)
    assert type(again) is Diffusers
    generated = [draw(p, generator=seeded(0, 1)) for p in (theirs, again, LatentDiffusionPipeline.from_pipe(again))]
    assert torch.equal(generated[0], generated[1])
    assert (generated[0] - generated[2]).abs().max() < 1e-3


@pytest.mark.parametrize("objects", [False, True])
def test_a_safety_checker_is_kept_and_heard(pipe, objects, tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tower = sizes | {"image_size": 32, "patch_size": 16}
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=tower, projection_dim=8))
    with torch.no_grad():  # cosines are above −1, and below 2
        checker.concept_embeds_weights.fill_(-2.0 if objects else 2.0)
    feature = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    Diffusers(**(pipe.components | {"safety_checker": checker, "feature_extractor": feature})).save_pretrained(tmp_path)
    again = AutoPipeline.from_pretrained(tmp_path)
    assert again.config.requires_safety_checker
    again.set_progress_bar_config(disable=True)
    out = again("a red cat", **STEPS, generator=seeded(0))
    assert out.nsfw_content_detected == [objects]
    assert (out.images.max() == 0) == objects


def test_save_and_load_give_the_same_images(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    for again in (AutoPipeline.from_pretrained(tmp_path), LatentDiffusionPipeline.from_pretrained(tmp_path)):
        assert isinstance(again, DiffusionPipeline)
        assert torch.equal(draw(again, generator=seeded(0, 1)), draw(pipe, generator=seeded(0, 1)))


# --- randomness and batches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["ddim", "euler-ancestral", "dpm++"])
def test_an_image_depends_on_its_own_generator_alone(pipe, scheduler):
    how = {"scheduler": scheduler}
    together = draw(pipe, num_images_per_prompt=2, generator=seeded(0, 1, 2, 3), **how)
    for i in range(4):
        alone = draw(pipe, PROMPTS[i // 2], generator=seeded(i), **how)
        assert (alone[0] - together[i]).abs().max() < 1e-5
    assert (together[0] - together[1]).abs().max() > 0.01


@pytest.mark.parametrize("scheduler", ["unipc", "ddpm"])
def test_many_images_are_made_in_batches_that_fit(pipe, scheduler):
    how = {"num_images_per_prompt": 2, "scheduler": scheduler}
    whole = draw(pipe, generator=seeded(0, 1, 2, 3), **how)
    pipe.max_batch_bytes = 1  # so little that every image is a separate batch
    assert (draw(pipe, generator=seeded(0, 1, 2, 3), **how) - whole).abs().max() < 1e-5


def test_a_call_leaves_the_scheduler_and_what_it_is_given_as_they_were(pipe):
    noise, before = torch.randn(1, 4, 8, 8), dict(pipe.scheduler.config)
    given = noise.clone()
    first = draw(pipe, "a cat", latents=noise, scheduler="heun")
    assert torch.equal(noise, given)
    assert dict(pipe.scheduler.config) == before
    assert torch.equal(draw(pipe, "a cat", latents=noise, scheduler="heun"), first)


# --- the text -------------------------------------------------------------------------------------------------------


def test_guidance_at_one_is_no_guidance(pipe):
    """At scale 1 nothing is subtracted, so the negative prompt has no effect; at 3 it has."""
    plain, other = (
        [draw(pipe, guidance_scale=s, negative_prompt=n, generator=seeded(0, 1)) for n in (None, "a tree")]
        for s in (1.0, 3.0)
    )
    assert torch.equal(*plain)
    assert not torch.equal(*other)


def test_states_of_the_text_stand_for_the_text(pipe):
    encoder = pipe._encode(PROMPTS).states, pipe._encode(["a tree"] * 2).states
    given = draw(pipe, None, prompt_embeds=encoder[0], negative_prompt_embeds=encoder[1], generator=seeded(0, 1))
    assert torch.equal(given, draw(pipe, negative_prompt="a tree", generator=seeded(0, 1)))


def test_the_null_prompt_is_the_empty_one(pipe):
    assert torch.equal(draw(pipe, generator=seeded(0, 1)), draw(pipe, negative_prompt=["", ""], generator=seeded(0, 1)))


def test_the_padding_of_t5_is_masked_and_so_says_nothing(pipe):
    """For CLIP it is not masked, as in Stable Diffusion."""
    for encoder, counts in ((parts.t5(pipe.tokenizer), False), (pipe.text_encoder, True)):
        led = LatentDiffusionPipeline(**(pipe.components | {"text_encoder": encoder}))
        text = led._encode(["a red cat"])
        assert (text.mask is None) == counts
        seen = []
        for end in (0.0, 5.0):
            states = text.states.clone()
            states[:, -1] += end
            x = torch.ones(1, 4, 8, 8)
            said = led.unet(x, 5, encoder_hidden_states=states, encoder_attention_mask=text.mask).sample
            seen.append(said.detach())
        assert torch.equal(*seen) != counts
        assert draw(led, generator=seeded(0, 1)).isfinite().all()


def test_dropped_ends_are_named_in_a_line(pipe, caplog):
    with caplog.at_level(logging.WARNING):
        draw(pipe, "a red cat " * 20, generator=seeded(0))
    assert "its end was truncated" in caplog.text


# --- sampling -------------------------------------------------------------------------------------------------------


def test_a_transformer_and_a_flow_do_as_well(pipe, tmp_path):
    flow = DiffusionObjective(prediction_type="flow").scheduler()
    led = LatentDiffusionPipeline(**(pipe.components | {"unet": parts.dit(), "scheduler": flow}))
    led.save_pretrained(tmp_path)
    again = AutoPipeline.from_pretrained(tmp_path)
    assert torch.equal(draw(again, generator=seeded(0, 1)), draw(led, generator=seeded(0, 1)))
    assert draw(led, "a cat", generator=seeded(0), dynamic_threshold=1.0).isfinite().all()


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "heun"])
def test_dynamic_thresholding_bounds_the_latents(pipe, scheduler):
    how = {"guidance_scale": 30.0, "scheduler": scheduler, "output_type": "latent", "generator": seeded(0)}
    assert draw(pipe, "a cat", **how).abs().max() > 1.01
    bounded = draw(pipe, "a cat", **(how | {"generator": seeded(0)}), dynamic_threshold=1.0)
    assert bounded.abs().max() <= 1.01  # the last step ends at its x_0


def test_another_size_is_drawn_where_the_stride_divides_it(pipe):
    assert draw(pipe, "a cat", height=32, width=96, generator=seeded(0)).shape == (1, 3, 32, 96)


def test_callback_sees_every_step_and_may_change_it(pipe):
    seen = []

    def zero(pipe, step, timestep, tensors):
        seen.append((step, int(timestep), *(tuple(t.shape) for t in tensors.values())))
        return {"latents": torch.zeros_like(tensors["latents"])}

    names = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    how = {"callback_on_step_end": zero, "callback_on_step_end_tensor_inputs": names, "output_type": "latent"}
    assert draw(pipe, "a cat", **how).abs().max() == 0
    assert [s[0] for s in seen] == [0, 1, 2, 3]
    assert seen[0][2:] == ((1, 4, 8, 8), (2, parts.LENGTH, 32), (1, parts.LENGTH, 32))


def test_interrupt_stops_and_returns(pipe):
    steps = []

    def stop(pipe, step, timestep, tensors):
        steps.append(step)
        pipe._interrupt = step == 1
        return tensors

    assert len(draw(pipe, callback_on_step_end=stop, generator=seeded(0, 1))) == 2
    assert steps == [0, 1]
    draw(pipe, generator=seeded(0, 1))  # and the next call works normally
    assert not pipe.interrupt


def test_latents_that_are_not_finite_raise(pipe):
    with pytest.raises(FloatingPointError, match=r"not finite after 4 steps in torch\.float32: lower the"):
        draw(pipe, "a cat", latents=torch.full((1, 4, 8, 8), torch.nan))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"prompt": []}, "non-empty"),
        ({"prompt": 3}, "string"),
        ({"prompt": None}, "either prompt or prompt_embeds"),
        ({"prompt_embeds": torch.zeros(1, 2, 3)}, "either prompt or prompt_embeds"),
        ({"height": 60}, r"multiples of 8, not 60×64"),
        ({"output_type": "jpg"}, "unknown output_type"),
        ({"num_images_per_prompt": 0}, "at least 1"),
        ({"num_inference_steps": 0}, "at least 1"),
        ({"negative_prompt": ["a", "b"]}, "as many negative prompts"),
        ({"generator": [torch.Generator()] * 3}, "generators"),
        ({"guidance_rescale": 2.0}, r"guidance_rescale must lie in \[0, 1\]"),
        ({"dynamic_threshold": 0.0}, "above 0"),
        ({"latents": torch.zeros(1, 3, 8, 8)}, "latents must have the shape"),
        ({"scheduler": "eular"}, "did you mean euler"),
        ({"callback_on_step_end_tensor_inputs": ["codes"]}, "no tensor 'codes'"),
    ],
)
def test_bad_input_raises(pipe, wrong, says):
    with pytest.raises(ValueError, match=says):
        pipe(**({"prompt": "a red cat"} | wrong))


def test_components_that_do_not_belong_together_raise(pipe):
    with pytest.raises(ValueError, match=r"takes 3 channels, the autoencoder makes 4: .*not trained together"):
        LatentDiffusionPipeline(**(pipe.components | {"unet": parts.unet(3)}))


def test_the_command_line_draws(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "pipe")
    out = tmp_path / "out.png"
    asked = ["a red cat", "--pipeline", str(tmp_path / "pipe"), "--num-inference-steps", "2", "--num-images", "1"]
    generate([*asked, "--scheduler", "ddim", "--out", str(out)])
    assert out.is_file()
    with pytest.raises(UsageError, match="unknown scheduler"):
        generate([*asked, "--scheduler", "nothing", "--out", str(out)])


def test_schedulers_of_zero_snr_are_kept_through_a_file(pipe, tmp_path):
    schedule = NoiseSchedule(rescale_betas_zero_snr=True)
    led = LatentDiffusionPipeline(**(pipe.components | {"scheduler": DiffusionObjective(schedule).scheduler()}))
    led.save_pretrained(tmp_path)
    again = AutoPipeline.from_pretrained(tmp_path)
    assert NoiseSchedule.of(again.scheduler.config) == schedule
    for name in ("ddim", "heun", "lcm"):
        assert draw(again, "a cat", scheduler=name, generator=seeded(0)).isfinite().all()
    assert isinstance(Diffusers.from_pretrained(tmp_path).scheduler, type(led.scheduler))
    assert not DDIMScheduler.from_config(again.scheduler.config, clip_sample=False).config.clip_sample
