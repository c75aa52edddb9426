"""Classifier-free guidance, and rescaling and thresholding against the over-saturation of strong guidance.

Shapes: B batch · … the axes of a sample
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from t2i.checks import check_options, check_real
from t2i.diffusion.flow import RectifiedFlow
from t2i.diffusion.schedule import NoiseSchedule
from t2i.diffusion.schedulers import of_flow

Threshold = Callable[[Tensor], Tensor]  # of a predicted x_0, (B, …) -> (B, …)


@dataclass(frozen=True)
class Guidance:
    """Options of classifier-free guidance, optionally with rescaling and thresholding of x_0.

    Raises ValueError for numbers out of range."""

    scale: float
    rescale: float = 0.0
    threshold: Threshold | None = None

    def __post_init__(self) -> None:
        check_real("guidance_scale", self.scale)
        check_options({"guidance_rescale": self.rescale})

    @property
    def guided(self) -> bool:
        """Whether guidance is enabled: as in diffusers, only with a scale above 1."""
        return self.scale > 1

    def __call__(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        """Predictions with the prompt and without -> guided prediction, (B, …) each."""
        guided = guide(conditional, unconditional, self.scale)
        return rescale(guided, conditional, self.rescale) if self.rescale else guided


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598, eq. 6): u + scale · (c − u), (B, …) each.

    A scale of 1 is the conditional model; larger scales follow the prompt more closely. The logits of autoregressive
    models are guided in the same way (Gafni et al. 2022, arXiv 2203.13131).
    """
    return unconditional + scale * (conditional - unconditional)


def rescale(guided: Tensor, conditional: Tensor, share: float) -> Tensor:
    """Rescale the guided output to the standard deviation of the conditional one; `share` interpolates between the two.

    Lin et al. 2023 (arXiv 2305.08891, eq. 15 and 16): (B, …), (B, …) -> (B, …); deviations are per sample.
    """
    axes = tuple(range(1, guided.ndim))
    same = guided * (conditional.std(axes, keepdim=True) / guided.std(axes, keepdim=True))
    return share * same + (1 - share) * guided


def static_threshold(x0: Tensor, largest: float = 1.0) -> Tensor:
    """Static thresholding (Saharia et al. 2022, arXiv 2205.11487, § 2.3): x_0 clipped to ±`largest`."""
    return x0.clamp(-largest, largest)


def dynamic_threshold(x0: Tensor, largest: float = 1.0, percentile: float = 0.995) -> Tensor:
    """Dynamic thresholding (Saharia et al. 2022, arXiv 2205.11487, § 2.3): (B, …) -> (B, …)

    If the `percentile` s of a sample's |x_0| exceeds `largest`, the sample is clipped to [−s, s] and scaled by
    `largest` / s; any other sample is only clipped to ±`largest`. At a percentile of 1, s is the maximum.
    """
    s = torch.quantile(x0.abs().flatten(1).float(), percentile, dim=1).clamp(min=largest).to(x0.dtype)
    s = s.view(-1, *(1,) * (x0.ndim - 1))
    return x0.clamp(-s, s) * (largest / s)


def threshold_prediction(
    config: Mapping[str, Any], predicted: Tensor, x: Tensor, t: Tensor, threshold: Threshold
) -> Tensor:
    """The prediction with thresholding applied to its x_0: (B, …) twice -> the same.

    Args:
        config: config of the scheduler, which determines the prediction type.
        x: the denoiser's input, to which samplers in terms of σ scale their state.
    """
    times = t.reshape(1)
    if of_flow(config):
        flow = RectifiedFlow(config["num_train_timesteps"])
        return flow.join(threshold(flow.split(predicted, x, times)[0]), x, times)
    schedule, kind = NoiseSchedule.of(config), config["prediction_type"]
    return schedule.join(kind, threshold(schedule.split(kind, predicted, x, times)[0]), x, times)
