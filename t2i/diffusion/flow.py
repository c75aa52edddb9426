"""Rectified flow: straight lines from data to noise.

Liu et al. 2023 (arXiv 2209.03003); Lipman et al. 2023 (arXiv 2210.02747).

x_σ = (1 − σ) x_0 + σ ε for σ from 0 to 1, and the denoiser predicts the velocity dx/dσ = ε − x_0. Sampling integrates
it from σ = 1 to 0, by default with Euler's method (diffusers' FlowMatchEulerDiscreteScheduler); schedulers.py has
others. A timestep is T · σ, with T = num_train_timesteps.

Shapes: B batch · … the axes of a sample
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class RectifiedFlow:
    """Args:
    num_train_timesteps: T; only a scale, σ is continuous.
    spread: spread of the training times: σ = sigmoid(spread · z), z standard normal (Esser et al. 2024,
        arXiv 2403.03206, § 3.1), since the middle of the trajectory is the hardest.

    Raises ValueError for numbers out of range.
    """

    num_train_timesteps: int = 1000
    spread: float = 1.0

    def __post_init__(self) -> None:
        if self.num_train_timesteps < 1 or not self.spread > 0:
            raise ValueError(f"a flow needs num_train_timesteps ≥ 1 and spread > 0, not {self}")

    def sample_timestep(self, rng: np.random.Generator) -> float:
        """A random training timestep in (0, T)."""
        return self.num_train_timesteps / (1 + math.exp(-self.spread * rng.standard_normal()))

    def add_noise(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_σ: (B, …), (B, …), (B,) -> (B, …)"""
        sigma = self._sigma(timesteps, x0)
        return (1 - sigma) * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor) -> Tensor:
        """The velocity: (B, …), (B, …) -> (B, …)"""
        return noise - x0

    def split(self, velocity: Tensor, x: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(x_0, ε) from the predicted velocity at x_σ: (B, …), (B, …), (B,) -> (B, …) twice"""
        sigma = self._sigma(timesteps, x)
        return x - sigma * velocity, x + (1 - sigma) * velocity

    def join(self, x0: Tensor, x: Tensor, timesteps: Tensor) -> Tensor:
        """The velocity for a predicted x_0, the inverse of `split`; not defined at σ = 0."""
        return (x - x0) / self._sigma(timesteps, x)

    def scheduler_config(self) -> dict[str, Any]:
        """The config of diffusers' FlowMatchEulerDiscreteScheduler."""
        return {"num_train_timesteps": self.num_train_timesteps, "shift": 1.0}

    def _sigma(self, timesteps: Tensor, like: Tensor) -> Tensor:
        sigma = timesteps.cpu().double() / self.num_train_timesteps  # on the CPU: not every device has float64
        return sigma.to(like.device, like.dtype).view(-1, *(1,) * (like.ndim - 1))
