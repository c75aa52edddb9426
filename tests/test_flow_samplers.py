"""Samplers for rectified flows."""

from __future__ import annotations

import diffusion_parts as parts
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from t2i.diffusion.flow import RectifiedFlow
from t2i.diffusion.objective import DiffusionObjective
from t2i.diffusion.schedulers import FLOW_SCHEDULERS, SCHEDULERS, make_scheduler, set_timesteps
from t2i.pipelines import LatentDiffusionImg2ImgPipeline, LatentDiffusionInpaintPipeline

MEAN, STD = 0.7, 0.4  # of a Gaussian, whose velocity is known
FLOW = RectifiedFlow()
NOISE = torch.randn(5000, 1, 1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BY_NAME = pytest.mark.parametrize("name", FLOW_SCHEDULERS)


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """E[ε − x_0 | x_σ], where x_σ is normal with mean (1 − σ) MEAN and this variance."""
    sigma = t.double() / FLOW.num_train_timesteps
    variance = ((1 - sigma) * STD) ** 2 + sigma**2
    return -MEAN + (sigma - (1 - sigma) * STD**2) / variance * (x - (1 - sigma) * MEAN)


def landed(sampler) -> Tensor:
    x = NOISE
    for t in sampler.timesteps:
        x = sampler.step(velocity(x, t), t, x).prev_sample
    return x


def error(sampler) -> float:
    """Root mean square error; from each noise, the ODE ends on the line between the Gaussians."""
    return (landed(sampler) - (MEAN + STD * NOISE)).square().mean().sqrt().item()


@BY_NAME
def test_every_sampler_of_flows_lands_on_a_gaussian(name):
    for of in (FLOW.scheduler_config(), DiffusionObjective(prediction_type="flow").scheduler().config):
        for begin in (set_timesteps, lambda sampler, steps: sampler.set_timesteps(steps)):
            sampler = make_scheduler(name, of)
            begin(sampler, 100)
            x = landed(sampler)
            assert x.mean().item() == pytest.approx(MEAN, abs=0.01)
            assert x.std().item() == pytest.approx(STD, rel=0.03)


@pytest.mark.parametrize("name", ["heun", "dpm++", "unipc"])
def test_the_second_order_leaves_less_error_than_the_first(name):
    samplers = [make_scheduler(which, FLOW.scheduler_config()) for which in ("euler", name)]
    for sampler in samplers:
        set_timesteps(sampler, 40 // sampler.order)  # equally many network evaluations
    assert error(samplers[1]) < error(samplers[0]) / 4


@pytest.mark.parametrize("steps", [4, 20, 50])
def test_equal_steps_of_euler_leave_less_error_than_those_of_diffusers(steps):
    equal, theirs = (make_scheduler("euler", FLOW.scheduler_config()) for _ in range(2))
    set_timesteps(equal, steps)
    theirs.set_timesteps(steps)
    assert torch.allclose(equal.sigmas, torch.linspace(1, 0, steps + 1))
    assert torch.allclose(equal.timesteps, equal.sigmas[:-1] * 1000)
    assert error(equal) < error(theirs)


@BY_NAME
def test_the_denoiser_gets_the_exact_time_of_the_sampler(name):
    sampler = make_scheduler(name, FLOW.scheduler_config())
    set_timesteps(sampler, 7)
    at = torch.unique(sampler.sigmas)[1:]  # no sampler evaluates the last one, 0
    assert torch.allclose(torch.unique(sampler.timesteps) / 1000, at)


def test_the_shift_of_a_flow_stays():
    """σ' = s σ / (1 + (s − 1) σ): Esser et al. 2024, arXiv 2403.03206, eq. 23."""
    of = FLOW.scheduler_config() | {"shift": 3.0}
    euler, multistep = (make_scheduler(name, of) for name in ("euler", "unipc"))
    for sampler in (euler, multistep):
        set_timesteps(sampler, 4)
    sigma = torch.tensor([1, 0.75, 0.5, 0.25])
    assert torch.allclose(euler.sigmas[:-1], 3 * sigma / (1 + 2 * sigma))
    assert torch.allclose(euler.sigmas, multistep.sigmas, atol=2e-3)  # UniPC's grid differs by 1/T


@BY_NAME
def test_any_sampler_of_flows_is_made_from_any_other(name):
    of = FLOW.scheduler_config() | {"shift": 3.0}
    ways = make_scheduler(name, of), *(make_scheduler(name, make_scheduler(by, of).config) for by in FLOW_SCHEDULERS)
    for sampler in ways:
        set_timesteps(sampler, 6)
        assert torch.equal(sampler.sigmas, ways[0].sigmas)
        assert type(sampler) is type(ways[0])


@pytest.mark.parametrize("name", sorted(SCHEDULERS.keys() - FLOW_SCHEDULERS.keys()))
def test_other_samplers_are_refused_by_naming_those_there_are(name):
    with pytest.raises(ValueError, match=r"choose one of euler, heun, dpm\+\+, unipc, or leave the scheduler out"):
        make_scheduler(name, FLOW.scheduler_config())


@pytest.fixture(scope="module")
def pipe():
    return parts.pipeline(DiffusionObjective(prediction_type="flow").scheduler())


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8))


