"""What sampling starts from: noise, or an image with noise added; and which part of the image is kept.

Shapes: n images · R rows of a batch · C, h, w latent · H, W image
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from diffusers import SchedulerMixin
from torch import Tensor


class FromNoise:
    """Text to image: all steps are run, and nothing is kept."""

    def steps(self, num_inference_steps: int) -> int:
        """Number of steps to run: all, or with an image only the last ones. Raises ValueError if that is none."""
        return num_inference_steps

    def times(self, sampler: SchedulerMixin, num_inference_steps: int) -> Tensor:
        """The timesteps of those steps."""
        return sampler.timesteps

    def begin(self, sampler: SchedulerMixin, timesteps: Tensor, noise: Tensor, rows: Tensor) -> Tensor:
        """Noise (R, C, h, w) of the images `rows` (R,) -> the latents at the first of the timesteps that are run, the
        same shape.
        """
        return noise * getattr(sampler, "init_noise_sigma", 1.0)

    def blend(self, sampler: SchedulerMixin, x: Tensor, timestep: Tensor, noise: Tensor, rows: Tensor) -> Tensor:
        """Put the kept part back after a step: x (R, C, h, w); the next timestep (1,), or (0,) after the last step."""
        return x

    def paste(self, images: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Put the kept part back into the decoded images `rows`, by default all, (R, 3, H, W) in [-1, 1]."""
        return images


@dataclass(frozen=True)
class FromImage(FromNoise):
    """Image to image (Meng et al. 2022, SDEdit, arXiv 2108.01073), and inpainting with any denoiser
    (Avrahami et al. 2022, Blended Latent Diffusion, arXiv 2206.02779, § 3.1).

    Args:
        latents: the scaled latents of the images, (n, C, h, w).
        strength: the fraction of the steps that is run, the last ones. At 1 all are, from noise.
        pixels: for inpainting, the images, float32 (n, 3, H, W) in [-1, 1]; None where only their latents are given.
        repaint: for inpainting, the mask (n, 1, H, W), true where the image is repainted.
        repaint_latents: the mask of the latents, (n, 1, h, w).
    """

    latents: Tensor
    strength: float
    pixels: Tensor | None = None
    repaint: Tensor | None = None
    repaint_latents: Tensor | None = None

    def steps(self, num_inference_steps: int) -> int:
        steps = min(int(num_inference_steps * self.strength), num_inference_steps)  # diffusers' count
        if steps == 0 and self.strength > 0:
            raise ValueError(
                f"strength {self.strength} with {num_inference_steps} steps runs no step: give "
                f"num_inference_steps of {math.ceil(1 / self.strength)} or more, or a strength of "
                f"{math.ceil(100 / num_inference_steps) / 100}"
            )
        return steps

    def times(self, sampler: SchedulerMixin, num_inference_steps: int) -> Tensor:
        steps = self.steps(num_inference_steps)
        first = (num_inference_steps - steps) * sampler.order if steps else len(sampler.timesteps)
        return sampler.timesteps[first:]

    def begin(self, sampler: SchedulerMixin, timesteps: Tensor, noise: Tensor, rows: Tensor) -> Tensor:
        if len(timesteps) == 0:
            return self.latents[rows]
        if hasattr(sampler, "set_begin_index"):
            sampler.set_begin_index(len(sampler.timesteps) - len(timesteps))
        if self.strength == 1:
            return super().begin(sampler, timesteps, noise, rows)
        return noised(sampler, self.latents[rows], noise, timesteps[:1])

    def blend(self, sampler: SchedulerMixin, x: Tensor, timestep: Tensor, noise: Tensor, rows: Tensor) -> Tensor:
        if self.repaint_latents is None:
            return x
        kept = self.latents[rows]
        if len(timestep):
            kept = noised(sampler, kept, noise, timestep)
        return torch.where(self.repaint_latents[rows], x, kept)

    def paste(self, images: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        if self.repaint is None or self.pixels is None:
            return images
        return torch.where(self.repaint[rows], images.float(), self.pixels[rows])


def noised(sampler: SchedulerMixin, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """Latents and noise (R, C, h, w), timestep (1,) -> latents with the noise level of this timestep."""
    if hasattr(sampler, "add_noise"):
        return sampler.add_noise(latents, noise, timestep)
    return sampler.scale_noise(latents, timestep, noise)  # flow matching
