"""Latent consistency distillation (Luo et al. 2023, arXiv 2310.04378): a denoiser learns to predict the endpoint of the
sampling trajectory from any of its points, so that a few steps replace twenty. Guidance is distilled into the weights.

Shapes: B batch · C channels · h, w sides of a latent · L text positions · D width of the text states
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import LCMScheduler
from torch import Tensor, nn

from t2i.diffusion.conditioning import Conditioning
from t2i.diffusion.guidance import guide
from t2i.diffusion.schedule import NoiseSchedule

SIGMA_DATA = 0.5  # this and the next constant are those of diffusers' LCMScheduler
TIMESTEP_SCALING = 10.0
HUBER = 0.001  # c of the elementwise pseudo-Huber loss


@dataclass(frozen=True)
class ConsistencyObjective:
    """The distance between the student's predictions at two successive points of a teacher's trajectory (algorithm 1).

    The teacher takes one DDIM step with classifier-free guidance. The target is the prediction of the student with its
    current weights at the next point, without gradient: averaged weights do not help (Song and Dhariwal 2023,
    arXiv 2310.14189, § 3.2). The guidance scale is fixed and not an input, so that the student has the architecture of
    its teacher.

    Args:
        schedule, prediction_type: noise schedule and prediction type of teacher and student.
        teacher: a denoiser with the call signature of diffusers' UNet2DConditionModel; it is not trained.
        null: the states of the empty prompt, B = 1, and their mask if the denoiser takes one.
        guidance_scale: guidance scale of the teacher; 1 disables guidance.
        steps: number of steps of the teacher's whole trajectory.

    Raises ValueError for numbers out of range.
    """

    schedule: NoiseSchedule
    prediction_type: str
    teacher: nn.Module
    null: Conditioning
    guidance_scale: float = 2.0
    steps: int = 50

    def __post_init__(self) -> None:
        if not 2 <= self.steps <= self.schedule.num_train_timesteps or self.schedule.num_train_timesteps % self.steps:
            raise ValueError(f"steps must divide {self.schedule.num_train_timesteps} and be above 1, not {self.steps}")
        if not self.guidance_scale >= 1:
            raise ValueError(f"guidance_scale must be at least 1, not {self.guidance_scale}")

    def sample_noise(self, shape: tuple[int, int, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The random inputs of one sample: noise, float32 (C, h, w); timesteps, an int64 timestep of the trajectory."""
        stride = self.schedule.num_train_timesteps // self.steps
        start = (rng.integers(self.steps) + 1) * stride - 1  # LCMScheduler's timesteps: 19, 39, … 999
        return {"noise": rng.standard_normal(shape, dtype=np.float32), "timesteps": start}

    def loss(
        self,
        denoiser: nn.Module,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        states: Tensor,
        mask: Tensor | None = None,
        grid: None = None,
    ) -> dict[str, Tensor]:
        """Scalars: `loss` to minimise, a pseudo-Huber distance; `mse`. See DiffusionObjective for the arguments."""
        text = Conditioning(states, mask)
        x = self.schedule.add_noise(latents, noise, timesteps)
        predicted = self.end(denoiser, x, timesteps, text)
        with torch.no_grad():
            next_timesteps = timesteps - self.schedule.num_train_timesteps // self.steps  # −1: the endpoint
            next_x = self.teacher_step(x, timesteps, next_timesteps, text)
            clamped = next_timesteps.clamp(min=0)
            target = torch.where(_wide(next_timesteps < 0), next_x, self.end(denoiser, next_x, clamped, text))
        error = predicted - target
        huber = (error.square() + HUBER**2).sqrt() - HUBER
        return {"loss": huber.mean(), "mse": error.detach().square().mean()}

    def end(self, denoiser: nn.Module, x: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        """The predicted endpoint c_skip(t) x + c_out(t) x̂_0 (eq. 9), x at t = 0: (B, C, h, w), (B,) -> (B, C, h, w)"""
        x0, _ = self.schedule.split(self.prediction_type, _predict(denoiser, x, timesteps, text), x, timesteps)
        scaled = _wide(timesteps * TIMESTEP_SCALING)
        norm = scaled.square() + SIGMA_DATA**2
        return (SIGMA_DATA**2 / norm) * x + (scaled / norm.sqrt()) * x0

    def teacher_step(self, x: Tensor, timesteps: Tensor, next_timesteps: Tensor, text: Conditioning) -> Tensor:
        """Guided DDIM step (Song et al. 2021, arXiv 2010.02502, eq. 12) from `timesteps` to `next_timesteps`;
        −1 is the end.

        (B, C, h, w), (B,) twice -> (B, C, h, w)
        """
        if next(self.teacher.parameters()).device != x.device:
            self.teacher.to(x.device)
        predicted = _predict(self.teacher, x, timesteps, text)
        if self.guidance_scale != 1:
            null = self.null.to(x)[torch.zeros(len(x), dtype=torch.long, device=x.device)]
            predicted = guide(predicted, _predict(self.teacher, x, timesteps, null), self.guidance_scale)
        x0, noise = self.schedule.split(self.prediction_type, predicted, x, timesteps)
        next_x = self.schedule.add_noise(x0, noise, next_timesteps.clamp(min=0))
        return torch.where(_wide(next_timesteps < 0), x0, next_x)

    def scheduler(self) -> LCMScheduler:
        """The student's sampler, which alternates predicting the endpoint and adding new noise (algorithm 2)."""
        config = self.schedule.scheduler_config(self.prediction_type)
        return LCMScheduler.from_config(
            config, original_inference_steps=self.steps, timestep_scaling=TIMESTEP_SCALING, clip_sample=False
        )


def _predict(denoiser: nn.Module, x: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
    return denoiser(x, timesteps, encoder_hidden_states=text.states, encoder_attention_mask=text.mask).sample.float()


def _wide(per_sample: Tensor) -> Tensor:
    return per_sample.view(-1, 1, 1, 1)
