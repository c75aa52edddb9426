"""Noising as a stochastic differential equation, dx = f(t) x dt + g(t) dw, from the image at t = 0 to noise at t = 1.

Song et al. 2021, arXiv 2011.13456 (§ 3.4, app. B and C). All three are linear, so that x_t = a(t) x_0 + s(t) ε; and for
all of them d ln(a²/s²) / dt = -g² / s² (Kingma et al. 2021, arXiv 2107.00630, app. I), so that the log-SNR is a
suitable time variable for all.
Shapes: B batch · … the axes of a sample; times, a, s, f and g are (B,) or scalars
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_STD = 1e-3  # standard deviation of the noise at the first time: at t = 0, scores may be infinite


@dataclass(frozen=True)
class SDE:
    """Base class of the three SDEs."""

    prior_std: ClassVar[float] = 1.0

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """a and s of x_t = a x_0 + s ε."""
        raise NotImplementedError

    def rate(self, t: Tensor) -> Tensor:
        """f of the drift f x."""
        raise NotImplementedError

    def diffusion(self, t: Tensor) -> Tensor:
        """g, above 0."""
        raise NotImplementedError

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr`."""
        raise NotImplementedError

    def log_snr(self, t: Tensor) -> Tensor:
        """The log-SNR ln(a² / s²), which decreases from image to noise."""
        a, s = self.marginal(t)
        return 2 * (a.log() - s.log())

    @property
    def first(self) -> float:
        """The smallest time of training and sampling."""
        return float(self.time(torch.tensor(-2 * math.log(LEAST_STD), dtype=torch.float64)))

    def times(self, steps: int) -> Tensor:
        """Sampling times from 1 to `first`, (steps + 1,), float64.

        Uniform steps would be far too large for small t: where g² / s² is about 1 / t, a step has to be a fraction of
        t. Uniform steps of the cube root of t satisfy this, and are small enough for large t.
        """
        return torch.linspace(1, self.first ** (1 / 3), steps + 1, dtype=torch.float64) ** 3

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """f x: (B, …), (B,) -> (B, …)"""
        return along(self.rate(t), x) * x

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t: (B, …), (B, …), (B,) -> (B, …)"""
        a, s = self.marginal(t)
        return along(a, x0) * x0 + along(s, x0) * noise

    def prior_log_prob(self, x: Tensor) -> Tensor:
        """ln of the density of x_1, N(0, prior_std²): (B, …) -> nats (B,)"""
        nats = -0.5 * (x / self.prior_std).square() - 0.5 * math.log(2 * math.pi * self.prior_std**2)
        return nats.flatten(1).sum(1)


@dataclass(frozen=True)
class VP(SDE):
    """Variance preserving, a² + s² = 1: the limit of DDPM for many steps (eq. 11 and 32).

    Raises ValueError for β that do not increase.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(f"β must satisfy 0 < beta_min ≤ beta_max, not {self.beta_min} and {self.beta_max}")

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        grown = self._grown(t)
        return (-0.5 * grown).exp(), (-torch.expm1(-grown)).sqrt()

    def rate(self, t: Tensor) -> Tensor:
        return -0.5 * self._beta(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return self._beta(t).sqrt()

    def time(self, log_snr: Tensor) -> Tensor:
        return self._when(F.softplus(-log_snr))  # a² / s² = 1 / (exp(∫β) - 1)

    def _beta(self, t: Tensor) -> Tensor:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def _grown(self, t: Tensor) -> Tensor:
        """∫β from 0 to t"""
        return t * self.beta_min + 0.5 * t.square() * (self.beta_max - self.beta_min)

    def _when(self, grown: Tensor) -> Tensor:
        """The inverse of `_grown`, by the quadratic formula in its form without cancellation."""
        slope = self.beta_max - self.beta_min
        return 2 * grown / (self.beta_min + (self.beta_min**2 + 2 * slope * grown).sqrt())


@dataclass(frozen=True)
class SubVP(VP):
    """Sub-variance preserving: less noise than VP, s = 1 - a² instead of √(1 - a²) (eq. 12 and 33)."""

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        grown = self._grown(t)
        return (-0.5 * grown).exp(), -torch.expm1(-grown)

    def diffusion(self, t: Tensor) -> Tensor:
        return (self._beta(t) * -torch.expm1(-2 * self._grown(t))).sqrt()

    def time(self, log_snr: Tensor) -> Tensor:
        return self._when(2 * torch.asinh(0.5 * (-0.5 * log_snr).exp()))  # s / a = 2 sinh(∫β / 2)


@dataclass(frozen=True)
class VE(SDE):
    """Variance exploding: the image is not scaled, and noise of σ_min (σ_max / σ_min)^t is added (eq. 9 and 31).

    Raises ValueError for σ that do not increase.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"σ must satisfy 0 < sigma_min < sigma_max, not {self.sigma_min} and {self.sigma_max}")

    @property
    def prior_std(self) -> float:
        return self.sigma_max

    @property
    def first(self) -> float:
        return 0.0  # where the noise is σ_min

    def times(self, steps: int) -> Tensor:
        return torch.linspace(1, self.first, steps + 1, dtype=torch.float64)  # g² / s² is constant

    @property
    def _growth(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_min * (self._growth * t).exp()

    def rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.marginal(t)[1] * (2 * self._growth) ** 0.5

    def time(self, log_snr: Tensor) -> Tensor:
        return (-0.5 * log_snr - math.log(self.sigma_min)) / self._growth


SDES = {"vp": VP, "ve": VE, "subvp": SubVP}


def along(values: Tensor, x: Tensor) -> Tensor:
    """Reshape values (B,) or () to broadcast with samples (B, …)."""
    return values.to(x.device, x.dtype).view(-1, *(1,) * (x.ndim - 1))
