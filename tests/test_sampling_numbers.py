"""Numeric arguments of a call: every sampler at every number of steps, and refusals before any work."""

from __future__ import annotations

import inspect
import logging

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin
from diffusion_parts import pipeline
from PIL import Image

from t2i.checks import check_seeds
from t2i.diffusion.schedule import NoiseSchedule
from t2i.diffusion.schedulers import FLOW_SCHEDULERS, SCHEDULERS, make_scheduler, set_timesteps
from t2i.pipelines import LatentDiffusionImg2ImgPipeline, LatentDiffusionPipeline

CONFIGS = {
    kind: DDIMScheduler(**NoiseSchedule(beta_schedule=kind).scheduler_config("v_prediction"), clip_sample=False).config
    for kind in ("scaled_linear", "squaredcos_cap_v2")
}
CONFIGS["flow"] = FlowMatchEulerDiscreteScheduler().config
ALL = [(kind, name) for kind in CONFIGS for name in (FLOW_SCHEDULERS if kind == "flow" else SCHEDULERS)]


@pytest.fixture(scope="module")
def latent_pipe():
    return pipeline()


def sampled(sampler: SchedulerMixin, x: torch.Tensor, denoiser) -> torch.Tensor:
    x = x * getattr(sampler, "init_noise_sigma", 1.0)
    adds_noise = "generator" in inspect.signature(sampler.step).parameters
    how = {"generator": torch.Generator().manual_seed(1)} if adds_noise else {}
    for t in sampler.timesteps:
        seen = sampler.scale_model_input(x, t) if hasattr(sampler, "scale_model_input") else x
        x = sampler.step(denoiser(seen, t), t, x, **how, return_dict=False)[0]
    return x


@pytest.mark.parametrize(("kind", "name"), ALL, ids=["-".join(pair) for pair in ALL])
def test_every_sampler_takes_any_number_of_steps_or_names_its_most(kind, name, latent_pipe):
    """Few steps with a U-Net; many with a linear denoiser, whose values grow as much at no cost."""
    text = torch.zeros(1, 4, latent_pipe.unet.config.cross_attention_dim)
    noise = torch.randn(1, 4, 8, 8)
    denoisers = {
        **dict.fromkeys((1, 2, 3, 5), lambda x, t: latent_pipe.unet(x, t, text, return_dict=False)[0]),
        **dict.fromkeys((50, 1000, 1001), lambda x, t: x / 2),
    }
    for steps, denoiser in denoisers.items():
        sampler = make_scheduler(name, CONFIGS[kind])
        most = 50 if name == "lcm" else None if kind == "flow" else 1000
        if most is not None and steps > most:
            with pytest.raises(ValueError, match=f"must be at most {most}, not {steps}"):
                set_timesteps(sampler, steps)
            continue
        set_timesteps(sampler, steps)
        with torch.no_grad():
            x = sampled(sampler, noise, denoiser)
        assert x.isfinite().all() and x.dtype == torch.float32, steps


