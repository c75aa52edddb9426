"""The variational autoencoder, β-VAE and conditional VAE, and the importance-weighted bound.

Kingma and Welling 2014, arXiv 1312.6114; Higgins et al. 2017 (β-VAE); Sohn et al. 2015 (conditional); Burda et al. 2016
(importance-weighted), arXiv 1509.00519.
Shapes: B batch · C channels · S image side · Z latent dimensions · K samples of the bound
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from t2i.models.base import GenerativeModel, Generators, Likelihood, Partial, density_images, log_likelihood, normal
from t2i.models.pixel_likelihoods import Pixels, check_pixels, log_prob, mode, outputs_of, sample_pixels
from t2i.nn.blocks import ResBlock

GROUPS = 8  # number of groups of the group norms
IMPUTED = 5  # number of times that unknown pixels are replaced by their reconstruction


class VAE(GenerativeModel):
    """q(z | x) = N(μ(x), σ²(x)), p(z) = N(0, 1), and a decoder p(x | z) over pixels, all conditioned on any labels y.

    Args:
        image_size, channels, levels, num_classes: Properties of the images, see `GenerativeModel`; with labels, the
            prior p(z | y) = N(μ_y, σ_y²) is learned.
        widths: Channels of each level of the networks, from fine to coarse; each level after the first halves the
            resolution.
        blocks: Residual blocks per level.
        latent_dim: Number of latent variables, Z.
        pixels: Distribution of a pixel given the latents: 'bernoulli' for 2 levels; for more, 'gaussian' (a density of
            dequantised pixels) or 'logistic' (discretised).
        beta: Weight of the KL divergence in the loss, β; the reported bound has weight 1.
        dropout: Dropout probability of the feature maps between levels.
        train_samples: Importance samples of the training bound, K; above 1 requires beta 1.

    Raises ValueError for sizes that do not fit together.
    """

    likelihood: ClassVar[Likelihood] = "bound"
    latents: ClassVar[bool] = True
    partial: ClassVar[Partial] = "any"

    @register_to_config
    def __init__(
        self,
        image_size: int = 28,
        channels: int = 1,
        levels: int = 2,
        num_classes: int = 0,
        widths: tuple[int, ...] = (32, 64, 64),
        blocks: int = 1,
        latent_dim: int = 50,
        pixels: Pixels = "bernoulli",
        beta: float = 1.0,
        dropout: float = 0.1,
        train_samples: int = 1,
    ):
        super().__init__()
        self._declare(image_size, channels, levels, num_classes)
        check_pixels(pixels, levels)
        check_widths(image_size, widths)
        if latent_dim < 1 or train_samples < 1 or not beta >= 0 or (train_samples > 1 and beta != 1):
            raise ValueError(
                "latent_dim and train_samples must be at least 1 and beta at least 0, and 1 with several samples, not "
                f"{latent_dim=}, {train_samples=}, {beta=}"
            )
        self.continuous = pixels == "gaussian"
        self.pixels, self.latent_dim = pixels, latent_dim
        side, top = image_size // 2 ** (len(widths) - 1), widths[-1]
        self.label = nn.Embedding(num_classes, top) if num_classes else None
        self.prior = nn.Embedding(num_classes, 2 * latent_dim) if num_classes else None
        self.encoder = nn.Sequential(*encoder_levels(channels, widths, blocks, dropout))
        self.to_posterior = nn.Linear(top * side * side + (top if num_classes else 0), 2 * latent_dim)
        self.from_latent = nn.Linear(latent_dim + (top if num_classes else 0), top * side * side)
        self.unflatten = nn.Unflatten(1, (top, side, side))
        self.decoder = nn.Sequential(*decoder_levels(widths, blocks, dropout, outputs_of(pixels) * channels))
        if self.prior is not None:
            nn.init.zeros_(self.prior.weight)

    def posterior(self, images: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images (B, C, S, S) -> mean and log σ of q(z | x, y), (B, Z) each. Raises ValueError for other images."""
        self._check(images, y)
        features = self._with_label(self.encoder(images.to(self.dtype)).flatten(1), y)
        mean, log_std = self.to_posterior(features).float().chunk(2, dim=1)  # so that the KL is float32
        return mean, log_std.clamp(-7, 4)

    def encode(self, images: Tensor, y: Tensor | None = None) -> Tensor:
        """Images (B, C, S, S) -> means of their latents (B, Z)"""
        return self.posterior(images, y)[0]

    def kl(self, images: Tensor, y: Tensor | None = None) -> Tensor:
        """Images (B, C, S, S) -> KL(q(z | x, y) ‖ p(z | y)) per latent dimension, in nats (B, Z)"""
        mean, log_std = self.posterior(images, y)
        return gaussian_kl(mean, log_std, *self._prior(y, mean))

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Latents (B, Z) -> mean images (B, C, S, S) in [-1, 1]. Raises ValueError for other shapes."""
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"latents must have the shape (B, {self.latent_dim}), not {tuple(z.shape)}")
        self._check_labels(y, len(z))
        return mode(self.pixels, self._outputs(z, y))

    def loss(self, images: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """As `GenerativeModel.loss`, with β; also `kl` and `reconstruction`, nats per image."""
        if self.config.train_samples > 1:
            nats = -log_likelihood(self, images, y, samples=self.config.train_samples).mean()
            return self._scalars(nats, nats)
        images, offset = density_images(self, images)
        reconstruction, kl = (term.mean() for term in self._terms(images, y, None, images, None))
        reconstruction = reconstruction + offset
        parts = self._scalars(self.config.beta * kl - reconstruction, kl - reconstruction)
        return parts | {"kl": kl.detach(), "reconstruction": -reconstruction.detach()}

    def elbo(
        self,
        images: Tensor,
        y: Tensor | None = None,
        generator: Generators = None,
        samples: int = 1,
        known: Tensor | None = None,
    ) -> Tensor:
        """A lower bound of ln p(x | y): images (B, C, S, S) -> nats (B,).

        With one sample, E_q ln p(x|z) - KL(q ‖ p) with the analytic KL (Kingma and Welling, eq. 10); with K, the
        importance-weighted ln 1/K Σ p(x, z_k) / q(z_k | x) (Burda et al., eq. 8), which is tighter for larger K. With
        `known` (see `GenerativeModel`), a bound of ln p of those pixels, which are independent of the others given z.
        """
        seen, known = seen_and_known(self, images, y, known)
        if samples == 1:
            reconstruction, kl = self._terms(images, y, generator, seen, known)
            return reconstruction - kl
        mean, log_std = self.posterior(seen, y)
        noise = normal((len(images), samples, self.latent_dim), generator, images.device, self.dtype)
        weights = []
        for k in range(samples):  # sequentially, since a large K would take K times the memory
            z = mean + log_std.exp() * noise[:, k]
            prior_mean, prior_log_std = self._prior(y, mean)
            ratio = gaussian(z, prior_mean, prior_log_std) - gaussian(z, mean, log_std)
            weights.append(self._pixels(z, y, images, known) + ratio.sum(1))
        return torch.stack(weights).logsumexp(0) - math.log(samples)

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Sample z from the prior, then pixels from the decoder. See `GenerativeModel`."""
        self._check_labels(y, n)
        noise = normal((n, self.latent_dim), generator, self.device, self.dtype)
        mean, log_std = self._prior(y, noise)
        return sample_pixels(self.pixels, self._outputs(mean + log_std.exp() * noise, y), self.levels, generator)

    def _terms(
        self, images: Tensor, y: Tensor | None, generator: Generators, seen: Tensor, known: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """ln p(known pixels | z) and KL(q(z | seen) ‖ p(z)), in nats (B,)"""
        mean, log_std = self.posterior(seen, y)
        noise = normal(mean.shape, generator, mean.device, mean.dtype)
        kl = gaussian_kl(mean, log_std, *self._prior(y, mean)).sum(1)
        return self._pixels(mean + log_std.exp() * noise, y, images, known), kl

    def _prior(self, y: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
        if self.prior is None:
            return torch.zeros_like(like), torch.zeros_like(like)
        mean, log_std = self.prior(y).chunk(2, dim=1)
        return mean, log_std.clamp(-7, 4)

    def _pixels(self, z: Tensor, y: Tensor | None, images: Tensor, known: Tensor | None) -> Tensor:
        return log_prob(self.pixels, self._outputs(z, y).float(), images, self.levels, known)

    def _outputs(self, z: Tensor, y: Tensor | None) -> Tensor:
        return self.decoder(self.unflatten(self.from_latent(self._with_label(z.to(self.dtype), y))))

    def _with_label(self, x: Tensor, y: Tensor | None) -> Tensor:
        return x if self.label is None else torch.cat([x, self.label(y)], dim=1)


def seen_and_known(
    model: GenerativeModel, images: Tensor, y: Tensor | None, known: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The encoder's input (B, C, S, S), and which values are known, bool (B, C, S, S), or None if all.

    Unknown pixels are initialised to grey and repeatedly replaced by their reconstruction (Rezende et al. 2014,
    arXiv 1401.4082, appendix F, with means instead of samples): the bound holds for any posterior, but is loose if the
    encoder's input is unlike any image. Raises ValueError as `GenerativeModel._check_known` does.
    """
    if known is None:
        return images, None
    model._check(images, y)
    known = model._check_known(known, len(images)).to(images.device)
    seen = images.where(known, 0.0)
    with torch.no_grad():
        for _ in range(IMPUTED):
            seen = images.where(known, model.decode(model.encode(seen, y), y).to(images.dtype))
    return seen, known


def gaussian(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """ln N(x; mean, std²), elementwise."""
    return -0.5 * ((x - mean) * (-log_std).exp()).square() - log_std - 0.5 * math.log(2 * math.pi)


def gaussian_kl(mean: Tensor, log_std: Tensor, prior_mean: Tensor, prior_log_std: Tensor) -> Tensor:
    """KL(N(mean, std²) ‖ N(prior_mean, prior_std²)), elementwise, in nats."""
    ratio, shift = log_std - prior_log_std, (mean - prior_mean) * (-prior_log_std).exp()
    return 0.5 * ((2 * ratio).exp() + shift.square() - 1) - ratio


def check_widths(image_size: int, widths: tuple[int, ...]) -> None:
    """Raise ValueError for channels that the group norms cannot divide and a side that the levels cannot halve."""
    if not widths or any(w < GROUPS or w % GROUPS for w in widths):
        raise ValueError(f"widths must be multiples of {GROUPS}, at least one of them, not {tuple(widths)}")
    if image_size % 2 ** (len(widths) - 1):
        raise ValueError(f"an image side of {image_size} cannot be halved {len(widths) - 1} times")


def encoder_levels(channels: int, widths: tuple[int, ...], blocks: int, dropout: float) -> list[nn.Module]:
    """One module per level, each with output (B, width, s, s), the first at the image resolution."""
    levels, before = [], channels
    for i, width in enumerate(widths):
        first = nn.Conv2d(before, width, 4, 2, 1) if i else nn.Conv2d(before, width, 3, padding=1)
        levels.append(nn.Sequential(first, *(ResBlock(width) for _ in range(blocks)), nn.Dropout(dropout)))
        before = width
    return levels


def decoder_levels(widths: tuple[int, ...], blocks: int, dropout: float, outputs: int) -> list[nn.Module]:
    """Modules from (B, width, s, s) of the coarsest level to (B, outputs, S, S)."""
    layers: list[nn.Module] = []
    for i in reversed(range(len(widths))):
        layers += [ResBlock(widths[i]) for _ in range(blocks)]
        layers.append(nn.Dropout(dropout))
        if i:
            layers.append(nn.ConvTranspose2d(widths[i], widths[i - 1], 4, 2, 1))
    return [*layers, nn.GroupNorm(GROUPS, widths[0]), nn.SiLU(), nn.Conv2d(widths[0], outputs, 3, padding=1)]
