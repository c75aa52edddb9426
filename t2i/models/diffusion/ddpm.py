"""Denoising diffusion: noise is added in T small steps, and a network learns to reverse each of them.

Ho et al. 2020, arXiv 2006.11239 ("DDPM"); sampling in fewer steps: Song et al. 2021, arXiv 2010.02502 ("DDIM").
As in the papers, x_0 is the image, x_1 … x_T ever noisier ones, and ᾱ_0 = 1.
Shapes: B batch · C channels · S image side · T steps · k sampled terms of the bound
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Literal

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from t2i.diffusion.schedule import NoiseSchedule
from t2i.models.base import PREVIEW_STEPS, GenerativeModel, Generators, Likelihood, normal, uniform
from t2i.models.diffusion.unet import make_unet
from t2i.models.pixel_likelihoods import discretized_gaussian, nearest

GUESS = 0.1  # assumed variance of a pixel, from which `elbo` estimates the magnitudes of the bound's terms


class DDPM(GenerativeModel):
    """q(x_t | x_{t-1}) = N(√(1 - β_t) x_{t-1}, β_t), and p(x_{t-1} | x_t), whose mean follows from a U-Net's ε̂(x_t, t).

    Args:
        image_size, channels, levels, num_classes: Properties of the images, see `GenerativeModel`.
        widths: Channels of each level of the U-Net, from fine to coarse; each level after the first halves the
            resolution.
        blocks: Residual blocks per level.
        dropout: Dropout probability within the residual blocks.
        num_train_timesteps: Number of diffusion steps, T.
        beta_schedule: Noise schedule: 'linear' (Ho et al.; β from 0.1/T to 20/T, so that the last step is almost pure
            noise for any T) or 'squaredcos_cap_v2' (cosine; Nichol and Dhariwal 2021).
        variance: Variance of the reverse steps: 'small' (β̃_t, optimal for deterministic data) or 'large' (β_t, optimal
            for normally distributed data), § 3.2.

    Raises ValueError for sizes that do not fit together.
    """

    likelihood: ClassVar[Likelihood] = "bound"
    _supports_gradient_checkpointing = True  # the U-Net does

    @register_to_config
    def __init__(
        self,
        image_size: int = 28,
        channels: int = 1,
        levels: int = 256,
        num_classes: int = 0,
        widths: tuple[int, ...] = (32, 64, 64),
        blocks: int = 1,
        dropout: float = 0.0,
        num_train_timesteps: int = 1000,
        beta_schedule: Literal["linear", "squaredcos_cap_v2"] = "linear",
        variance: Literal["small", "large"] = "small",
    ):
        super().__init__()
        self._declare(image_size, channels, levels, num_classes)
        self.schedule = _schedule(num_train_timesteps, beta_schedule)
        if variance not in ("small", "large"):
            raise ValueError(f"unknown variance {variance!r}: choose 'small' or 'large'")
        self.unet = make_unet(image_size, channels, num_classes, widths, blocks, dropout)
        self.T = num_train_timesteps
        # Indexed by t = 0 … T, float64; 1 where undefined (β_0, β̃_1).
        one = torch.ones(1, dtype=torch.float64)
        self.alpha_bar = torch.cat([one, self.schedule.alphas_cumprod])
        self.beta = torch.cat([one, self.schedule.betas.double()])
        before = torch.cat([one, self.alpha_bar[:-1]])
        self.x0_share = before.sqrt() * self.beta / (1 - self.alpha_bar).clamp(min=1e-30)  # of eq. 7's mean
        self.posterior = (1 - before) / (1 - self.alpha_bar).clamp(min=1e-30) * self.beta  # β̃_t, eq. 7
        self.posterior[:2] = self.posterior[2]  # used for p(x_0 | x_1), as in the authors' code
        self.sigma2 = self.posterior.clone() if variance == "small" else self.beta.clone()
        self.sigma2[:2] = self.posterior[2]

    # --- the network ------------------------------------------------------------------------------------------------

    def noise(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """ε̂: noisy images (B, C, S, S), t in 1 … T (B,), labels -> (B, C, S, S)"""
        times = (t - 1).to(x.device) * (1000 / self.T)  # the U-Net's timestep frequencies are made for 1000 steps
        return self.unet(x.to(self.dtype), times, y).sample.float()

    def denoised(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The predicted x̂_0, with the arguments of `noise` -> (B, C, S, S), clipped to [-1, 1]."""
        return self._denoised(x, t, self.noise(x, t, y))

    def _denoised(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        a, s = self._coefficients(t, x)
        return ((x - s * noise) / a).clamp(-1, 1)

    def _coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        return self.schedule.coefficients(t - 1, like)

    # --- training ---------------------------------------------------------------------------------------------------

    def loss(self, images: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """As `GenerativeModel.loss`, but `loss` is the mean square error of the noise (L_simple, eq. 14).

        `nats` and `bits` are those of the bound, estimated from one t per image: unbiased, but a single estimate has a
        high variance.
        """
        self._check(images, y)
        t = torch.randint(1, self.T + 1, (len(images),), device=images.device)
        noise = torch.randn_like(images)
        x = self.schedule.add_noise(images, noise, t - 1)
        predicted = self.noise(x, t, y)
        error = (predicted - noise).square().flatten(1).sum(1).mean()
        with torch.no_grad():
            term = self._term(images, self._denoised(x, t, predicted), t)
            nats = (self.T * term + self._last(images)).mean()
        return self._scalars(error, nats)

    # --- the bound --------------------------------------------------------------------------------------------------

    def terms(self, images: Tensor, y: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Each term of the bound, L_0 … L_T (eq. 5): images of L levels (B, C, S, S) -> nats (B, T + 1).

        The bound is their sum. L_0 is -ln p(x_0 | x_1), the others KL divergences, and all but L_T are estimated with
        one noisy image each. This takes T network evaluations; `elbo` estimates the sum from a few.
        """
        self._check(images, y)
        found = []
        for t in range(1, self.T + 1):
            found.append(self._at(images, torch.full((len(images),), t), y, generator))
        return torch.stack([*found, self._last(images)], dim=1)

    def elbo(self, images: Tensor, y: Tensor | None = None, generator: Generators = None, samples: int = 1) -> Tensor:
        """A lower bound of ln P(x | y), estimated: images of L levels (B, C, S, S) -> nats (B,).

        L_T and L_0 are computed; of the T - 1 terms between, k = `samples` are sampled with probability q_t, with
        weight 1 / (k q_t), which is unbiased for any q. Sampling is stratified (one term from each k-th part of q) and
        independent for each image. A single estimate has a high variance, unlike the mean over many images or samples.
        This takes k + 1 network evaluations.
        """
        self._check(images, y)
        if samples < 1:
            raise ValueError(f"samples must be at least 1, not {samples}")
        q = self._shares()
        u = uniform((len(images), samples), generator, torch.device("cpu"), torch.float64)
        parts = (torch.arange(samples) + u) / samples
        indices = torch.searchsorted(q.cumsum(0), parts).clamp(max=len(q) - 1)  # (B, k)
        bound = self._last(images) + self._at(images, torch.ones(len(images), dtype=torch.long), y, generator)
        for column in indices.unbind(1):
            counted = (1 / (samples * q[column])).to(images.device, torch.float32)
            bound = bound + counted * self._at(images, column + 2, y, generator)
        return -bound

    def _at(self, images: Tensor, t: Tensor, y: Tensor | None, generator: Generators) -> Tensor:
        """L_{t-1} (B,) at a sampled x_t; t (B,) on the CPU."""
        noise = normal(images.shape, generator, images.device, torch.float32)
        x = self.schedule.add_noise(images, noise, t - 1)
        return self._term(images, self.denoised(x, t, y), t)

    def _term(self, images: Tensor, denoised: Tensor, t: Tensor) -> Tensor:
        """L_{t-1} for the predicted x̂_0: images and x̂_0 (B, C, S, S), t (B,) -> nats (B,)"""
        t = t.cpu()
        sigma2, posterior, share = (
            of[t].view(-1, 1, 1, 1).to(images.device, torch.float32)
            for of in (self.sigma2, self.posterior, self.x0_share)
        )
        # KL(q(x_{t-1} | x_t, x_0) ‖ p(x_{t-1} | x_t)), eq. 8: the means differ only by a multiple of x_0 - x̂_0.
        ratio = posterior / sigma2
        kl = 0.5 * ((share * (images - denoised)).square() / sigma2 + ratio - 1 - ratio.log())
        # At t = 1 the mean is x̂_0 itself, and the decoder a discretised Gaussian around it, eq. 13.
        decoder = -discretized_gaussian(images, denoised, 0.5 * sigma2.log(), self.levels)
        first = (t == 1).view(-1, 1, 1, 1).to(images.device)
        return torch.where(first, decoder, kl).flatten(1).sum(1)

    def _last(self, images: Tensor) -> Tensor:
        """L_T = KL(q(x_T | x_0) ‖ N(0, 1)): (B,). It does not depend on the parameters."""
        left = self.alpha_bar[-1].item()
        constant = -left - torch.log1p(torch.tensor(-left, dtype=torch.float64)).item()
        return 0.5 * (left * images.float().square() + constant).flatten(1).sum(1)

    def _shares(self) -> Tensor:
        """q_t of t = 2 … T, (T - 1,): the terms' fractions of the bound for Gaussian pixels with variance GUESS."""
        left, share, sigma2 = self.alpha_bar[2:], self.x0_share[2:], self.sigma2[2:]
        error = GUESS * (1 - left) / (GUESS * left + 1 - left)
        guess = share.square() * error / sigma2
        return guess / guess.sum()

    # --- sampling ---------------------------------------------------------------------------------------------------

    @property
    def preview_options(self) -> dict[str, int]:
        """Fewer steps, with DDIM."""
        return {"steps": min(PREVIEW_STEPS, self.config.num_train_timesteps)}

    @torch.no_grad()
    def sample(
        self,
        n: int,
        y: Tensor | None = None,
        generator: Generators = None,
        steps: int | None = None,
        eta: float = 0.0,
    ) -> Tensor:
        """Generate images from noise. See `GenerativeModel`.

        Args:
            steps: number of DDIM steps; by default, all T steps of ancestral sampling (Ho et al., algorithm 2).
            eta: amount of fresh noise in DDIM: 0 is deterministic given the initial noise; 1 with T steps is ancestral
                sampling with the small variance.

        Raises ValueError for steps and eta out of range, and as `GenerativeModel` says.
        """
        self._check_labels(y, n)
        if not (steps is None or 1 <= steps <= self.T) or not 0 <= eta <= 1:
            raise ValueError(f"steps must lie in [1, {self.T}] and eta in [0, 1], not {steps=}, {eta=}")
        ancestral = steps is None
        x = normal((n, *self.shape), generator, self.device, torch.float32)
        for t, s in pairwise(torch.linspace(self.T, 0, (steps or self.T) + 1).round().long().tolist()):
            fresh = self.fresh(t, s, 1.0 if ancestral else eta)
            x = self._mean(x, t, s, fresh, y)
            if ancestral:
                fresh = self.sigma2[t].item() ** 0.5
            if fresh and s:  # the last step returns the mean
                x = x + fresh * normal(x.shape, generator, x.device, x.dtype)
        return nearest(x, self.levels)

    def fresh(self, t: int, s: int, eta: float = 1.0) -> float:
        """σ of the noise added in the step from x_t to x_s, s < t (DDIM, eq. 16)."""
        left, then = self.alpha_bar[t].item(), self.alpha_bar[s].item()
        return eta * ((1 - then) / (1 - left)) ** 0.5 * (1 - left / then) ** 0.5

    def _mean(self, x: Tensor, t: int, s: int, fresh: float, y: Tensor | None) -> Tensor:
        """The mean of x_s given x_t (DDIM, eq. 12): the predicted image plus the remaining part of the noise."""
        left, then = self.alpha_bar[t].item(), self.alpha_bar[s].item()
        image = self.denoised(x, torch.full((len(x),), t), y)
        noise = (x - left**0.5 * image) / (1 - left) ** 0.5
        return then**0.5 * image + max(0.0, 1 - then - fresh**2) ** 0.5 * noise


def _schedule(T: int, name: str) -> NoiseSchedule:
    if name not in ("linear", "squaredcos_cap_v2"):
        raise ValueError(f"unknown beta_schedule {name!r}: choose 'linear' or 'squaredcos_cap_v2'")
    least = 21 if name == "linear" else 2
    if least > T:
        raise ValueError(f"{T} timesteps are too few: a linear schedule needs 21, 'squaredcos_cap_v2' 2")
    return NoiseSchedule(T, "linear", 0.1 / T, 20 / T) if name == "linear" else NoiseSchedule(T, name)
