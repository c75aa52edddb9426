"""DDIM inversion: the noise from which a deterministic sampler generates a given latent.

Song et al. 2021 (arXiv 2010.02502, § 5.4); Dhariwal and Nichol 2021 (arXiv 2105.05233, app. F).

Shapes: B latents · … the axes of a latent · N steps
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from t2i.diffusion.schedule import NoiseSchedule


@torch.no_grad()
def invert(
    predict: Callable[[Tensor, Tensor], Tensor],
    latents: Tensor,
    timesteps: Tensor,
    schedule: NoiseSchedule,
    prediction_type: str,
    refinements: int = 1,
) -> Tensor:
    """The noise x_T (B, …) from which DDIM without noise (η = 0) returns to the latents x_0 (B, …).

    A step of DDIM from x_t to x_s is (eq. 12, with a = √ᾱ and σ = √(1 − ᾱ))

        x_s = a_s/a_t x_t + (σ_s − σ_t a_s/a_t) ε(x_t, t)

    and is solved for x_t. Its ε is that of the unknown x_t: it is first taken at x_s, as the paper does, which is exact
    for steps of length 0, and then again at the solution so far, as often as `refinements` says.

    Args:
        predict: the denoiser's output (B, …) for x (B, …) and a timestep, with its conditioning and guidance.
        timesteps: (N,), those of the sampler, in its decreasing order.
        prediction_type: the kind of the denoiser's output.
        refinements: further evaluations per step: 0 takes half the time of 1, and needs many more steps.

    Raises FloatingPointError for a result that is not finite.
    """
    x, B = latents, len(latents)
    for s, t in pairwise([-1, *reversed(timesteps.tolist())]):  # −1: the latents themselves, ᾱ = 1
        a_t, sigma_t = schedule.coefficients(torch.tensor([t]), x)
        a_s, sigma_s = (1.0, 0.0) if s < 0 else schedule.coefficients(torch.tensor([s]), x)
        guess, at = x, max(s, 0)
        for _ in range(1 + refinements):
            times = torch.full((B,), at)
            output = predict(guess, torch.tensor(at, device=x.device))
            _, noise = schedule.split(prediction_type, output, guess, times)
            guess, at = a_t / a_s * (x - sigma_s * noise) + sigma_t * noise, t
        x = guess
    if not x.isfinite().all():
        raise FloatingPointError("DDIM inversion left the range of numbers: take more steps, or less guidance")
    return x
