"""A hierarchical variational autoencoder: groups of latents, from coarse to fine, each conditioned on those above it.

A small NVAE (Vahdat and Kautz 2020, arXiv 2007.03898): the generative network runs top-down and is shared with the
posterior (Sønderby et al. 2016, arXiv 1602.02282).
Shapes: B batch · C channels · S image side · G groups · D latent channels of a group · s side of a group's maps
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from t2i.models.base import GenerativeModel, Generators, Likelihood, Partial, density_images, normal
from t2i.models.latent_variable.vae import GROUPS, check_widths, encoder_levels, gaussian, gaussian_kl, seen_and_known
from t2i.models.pixel_likelihoods import Pixels, check_pixels, log_prob, mode, outputs_of, sample_pixels
from t2i.nn.blocks import ResBlock


class Group(nn.Module):
    """A group of latents z ~ N(μ_p, σ_p²), with the residual posterior N(μ_p + Δμ, (σ_p Δσ)²) (NVAE, §3.2)."""

    def __init__(self, width: int, latent_channels: int):
        super().__init__()
        self.prior = nn.Conv2d(width, 2 * latent_channels, 3, padding=1)
        self.posterior = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, 2 * latent_channels, 3, padding=1)
        )
        self.merge = nn.Conv2d(latent_channels, width, 1)
        self.block = ResBlock(width)
        for layer in (self.prior, self.posterior[-1]):  # initially, posterior and prior are N(0, 1)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def distributions(self, h: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """-> mean and log σ of the posterior (the prior's without features), then of the prior; (B, D, s, s)"""
        prior_mean, prior_log_std = self.prior(F.silu(h)).float().chunk(2, dim=1)  # so that the KL is float32
        prior_log_std = prior_log_std.clamp(-5, 3)
        if features is None:
            return prior_mean, prior_log_std, prior_mean, prior_log_std
        shift, log_scale = self.posterior(torch.cat([h, features], dim=1)).float().chunk(2, dim=1)
        return prior_mean + shift, prior_log_std + log_scale.clamp(-5, 3), prior_mean, prior_log_std

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """(B, width, s, s), (B, D, s, s) -> (B, width, s, s)"""
        return self.block(h + self.merge(z))


class HierarchicalVAE(GenerativeModel):
    """A bottom-up encoder, top-down groups of latents, and a distribution over pixels.

    Args:
        image_size, channels, levels, num_classes: Properties of the images, see `GenerativeModel`; labels enter at the
            top.
        widths: Channels of each level of the networks, from fine to coarse; each level after the first halves the
            resolution.
        groups: Groups of latents at each level.
        latent_channels: Channels of a group, D.
        blocks: Residual blocks per level of the bottom-up network.
        pixels: Distribution of a pixel given the latents: 'bernoulli' for 2 levels, 'gaussian' or 'logistic' for more.
        free_nats: Each group's KL divergence counts as at least this much in the loss (Kingma et al. 2016, arXiv
            1606.04934).
        warmup: Fraction of the training during which the weight of the KL divergence rises from 0 to 1.
        dropout: Dropout probability of the bottom-up features.

    Raises ValueError for sizes that do not fit together.
    """

    progress = 1.0  # fraction of the training that is done, set by the training loop
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
        groups: tuple[int, ...] = (1, 2, 3),
        latent_channels: int = 4,
        blocks: int = 1,
        pixels: Pixels = "bernoulli",
        free_nats: float = 0.0,
        warmup: float = 0.2,
        dropout: float = 0.1,
    ):
        super().__init__()
        self._declare(image_size, channels, levels, num_classes)
        check_pixels(pixels, levels)
        check_widths(image_size, widths)
        if len(groups) != len(widths) or min(groups) < 0 or sum(groups) < 1:
            raise ValueError(f"groups must have a number for each of {len(widths)} levels, not all 0: {tuple(groups)}")
        if latent_channels < 1 or not free_nats >= 0 or not 0 <= warmup <= 1:
            raise ValueError(f"out of range: {latent_channels=}, {free_nats=}, {warmup=}")
        self.continuous, self.pixels = pixels == "gaussian", pixels
        self.bottom_up = nn.ModuleList(encoder_levels(channels, widths, blocks, dropout))
        top = image_size // 2 ** (len(widths) - 1)
        self.start = nn.Parameter(torch.zeros(1, widths[-1], top, top))
        self.label = nn.Embedding(num_classes, widths[-1]) if num_classes else None
        self.group_shapes = [
            (latent_channels, image_size >> i, image_size >> i)
            for i in reversed(range(len(widths)))
            for _ in range(groups[i])
        ]
        self.stacks = nn.ModuleList(
            nn.ModuleList(Group(width, latent_channels) for _ in range(n))
            for width, n in zip(widths, groups, strict=True)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 4, 2, 1) for a, b in pairwise(widths))
        self.head = nn.Sequential(
            ResBlock(widths[0]),
            nn.GroupNorm(GROUPS, widths[0]),
            nn.SiLU(),
            nn.Conv2d(widths[0], outputs_of(pixels) * channels, 3, padding=1),
        )

    def encode(self, images: Tensor, y: Tensor | None = None) -> Tensor:
        """Images (B, C, S, S) -> means of their latents, all groups concatenated (B, Z)"""
        self._check(images, y)
        zs = self._run(self._features(images), [None] * len(self.group_shapes), y, len(images))[1]
        return torch.cat([z.flatten(1) for z in zs], dim=1)

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Latents (B, Z) -> mean images (B, C, S, S) in [-1, 1]. Raises ValueError for other shapes."""
        sizes = [math.prod(shape) for shape in self.group_shapes]
        if z.ndim != 2 or z.shape[1] != sum(sizes):
            raise ValueError(f"latents must have the shape (B, {sum(sizes)}), not {tuple(z.shape)}")
        self._check_labels(y, len(z))
        given = [part.view(-1, *shape) for part, shape in zip(z.split(sizes, 1), self.group_shapes, strict=True)]
        return mode(self.pixels, self._run(None, given, y, len(z), given=True)[0])

    def loss(self, images: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """As `GenerativeModel.loss`, with warm-up and free nats; also `kl` and `reconstruction`, nats per image."""
        images, offset = density_images(self, images)
        reconstruction, kls = self._terms(images, y, None, images, None)
        nats = reconstruction.mean() + offset
        each = kls.mean(0)  # (G,)
        share = min(1.0, self.progress / self.config.warmup) if self.config.warmup else 1.0
        parts = self._scalars(share * each.clamp(min=self.config.free_nats).sum() - nats, each.sum() - nats)
        return parts | {"kl": each.sum().detach(), "reconstruction": -nats.detach()}

    def elbo(
        self,
        images: Tensor,
        y: Tensor | None = None,
        generator: Generators = None,
        samples: int = 1,
        known: Tensor | None = None,
    ) -> Tensor:
        """A lower bound of ln p(x | y), nats (B,); importance-weighted with several samples, see `VAE.elbo`."""
        seen, known = seen_and_known(self, images, y, known)
        if samples == 1:
            reconstruction, kls = self._terms(images, y, generator, seen, known)
            return reconstruction - kls.sum(1)
        self._check(images, y)
        features = self._features(seen)
        weights = []
        for _ in range(samples):
            outputs, zs, distributions = self._run(features, self._noise(len(images), generator), y, len(images))
            pairs = zip(zs, distributions, strict=True)
            ratio = sum((gaussian(z, *t[2:]) - gaussian(z, *t[:2])).flatten(1).sum(1) for z, t in pairs)
            weights.append(log_prob(self.pixels, outputs.float(), images, self.levels, known) + ratio)
        return torch.stack(weights).logsumexp(0) - math.log(samples)

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None, generator: Generators = None, temperature: float = 1.0) -> Tensor:
        """See `GenerativeModel`; standard deviations of the priors are multiplied by `temperature`."""
        self._check_labels(y, n)
        noise = [temperature * e for e in self._noise(n, generator)]
        return sample_pixels(self.pixels, self._run(None, noise, y, n)[0], self.levels, generator)

    def _terms(
        self, images: Tensor, y: Tensor | None, generator: Generators, seen: Tensor, known: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """ln p(known pixels | z) in nats (B,), and the KL divergence of each group (B, G), given the seen pixels"""
        self._check(images, y)
        outputs, _, distributions = self._run(self._features(seen), self._noise(len(images), generator), y, len(images))
        kls = torch.stack([gaussian_kl(*t).flatten(1).sum(1) for t in distributions], dim=1)
        return log_prob(self.pixels, outputs.float(), images, self.levels, known), kls

    def _features(self, images: Tensor) -> list[Tensor]:
        features, h = [], images.to(self.dtype)
        for level in self.bottom_up:
            h = level(h)
            features.append(h)
        return features

    def _noise(self, n: int, generator: Generators) -> list[Tensor]:
        return [normal((n, *shape), generator, self.device, self.dtype) for shape in self.group_shapes]

    def _run(
        self, features: list[Tensor] | None, noise: list[Tensor | None], y: Tensor | None, n: int, given: bool = False
    ) -> tuple[Tensor, list[Tensor], list[tuple[Tensor, ...]]]:
        """The top-down pass -> outputs for the pixels, latents, and `Group.distributions` of each group.

        If `noise` is None, the means are used; `given` means that the noise is the latents themselves.
        """
        h = self.start.expand(n, -1, -1, -1)
        if self.label is not None:
            h = h + self.label(y)[:, :, None, None]
        zs: list[Tensor] = []
        distributions: list[tuple[Tensor, ...]] = []
        for level in reversed(range(len(self.stacks))):
            for group in self.stacks[level]:
                e = noise[len(zs)]
                parts = group.distributions(h, None if features is None else features[level])
                mean, log_std = parts[:2]
                z = mean if e is None else e if given else mean + log_std.exp() * e
                zs.append(z)
                distributions.append(parts)
                h = group(h, z)
            if level:
                h = self.up[level - 1](h)
        return self.head(h), zs, distributions
