"""Samplers by name: diffusers' schedulers, configured with the noise schedule a denoiser was trained with."""

from __future__ import annotations

import copy
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import EulerAncestralDiscreteScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps

from t2i.checks import check_choice, check_whole
from t2i.diffusion.schedule import NoiseSchedule

logger = logging.getLogger(__name__)
SCHEDULERS: dict[str, str] = {
    "ddpm": "DDPMScheduler",  # Ho et al. 2020, arXiv 2006.11239
    "ddim": "DDIMScheduler",  # Song et al. 2021, arXiv 2010.02502
    "euler": "EulerDiscreteScheduler",  # Karras et al. 2022, arXiv 2206.00364, first order
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",  # Karras et al. 2022, algorithm 1: two passes per step
    "dpm++": "DPMSolverMultistepScheduler",  # Lu et al. 2022, arXiv 2211.01095
    "unipc": "UniPCMultistepScheduler",  # Zhao et al. 2023, arXiv 2302.04867
    "lcm": "LCMScheduler",  # Luo et al. 2023, arXiv 2310.04378
}
FLOW_SCHEDULERS: dict[str, str] = {  # those that support rectified flows
    "euler": "FlowMatchEulerDiscreteScheduler",
    "heun": "FlowMatchHeunDiscreteScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}
# diffusers' DDIM computes √(1 − ᾱ − σ²) in float32. At η = 1 and a first step from almost no signal σ² is 1 − ᾱ up to
# rounding, which can make the radicand negative, and all samples NaN.
MAX_ETA = 1 - 1e-6
MAX_SIGMA = 160  # for Heun's method: twice the initial σ of Karras et al., at which a latent is practically pure noise


def make_scheduler(name: str, config: Mapping[str, Any]) -> SchedulerMixin:
    """The scheduler called `name`, with the noise schedule and prediction type of another scheduler's `config`.

    Raises UsageError, naming the nearest match, for an unknown name, and ValueError for a sampler that does not support
    the denoiser's prediction type: not all of them support flows.
    """
    check_choice("scheduler", name, SCHEDULERS)
    with _without_numpy_warning():
        return _make_scheduler(name, config)


def _make_scheduler(name: str, config: Mapping[str, Any]) -> SchedulerMixin:
    if of_flow(config):
        return _of_a_flow(name, config)
    if name == "euler-ancestral" and config.get("prediction_type") == "sample":
        raise ValueError('"euler-ancestral" does not support prediction_type "sample": choose euler or dpm++')
    cls = getattr(diffusers, SCHEDULERS[name])
    # diffusers clips to [−1, 1] by default, which is right for pixels; only these schedulers have the option.
    clips = {"clip_sample": config.get("clip_sample", False)} if name in ("ddpm", "ddim") else {}
    return cls.from_config(config, **clips, **(_cap_sigma(config) if name == "heun" else {}))


def new_sampler(
    own: SchedulerMixin,
    name: str | None,
    num_inference_steps: int,
    device: torch.device | str | None = None,
    timesteps: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
) -> SchedulerMixin:
    """A sampler for one batch, since samplers are stateful: a copy of the pipeline's own, or another one by name.

    See `set_timesteps` for the other arguments, and for what it raises.
    """
    sampler = make_scheduler(name, own.config) if name else copy.deepcopy(own)
    set_timesteps(sampler, num_inference_steps, device, timesteps, sigmas)
    return sampler


def step_options(sampler: SchedulerMixin, eta: float, generator: list[torch.Generator] | None) -> dict[str, Any]:
    """Those of the noise of DDIM and the generators that this sampler's step takes."""
    takes = inspect.signature(sampler.step).parameters
    options = {"eta": min(eta, MAX_ETA), "generator": generator}
    return {name: value for name, value in options.items() if name in takes}


def warn_of_eta(sampler: SchedulerMixin, eta: float) -> None:
    """Log a warning if the noise of DDIM has no effect on this sampler."""
    if eta > 0 and "eta" not in inspect.signature(sampler.step).parameters:
        logger.warning("eta has no effect on %s: take scheduler='ddim', or leave it out", type(sampler).__name__)


def set_timesteps(
    sampler: SchedulerMixin,
    num_inference_steps: int,
    device: torch.device | str | None = None,
    timesteps: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
) -> None:
    """`sampler.set_timesteps`, with better timesteps for flows.

    Euler's N steps along a flow have length 1/N; with diffusers' default, N − 1 steps go from σ = 1 to 1/T and the last
    does almost nothing. DPM-Solver++ and UniPC would round the timesteps T · σ down to integers.

    Args:
        timesteps, sigmas: custom timesteps or sigmas; at most one, instead of `num_inference_steps`.

    Raises ValueError for both, for an empty list, for a sampler that does not support them, and for too many steps (see
    `check_steps`).
    """
    with _without_numpy_warning():
        _set_timesteps(sampler, num_inference_steps, device, timesteps, sigmas)


@contextmanager
def _without_numpy_warning() -> Iterator[None]:
    """Suppress numpy 2's warning about how diffusers converts tensors, which every pipeline call would show."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        yield


def _set_timesteps(
    sampler: SchedulerMixin,
    num_inference_steps: int,
    device: torch.device | str | None,
    timesteps: Sequence[int] | None,
    sigmas: Sequence[float] | None,
) -> None:
    for name, given in (("timesteps", timesteps), ("sigmas", sigmas)):
        if given is not None and len(given) == 0:
            raise ValueError(f"{name} is empty: give one for each step, or leave it out for num_inference_steps")
    if timesteps is not None or sigmas is not None:
        retrieve_timesteps(sampler, None, device, timesteps, sigmas)
        return
    check_steps(sampler, num_inference_steps)
    if isinstance(sampler, FlowMatchEulerDiscreteScheduler) and not sampler.config.use_dynamic_shifting:
        even = np.linspace(1, 1 / num_inference_steps, num_inference_steps)
        sampler.set_timesteps(sigmas=even.tolist(), device=device)
        return
    sampler.set_timesteps(num_inference_steps, device=device)
    if sampler.config.get("use_flow_sigmas"):
        times = sampler.sigmas[: len(sampler.timesteps)] * sampler.config.num_train_timesteps
        sampler.timesteps = times.to(sampler.timesteps.device)
    if isinstance(sampler, EulerAncestralDiscreteScheduler):
        # σ_down = √(σ² − σ_up²) suffers cancellation: in float32 a step from σ = 5000 to 2 has a negative radicand.
        sampler.sigmas = sampler.sigmas.double()


def check_steps(sampler: SchedulerMixin, num_inference_steps: int) -> None:
    """Raise ValueError if the sampler cannot take this many steps: at most the number of training timesteps (unlimited
    for a flow); for a consistency model's sampler, at most the number it was distilled with.
    """
    config, name = sampler.config, type(sampler).__name__
    most = None if of_flow(config) else config.num_train_timesteps
    if "original_inference_steps" in config:
        most = min(most, config.original_inference_steps)
    check_whole(f"num_inference_steps of {name}", num_inference_steps, 1, most)


def count_steps(sampler: SchedulerMixin) -> int:
    """The number of sampling steps: second-order samplers have two timesteps per step, except for the last."""
    return -(-len(sampler.timesteps) // sampler.order)


def of_flow(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's config is for a rectified flow: no β, or a sampler of both kinds that is set to flows."""
    return "beta_schedule" not in config or config.get("prediction_type") == "flow_prediction"


def _of_a_flow(name: str, config: Mapping[str, Any]) -> SchedulerMixin:
    if name not in FLOW_SCHEDULERS:
        known = ", ".join(FLOW_SCHEDULERS)
        raise ValueError(f"{name!r} does not support flow matching: choose one of {known}, or leave the scheduler out")
    cls, steps = getattr(diffusers, FLOW_SCHEDULERS[name]), config["num_train_timesteps"]
    shift = config.get("shift", config.get("flow_shift", 1.0))
    if name in ("euler", "heun"):
        return cls(num_train_timesteps=steps, shift=shift)
    # The βs in the config of these two are ignored.
    velocity = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
    return cls(num_train_timesteps=steps, **velocity)


def _cap_sigma(config: Mapping[str, Any]) -> dict[str, Any]:
    """A noise schedule with σ = √(1/ᾱ − 1) ≤ MAX_SIGMA at the end, as an option of a scheduler.

    Heun's steps are linear in σ, and overshoot if the first starts at a σ of thousands, or infinity for zero SNR.
    """
    if config.get("trained_betas") is not None:
        return {}
    alpha_bar = NoiseSchedule.of(config).alphas_cumprod.clamp(min=1 / (1 + MAX_SIGMA**2))
    alphas = torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
    return {"trained_betas": (1 - alphas).tolist()}
