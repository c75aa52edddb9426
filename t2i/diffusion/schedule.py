"""The noise schedule of a discrete diffusion process, and the quantities derived from it.

x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε (Ho et al. 2020, arXiv 2006.11239, eq. 4): the noise grows with t. A denoiser predicts ε,
x_0 ("sample") or v = √ᾱ_t ε − √(1 − ᾱ_t) x_0 (Salimans and Ho 2022, arXiv 2202.00512, app. D); each of the three
follows from any other and x_t.

Shapes: T timesteps · B batch · … the axes of a sample
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTIONS = ("epsilon", "sample", "v_prediction")


@dataclass(frozen=True)
class NoiseSchedule:
    """A noise schedule, with the names and values of diffusers.

    Args:
        num_train_timesteps: Number of diffusion steps in training, T.
        beta_schedule: Noise schedule: "linear" (Ho et al. 2020), "scaled_linear" (linear in √β: latent diffusion) or
            "squaredcos_cap_v2" (Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17: a cosine).
        beta_start: First β of "linear" and "scaled_linear".
        beta_end: Last β of "linear" and "scaled_linear".
        rescale_betas_zero_snr: Rescale the schedule so that the last timestep is pure noise (Lin et al. 2023,
            arXiv 2305.08891).

    Raises ValueError for numbers out of range.
    """

    num_train_timesteps: int = 1000
    beta_schedule: BetaSchedule = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    rescale_betas_zero_snr: bool = False

    def __post_init__(self) -> None:
        if self.num_train_timesteps < 2:
            raise ValueError(f"num_train_timesteps must be at least 2, not {self.num_train_timesteps}")
        if self.beta_schedule not in BETA_SCHEDULES:
            raise ValueError(f"unknown beta_schedule {self.beta_schedule!r}: choose one of {', '.join(BETA_SCHEDULES)}")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"betas must satisfy 0 < beta_start ≤ beta_end < 1, not {self.beta_start} and {self.beta_end}"
            )

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """The noise schedule in a diffusers scheduler's config. Raises ValueError for an unsupported one."""
        if config.get("trained_betas") is not None:
            raise ValueError("a scheduler with trained_betas has no schedule of a known form")
        names = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "rescale_betas_zero_snr")
        return cls(**{name: config[name] for name in names if name in config})

    def scheduler_config(self, prediction_type: str) -> dict[str, Any]:
        """The config for diffusers' schedulers that matches this schedule and prediction type."""
        return {
            "num_train_timesteps": self.num_train_timesteps,
            "beta_schedule": self.beta_schedule,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "rescale_betas_zero_snr": self.rescale_betas_zero_snr,
            "prediction_type": prediction_type,
            "timestep_spacing": "trailing",  # starts at the last training timestep (Lin et al., § 3.3)
            "steps_offset": 1,  # required by StableDiffusionPipeline; no effect with "trailing"
        }

    # --- coefficients -----------------------------------------------------------------------------------------------

    @cached_property
    def betas(self) -> Tensor:
        """(T,) float32, as diffusers computes them."""
        T = self.num_train_timesteps
        if self.beta_schedule == "linear":
            betas = torch.linspace(self.beta_start, self.beta_end, T)
        elif self.beta_schedule == "scaled_linear":
            betas = torch.linspace(self.beta_start**0.5, self.beta_end**0.5, T) ** 2
        else:
            cosine = [math.cos((i / T + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(T + 1)]
            betas = torch.tensor([min(1 - cosine[i + 1] / cosine[i], 0.999) for i in range(T)])
        return _zero_terminal_snr(betas) if self.rescale_betas_zero_snr else betas

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """ᾱ: (T,) float64."""
        return (1 - self.betas.double()).cumprod(0)

    def coefficients(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and √(1 − ᾱ_t) of timesteps (B,), with the dtype and number of axes of `like`.

        Fractional timesteps, which some samplers use, are interpolated.
        """
        last = self.num_train_timesteps - 1
        t = timesteps.cpu().double()
        if t.numel() and not 0 <= t.min() <= t.max() <= last:
            raise ValueError(f"timesteps must lie in [0, {last}], but range from {t.min():g} to {t.max():g}")
        below = t.floor().long()
        above = (below + 1).clamp(max=last)
        alpha_bar = torch.lerp(self.alphas_cumprod[below], self.alphas_cumprod[above], t - below)
        shape = (-1,) + (1,) * (like.ndim - 1)
        both = torch.stack([alpha_bar.sqrt(), (1 - alpha_bar).sqrt()]).to(like.device, like.dtype)
        return both[0].view(shape), both[1].view(shape)

    # --- forward process and conversions ----------------------------------------------------------------------------

    def add_noise(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t: (B, …), (B, …), (B,) -> (B, …)"""
        a, s = self.coefficients(timesteps, x0)
        return a * x0 + s * noise

    def target(self, prediction_type: str, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The training target of this prediction type: (B, …), (B, …), (B,) -> (B, …)"""
        check_prediction(prediction_type)
        if prediction_type == "epsilon":
            return noise
        if prediction_type == "sample":
            return x0
        a, s = self.coefficients(timesteps, x0)
        return a * noise - s * x0

    def split(self, prediction_type: str, output: Tensor, x_t: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(x_0, ε) from a denoiser's output: (B, …), (B, …), (B,) -> (B, …) twice.

        x_0 from ε is infinite or NaN where ᾱ_t = 0, and so is ε from x_0 where ᾱ_t = 1.
        """
        check_prediction(prediction_type)
        a, s = self.coefficients(timesteps, x_t)
        if prediction_type == "epsilon":
            return (x_t - s * output) / a, output
        if prediction_type == "sample":
            return output, (x_t - a * output) / s
        return a * x_t - s * output, s * x_t + a * output

    def join(self, prediction_type: str, x0: Tensor, x_t: Tensor, timesteps: Tensor) -> Tensor:
        """The denoiser output for a predicted x_0, the inverse of `split`: (B, …), (B, …), (B,) -> (B, …)"""
        check_prediction(prediction_type)
        if prediction_type == "sample":
            return x0
        a, s = self.coefficients(timesteps, x_t)
        noise = (x_t - a * x0) / s
        return noise if prediction_type == "epsilon" else a * noise - s * x0

    # --- signal-to-noise ratio --------------------------------------------------------------------------------------

    def snr(self, timesteps: Tensor) -> Tensor:
        """ᾱ_t / (1 − ᾱ_t): (B,) -> (B,) float64"""
        a, s = self.coefficients(timesteps, torch.zeros(1, dtype=torch.float64))
        return (a / s).square()

    def min_snr_weight(self, prediction_type: str, timesteps: Tensor, gamma: float) -> Tensor:
        """Weight of the squared error (Hang et al. 2023, arXiv 2303.09556, § 3.4): (B,) -> (B,) float64.

        For each prediction type, it is equivalent to the weight min(SNR, γ) on the error of x_0.
        """
        check_prediction(prediction_type)
        snr = self.snr(timesteps)
        if prediction_type == "epsilon":
            return (gamma / snr).clamp(max=1)  # min(SNR, γ) / SNR, also where SNR = 0
        capped = snr.clamp(max=gamma)
        return capped if prediction_type == "sample" else capped / (snr + 1)


def check_prediction(prediction_type: str) -> None:
    """Raise ValueError unless `prediction_type` is one of PREDICTIONS."""
    if prediction_type not in PREDICTIONS:
        raise ValueError(f"unknown prediction_type {prediction_type!r}: choose one of {', '.join(PREDICTIONS)}")


def _zero_terminal_snr(betas: Tensor) -> Tensor:
    """Shift and scale √ᾱ so that its last value is 0 and its first is unchanged (Lin et al. 2023, algorithm 1)."""
    root = (1 - betas).cumprod(0).sqrt()
    first, last = root[0].clone(), root[-1].clone()
    root = (root - last) * (first / (first - last))
    alpha_bar = root**2
    return 1 - torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
