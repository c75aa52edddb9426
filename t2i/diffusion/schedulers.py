"""The samplers by name: diffusers' schedulers, made from what a denoiser was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers
import torch
from diffusers import SchedulerMixin

from t2i.cli_errors import check_choice
from t2i.diffusion.schedule import NoiseSchedule

SCHEDULERS: dict[str, str] = {
    "ddpm": "DDPMScheduler",  # Ho et al. 2020, arXiv 2006.11239
    "ddim": "DDIMScheduler",  # Song et al. 2021, arXiv 2010.02502
    "euler": "EulerDiscreteScheduler",  # Karras et al. 2022, arXiv 2206.00364, first order
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",  # Karras et al. 2022, algorithm 1: two passes a step
    "dpm++": "DPMSolverMultistepScheduler",  # Lu et al. 2022, arXiv 2211.01095
    "unipc": "UniPCMultistepScheduler",  # Zhao et al. 2023, arXiv 2302.04867
    "lcm": "LCMScheduler",  # Luo et al. 2023, arXiv 2310.04378
}
MAX_SIGMA = 160  # of Heun's method: twice what Karras et al. start from; of a latent nothing is left to see


def make_scheduler(name: str, config: Mapping[str, Any]) -> SchedulerMixin:
    """The scheduler called `name`, with the noise schedule and the prediction type of another one's `config`.

    Raises UsageError, naming the nearest, for an unknown name, and ValueError for a denoiser that the sampler does not
    understand: none of them knows what a flow's velocities mean.
    """
    check_choice("scheduler", name, SCHEDULERS)
    if of_flow(config):
        raise ValueError(f"a flow is sampled by Euler's method alone, not by {name!r}: leave the scheduler out")
    if name == "euler-ancestral" and config.get("prediction_type") == "sample":
        raise ValueError('"euler-ancestral" knows no denoiser that says the sample itself: choose euler, or dpm++')
    cls = getattr(diffusers, SCHEDULERS[name])
    # diffusers' own default would clip to [−1, 1], which is right for pixels; no schedulers but these know of it.
    clips = {"clip_sample": config.get("clip_sample", False)} if name in ("ddpm", "ddim") else {}
    return cls.from_config(config, **clips, **(_within_reach(config) if name == "heun" else {}))


def of_flow(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's config is a rectified flow's, which has no β."""
    return "beta_schedule" not in config


def _within_reach(config: Mapping[str, Any]) -> dict[str, Any]:
    """A schedule that ends at σ = √(1/ᾱ − 1) ≤ MAX_SIGMA, as an option of a scheduler.

    Heun's steps are straight in σ, and overshoot where the first of them starts at thousands, or at the infinite σ of a
    zero SNR.
    """
    if config.get("trained_betas") is not None:
        return {}
    alpha_bar = NoiseSchedule.of(config).alphas_cumprod.clamp(min=1 / (1 + MAX_SIGMA**2))
    alphas = torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
    return {"trained_betas": (1 - alphas).tolist()}
