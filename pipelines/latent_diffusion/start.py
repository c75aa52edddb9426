"""What the sampling of latents begins with: noise alone, or a picture under noise; and what of it stays as it is.

Shapes: n images · R images of a batch · C, h, w latent · H, W picture
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from diffusers import SchedulerMixin
from torch import Tensor


class FromNoise:
    """Text to image: every step is taken, and nothing is kept."""

    def steps(self, num_inference_steps: int) -> int:
        """How many of the sampler's steps are taken: its last ones. Raises ValueError for none."""
        return num_inference_steps

    def times(self, sampler: SchedulerMixin, num_inference_steps: int) -> Tensor:
        """The timesteps of those steps."""
        return sampler.timesteps

    def begin(self, sampler: SchedulerMixin, timesteps: Tensor, noise: Tensor, rows: slice) -> Tensor:
        """The latents at the first of the timesteps that are left: noise (R, C, h, w) -> the same."""
        return noise * getattr(sampler, "init_noise_sigma", 1.0)

    def blend(self, sampler: SchedulerMixin, x: Tensor, timestep: Tensor, noise: Tensor, rows: slice) -> Tensor:
        """The latents with what is kept put back, after a step: (R, C, h, w); (1,) or, after the last, (0,)."""
        return x

    def paste(self, images: Tensor) -> Tensor:
        """The decoded pictures with what is kept put back: (n, 3, H, W) in [-1, 1] -> the same."""
        return images


@dataclass(frozen=True)
class FromPicture(FromNoise):
    """Image to image (Meng et al. 2022, SDEdit, arXiv 2108.01073), and inpainting without a denoiser made for it
    (Avrahami et al. 2022, Blended Latent Diffusion, arXiv 2206.02779, § 3.1).

    Args:
        latents: of the pictures, (n, C, h, w), scaled.
        strength: the share of the steps that is taken, the last ones. At 1 all of them are, from noise alone.
        pixels: for inpainting the pictures, float32 (n, 3, H, W) in [-1, 1]; none where only their latents are known.
        repaint: for inpainting true where the picture is made anew, (n, 1, H, W).
        repaint_latents: the same for the latents, (n, 1, h, w).
    """

    latents: Tensor
    strength: float
    pixels: Tensor | None = None
    repaint: Tensor | None = None
    repaint_latents: Tensor | None = None

    def steps(self, num_inference_steps: int) -> int:
        left = min(int(num_inference_steps * self.strength), num_inference_steps)  # diffusers' count
        if left == 0 and self.strength > 0:
            raise ValueError(
                f"strength {self.strength} of {num_inference_steps} steps is not one whole step: give "
                f"num_inference_steps of {math.ceil(1 / self.strength)} or more, or a strength of "
                f"{math.ceil(100 / num_inference_steps) / 100}"
            )
        return left

    def times(self, sampler: SchedulerMixin, num_inference_steps: int) -> Tensor:
        steps = self.steps(num_inference_steps)
        first = (num_inference_steps - steps) * sampler.order if steps else len(sampler.timesteps)
        return sampler.timesteps[first:]

    def begin(self, sampler: SchedulerMixin, timesteps: Tensor, noise: Tensor, rows: slice) -> Tensor:
        if len(timesteps) == 0:
            return self.latents[rows]
        if hasattr(sampler, "set_begin_index"):
            sampler.set_begin_index(len(sampler.timesteps) - len(timesteps))
        if self.strength == 1:
            return super().begin(sampler, timesteps, noise, rows)
        return noised(sampler, self.latents[rows], noise, timesteps[:1])

    def blend(self, sampler: SchedulerMixin, x: Tensor, timestep: Tensor, noise: Tensor, rows: slice) -> Tensor:
        if self.repaint_latents is None:
            return x
        kept = self.latents[rows]
        if len(timestep):
            kept = noised(sampler, kept, noise, timestep)
        return torch.where(self.repaint_latents[rows], x, kept)

    def paste(self, images: Tensor) -> Tensor:
        if self.repaint is None or self.pixels is None:
            return images
        return torch.where(self.repaint, images.float(), self.pixels)


def noised(sampler: SchedulerMixin, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """(R, C, h, w) twice and (1,) -> the latents as noisy as the sampler expects them at this timestep."""
    if hasattr(sampler, "add_noise"):
        return sampler.add_noise(latents, noise, timestep)
    return sampler.scale_noise(latents, timestep, noise)  # of a flow
