"""How closely a sampler follows the prompt, and what keeps strong guidance from burning the picture.

Shapes: B batch · … the axes of a sample
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from t2i.checks import check_options, check_real
from t2i.diffusion.flow import RectifiedFlow
from t2i.diffusion.schedule import NoiseSchedule
from t2i.diffusion.schedulers import of_flow


@dataclass(frozen=True)
class Guidance:
    """How a sampler is led: by classifier-free guidance, rescaled or not, its x_0 under a threshold or not.

    Raises ValueError for numbers out of range."""

    scale: float
    rescale: float
    threshold: float | None

    def __post_init__(self) -> None:
        check_real("guidance_scale", self.scale)
        check_options({"guidance_rescale": self.rescale, "dynamic_threshold": self.threshold})

    @property
    def guided(self) -> bool:
        """Not up to a scale of 1, as in diffusers: then the model is followed as it is."""
        return self.scale > 1

    def __call__(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        """What a denoiser says with the prompt and without -> what the sampler is told, (B, …) each."""
        guided = guide(conditional, unconditional, self.scale)
        return rescale(guided, conditional, self.rescale) if self.rescale else guided


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598, eq. 6): u + scale · (c − u), (B, …) each.

    1 is the conditional model; more follows the prompt more closely than the model would. The logits of autoregressive
    models are led in the same way (Gafni et al. 2022, arXiv 2203.13131).
    """
    return unconditional + scale * (conditional - unconditional)


def rescale(guided: Tensor, conditional: Tensor, share: float) -> Tensor:
    """Bring the guided output back to the conditional one's standard deviation, by a `share` of the way.

    Lin et al. 2023 (arXiv 2305.08891, eq. 15 and 16): (B, …), (B, …) -> (B, …); deviations are each sample's own.
    """
    axes = tuple(range(1, guided.ndim))
    same = guided * (conditional.std(axes, keepdim=True) / guided.std(axes, keepdim=True))
    return share * same + (1 - share) * guided


def dynamic_threshold(x0: Tensor, largest: float, ratio: float = 0.995) -> Tensor:
    """Dynamic thresholding (Saharia et al. 2022, arXiv 2205.11487, § 2.3): (B, …) -> (B, …)

    Where the `ratio` quantile s of a sample's |x_0| exceeds `largest`, the sample is cut to [−s, s] and shrunk until s
    is `largest`; any other sample stays as it is, but for what lies beyond ±`largest`.
    """
    s = torch.quantile(x0.abs().flatten(1).float(), ratio, dim=1).clamp(min=largest).to(x0.dtype)
    s = s.view(-1, *(1,) * (x0.ndim - 1))
    return x0.clamp(-s, s) * (largest / s)


def thresholded(config: Mapping[str, Any], said: Tensor, x: Tensor, t: Tensor, largest: float) -> Tensor:
    """What the denoiser would have said if its x_0 were under dynamic thresholding: (B, …) twice -> the same.

    Args:
        config: the scheduler's, which tells what `said` means.
        x: what the denoiser was given. Samplers that count in σ scale their state to it.
    """
    times = t.reshape(1)
    if of_flow(config):
        flow = RectifiedFlow(config["num_train_timesteps"])
        return flow.join(dynamic_threshold(flow.split(said, x, times)[0], largest), x, times)
    schedule, kind = NoiseSchedule.of(config), config["prediction_type"]
    return schedule.join(kind, dynamic_threshold(schedule.split(kind, said, x, times)[0], largest), x, times)