def options(name: str | None, **more) -> dict:
    generator = [torch.Generator().manual_seed(0)]
    return {"num_inference_steps": 5, "scheduler": name, "generator": generator, "output_type": "latent", **more}


def test_euler_by_name_is_the_sampler_of_a_flow(pipe):
    plain, named = (pipe("a red cat", **options(name)).images for name in (None, "euler"))
    assert torch.equal(plain, named)


@BY_NAME
def test_a_pipeline_generates_with_every_sampler_of_flows(pipe, photo, name):
    """Also with a bound that nothing reaches, and equally from noise or from an image at strength 1."""
    drawn = pipe("a red cat", **options(name)).images
    limited = pipe("a red cat", **options(name, dynamic_threshold=1e6)).images
    assert torch.allclose(drawn, limited, atol=1e-3)
    edit = LatentDiffusionImg2ImgPipeline.from_pipe(pipe)
    edit.set_progress_bar_config(disable=True)
    assert torch.equal(edit("a red cat", photo, 1.0, **options(name)).images, drawn)


@BY_NAME
def test_the_kept_part_of_an_image_is_on_the_line_to_its_noise(pipe, photo, name):
    """Image-to-image starts on it, and inpainting restores the kept half to it after each step."""
    edit, inpaint = (cls.from_pipe(pipe) for cls in (LatentDiffusionImg2ImgPipeline, LatentDiffusionInpaintPipeline))
    noise = torch.randn(1, parts.CHANNELS, parts.SIDE, parts.SIDE, generator=torch.Generator().manual_seed(1))
    mask = Image.fromarray(np.arange(64)[None].repeat(64, 0) < 32)
    tensor = torch.tensor(np.asarray(photo)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        clean = pipe.image_tokenizer.encode(tensor, torch.Generator().manual_seed(0))
    seen = []
    handle = pipe.unet.register_forward_pre_hook(lambda _, args: seen.append((args[0].clone(), args[1])))
    for editing, given in ((edit, (photo, 0.6)), (inpaint, (photo, mask, 0.6))):
        editing.set_progress_bar_config(disable=True)
        editing("a red cat", *given, **options(name, guidance_scale=1, latents=noise))
    handle.remove()
    passes = len(seen) // 2
    assert passes == (5 if name == "heun" else 3)  # of five steps
    for i, (x, t) in enumerate(seen):
        if i == 0 or i >= passes:
            line = FLOW.add_noise(clean, noise, t.reshape(1))
            kept = slice(None) if i == 0 else slice(4, None)  # columns of the mask's black half
            assert torch.allclose(x[..., kept], line[..., kept], atol=1e-5)
