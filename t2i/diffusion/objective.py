"""The training objective of a denoiser: from latents, noise and a timestep to a loss.

All randomness comes from `sample_noise`, with a generator per sample: so a resumed run equals an uninterrupted one, and
two processes with half the batch each equal one process.

Shapes: B batch · C channels · h, w sides of a latent · L text positions · D width of the text states
K condition channels
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin
from torch import Tensor, nn

from t2i.diffusion.conditioning import concat_grid
from t2i.diffusion.flow import RectifiedFlow
from t2i.diffusion.schedule import PREDICTIONS, NoiseSchedule

Prediction = Literal["epsilon", "sample", "v_prediction", "flow"]


@dataclass(frozen=True)
class DiffusionObjective:
    """The squared error of the denoiser's prediction (Ho et al. 2020, eq. 14, and its variants).

    Args:
        schedule: noise schedule; a "flow" uses only its num_train_timesteps.
        prediction_type: what the denoiser predicts: "epsilon", "sample", "v_prediction", or "flow" for the velocity.
        min_snr_gamma: γ of min-SNR weighting (Hang et al. 2023, arXiv 2303.09556); None weights all timesteps equally.
        noise_offset: standard deviation of additional noise that is constant over each channel, which lets a denoiser
            change the mean of an image (https://www.crosslabs.org/blog/diffusion-with-offset-noise).

    Raises ValueError for invalid combinations, with the remedy.
    """

    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    prediction_type: Prediction = "v_prediction"
    min_snr_gamma: float | None = None
    noise_offset: float = 0.0

    def __post_init__(self) -> None:
        known = (*PREDICTIONS, "flow")
        if self.prediction_type not in known:
            raise ValueError(f"unknown prediction_type {self.prediction_type!r}: choose one of {', '.join(known)}")
        if self.min_snr_gamma is not None:
            if self.prediction_type == "flow":
                raise ValueError("min_snr_gamma does not apply to flow matching: leave it out")
            if not self.min_snr_gamma > 0:
                raise ValueError(f"min_snr_gamma must be above 0, not {self.min_snr_gamma}")
        if not 0 <= self.noise_offset < 1:
            raise ValueError(f"noise_offset must lie in [0, 1), not {self.noise_offset}")
        if self.prediction_type == "epsilon" and self.schedule.rescale_betas_zero_snr:
            raise ValueError(
                "epsilon prediction is undefined at zero terminal SNR: with rescale_betas_zero_snr choose "
                "prediction_type v_prediction or sample"
            )

    @cached_property
    def flow(self) -> RectifiedFlow | None:
        if self.prediction_type != "flow":
            return None
        return RectifiedFlow(self.schedule.num_train_timesteps)

    def sample_noise(self, shape: tuple[int, int, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Random inputs of one sample: noise, float32 (C, h, w); timesteps, an int64 scalar (float32 for a flow)."""
        noise = rng.standard_normal(shape, dtype=np.float32)
        if self.noise_offset:
            noise += np.float32(self.noise_offset) * rng.standard_normal((shape[0], 1, 1), dtype=np.float32)
        if self.flow:
            return {"noise": noise, "timesteps": np.float32(self.flow.sample_timestep(rng))}
        return {"noise": noise, "timesteps": rng.integers(self.schedule.num_train_timesteps)}

    def loss(
        self,
        denoiser: nn.Module,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        states: Tensor,
        mask: Tensor | None = None,
        grid: Tensor | None = None,
        **conditions: Tensor,
    ) -> dict[str, Tensor]:
        """Scalars: `loss` to minimise; `mse`, the same without weights. See `errors` for the arguments."""
        errors = self.errors(denoiser, latents, noise, timesteps, states, mask, grid, **conditions)
        if self.min_snr_gamma is None:
            return {"loss": errors.mean(), "mse": errors.detach().mean()}
        weights = self.schedule.min_snr_weight(self.prediction_type, timesteps, self.min_snr_gamma)
        return {"loss": (errors * weights.to(errors)).mean(), "mse": errors.detach().mean()}

    def errors(
        self,
        denoiser: nn.Module,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        states: Tensor,
        mask: Tensor | None = None,
        grid: Tensor | None = None,
        **conditions: Tensor,
    ) -> Tensor:
        """The mean squared error of each sample's prediction, (B,).

        Args:
            denoiser: has the call signature of diffusers' UNet2DConditionModel.
            latents, noise: (B, C, h, w), the latents (or pixels) scaled to a standard deviation of about 1.
            timesteps: (B,)
            states, mask: text states (B, L, D) and mask (B, L), true where there is text.
            grid: for denoisers with condition channels, (B, K, h, w).
            conditions: what else the denoiser is given, under its arguments' names.
        """
        if self.flow:
            x, target = self.flow.add_noise(latents, noise, timesteps), self.flow.target(latents, noise)
        else:
            x = self.schedule.add_noise(latents, noise, timesteps)
            target = self.schedule.target(self.prediction_type, latents, noise, timesteps)
        x = concat_grid(x, grid)
        text = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        predicted = denoiser(x, timesteps, **text, **conditions).sample
        return (predicted.float() - target.float()).square().mean((1, 2, 3))

    def scheduler(self) -> SchedulerMixin:
        """The default sampler: DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095), for a flow Euler's method."""
        if self.flow:
            return FlowMatchEulerDiscreteScheduler(**self.flow.scheduler_config())
        return DPMSolverMultistepScheduler(**self.schedule.scheduler_config(self.prediction_type))