def test_euler_ancestral_agrees_with_its_formula_where_float32_cancels():
    sampler = make_scheduler("euler-ancestral", CONFIGS["squaredcos_cap_v2"])
    set_timesteps(sampler, 3)
    high, low = (float(sigma) for sigma in sampler.sigmas[:2])
    x = torch.full((1, 1, 1, 1), high)
    got = sampler.step(torch.zeros_like(x), sampler.timesteps[0], x, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(1, generator=torch.Generator().manual_seed(0)).item()
    v = 1 / (high**2 + 1)  # the sample predicted by a v of 0
    down, up = low**2 / high, low * (1 - (low / high) ** 2) ** 0.5
    assert high > 1000 * low
    assert got.prev_sample.item() == pytest.approx(high * v + (1 - v) * down + noise * up, rel=1e-4)


WRONG = [
    ({"guidance_scale": [7]}, r"guidance_scale must be a number, not \[7\]"),
    ({"guidance_scale": -1}, "guidance_scale must be at least 0"),
    ({"guidance_scale": float("nan")}, "guidance_scale must be at least 0 and finite"),
    ({"guidance_scale": "7"}, "guidance_scale must be a number, not '7'"),
    ({"num_images_per_prompt": 0}, "num_images_per_prompt must be at least 1"),
    ({"num_images_per_prompt": 1.5}, "num_images_per_prompt must be a whole number"),
    ({"prompt": "caf\udce9"}, "is not valid Unicode"),
    ({"prompt": ["a", 3]}, "list of strings"),
]
OF_LATENTS = [
    ({"num_inference_steps": 0}, "num_inference_steps must be at least 1"),
    ({"num_inference_steps": 4.0}, "num_inference_steps must be a whole number"),
    ({"num_inference_steps": [4]}, "num_inference_steps must be a whole number"),
    ({"num_inference_steps": True}, "num_inference_steps must be a whole number"),
    ({"num_inference_steps": 1001}, "num_inference_steps of DDIMScheduler must be at most 1000, not 1001"),
    ({"num_inference_steps": 51, "scheduler": "lcm"}, "at most 50, not 51"),
    ({"timesteps": [], "scheduler": "ddpm"}, "timesteps is empty"),
    ({"sigmas": [], "scheduler": "euler"}, "sigmas is empty"),
    ({"eta": 2}, r"eta must lie in \[0, 1\]"),
    ({"height": [64]}, "height must be a whole number"),
    ({"guidance_rescale": "x"}, r"guidance_rescale must lie in \[0, 1\]"),
]
OF_CODES = [
    ({"temperature": [1]}, "temperature must be a number"),
    ({"temperature": float("inf")}, "temperature must be above 0 and finite"),
    ({"top_k": 1.5}, "top_k must be a whole number"),
    ({"top_p": float("nan")}, r"top_p must lie in \(0, 1\]"),
    ({"num_candidates": 0}, "num_candidates must be at least 1"),
]


@pytest.mark.parametrize(("wrong", "says"), WRONG + OF_LATENTS, ids=lambda x: ascii(x))
def test_latent_diffusion_names_the_number_that_cannot_be(wrong, says, latent_pipe):
    with pytest.raises(ValueError, match=says):
        latent_pipe(**{"prompt": "a red cat", "num_inference_steps": 2, **wrong})


@pytest.mark.parametrize(("wrong", "says"), WRONG + OF_CODES, ids=lambda x: ascii(x))
def test_dalle_names_the_number_that_cannot_be(wrong, says, pipe):
    with pytest.raises(ValueError, match=says):
        pipe(**{"prompt": "a red cat", **wrong})


def test_editing_names_the_number_that_cannot_be(latent_pipe):
    edit = LatentDiffusionImg2ImgPipeline.from_pipe(latent_pipe)
    image = Image.new("RGB", (64, 64))
    for wrong, says in (
        ({"strength": [0.5]}, r"strength must lie in \[0, 1\]"),
        ({"num_inference_steps": "9"}, "num_inference_steps must be a whole number"),
        ({"num_inference_steps": 2000}, "at most 1000, not 2000"),
    ):
        with pytest.raises(ValueError, match=says):
            edit("a red cat", image, **wrong)
    with pytest.raises(ValueError, match="seed must be less than"):
        edit.variations(image, n=2, seed=2**64 - 1)
    with pytest.raises(ValueError, match="seeds must be less than"):
        latent_pipe.interpolate("a red cat", [0, 2**64])


def test_seeds_go_up_to_what_a_generator_takes():
    for seed in (0, 2**63, 2**64 - 1, np.int64(3)):
        check_seeds("seed", seed)
        torch.Generator().manual_seed(int(seed))
    for seed in (-1, 2**64, 1.0, "1", None):
        with pytest.raises(ValueError, match="seed must be"):
            check_seeds("seed", seed)


def test_arguments_without_effect_are_warned_of(latent_pipe, pipe, caplog):
    how = {"num_inference_steps": 1, "output_type": "latent"}
    calls = [
        (
            latent_pipe,
            {"negative_prompt": "red", "guidance_scale": 1, **how},
            "negative_prompt has no effect at a",
        ),
        (latent_pipe, {"guidance_rescale": 0.5, "guidance_scale": 1, **how}, "guidance_rescale has no effect"),
        (latent_pipe, {"eta": 0.5, "scheduler": "euler", **how}, "eta has no effect on EulerDiscreteScheduler"),
        (pipe, {"negative_prompt": "red", "guidance_scale": 1}, "negative_prompt has no effect"),
        (latent_pipe, {"negative_prompt": "red", "eta": 0.5, **how}, None),
        (pipe, {"negative_prompt": "red"}, None),
    ]
    for call, options, says in calls:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            call("a red cat", **options)
        assert [record.getMessage()[: len(says or "")] for record in caplog.records] == ([says] if says else [])


def test_a_prompt_without_effect_at_strength_0_is_warned_of(latent_pipe, caplog):
    edit = LatentDiffusionImg2ImgPipeline.from_pipe(latent_pipe)
    image = Image.new("RGB", (64, 64))
    for prompt, strength, warned in (("a red cat", 0, True), ("", 0, False), ("a red cat", 0.5, False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            edit(prompt, image, strength, num_inference_steps=2, output_type="latent")
        assert ["the prompt has no effect at strength 0" in r.getMessage() for r in caplog.records] == [True] * warned


def test_ddim_with_eta_1_is_finite_from_almost_pure_noise(latent_pipe):
    """There the noise added has, up to rounding, the whole variance of the next step: with 5 steps, more than that."""
    config = NoiseSchedule(beta_schedule="squaredcos_cap_v2").scheduler_config("v_prediction")
    scheduler = DDIMScheduler(**config, clip_sample=False)
    pipe = LatentDiffusionPipeline.from_pipe(latent_pipe, scheduler=scheduler)
    latents = pipe("a red cat", num_inference_steps=5, eta=1.0, output_type="latent").images
    assert latents.isfinite().all()


def test_unknown_words_are_named_with_their_prompt_and_the_nearest_word(latent_pipe, caplog):
    prompts = ["a red armchiar", "a blue cat", "a flurb"]
    with caplog.at_level(logging.WARNING):
        latent_pipe(prompts, num_inference_steps=1, output_type="latent")
    assert [record.getMessage() for record in caplog.records] == [
        "the prompt 'a red armchiar' has words never seen in training: armchiar (did you mean armchair?)",
        "the prompt 'a flurb' has words never seen in training: flurb",
    ]
