"""Generative adversarial networks: a generator of images, and a discriminator that distinguishes them from real ones.

Goodfellow et al. 2014, arXiv 1406.2661; networks of DCGAN (Radford et al. 2016, arXiv 1511.06434), gradient penalty of
Gulrajani et al. 2017, arXiv 1704.00028, spectral norm of Miyato et al. 2018, arXiv 1802.05957, projection of Miyato and
Koyama 2018, arXiv 1802.05637.
Shapes: B batch · C channels · S image side · s side of the coarsest maps · Z latent dimensions · L levels · W width
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as spectrally_normed

from t2i.models.adversarial.losses import LossKind, check_kind, discriminator_loss, generator_loss, gradient_penalty
from t2i.models.base import GenerativeModel, Generators, Likelihood, normal
from t2i.models.pixel_likelihoods import nearest
from t2i.nn.discriminator import held

GROUPS = 8  # number of groups of the group norms
COARSEST = 4  # sides are halved down to this, or to the first odd number above it


class ClassNorm(nn.Module):
    """Group norm, with a scale and shift per class if there are classes (BigGAN, arXiv 1809.11096, §3)."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels, affine=num_classes == 0)
        self.label = nn.Embedding(num_classes, 2 * channels) if num_classes else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.02)

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        """(B, channels, h, w), labels (B,) or none -> the same shape"""
        x = self.norm(x)
        if self.label is None:
            return x
        scale, shift = self.label(y)[:, :, None, None].chunk(2, dim=1)
        return x * (1 + scale) + shift


class Generator(nn.Module):
    """A linear layer to s×s maps, then norm, ReLU and a transposed convolution for each doubling of the side.

    Differences from DCGAN: group norms instead of batch norms, so that an image depends only on its own latents, and a
    final 3×3 convolution at full resolution, without which networks for small sides would have few layers.
    """

    def __init__(self, image_size: int, channels: int, latent_dim: int, width: int, num_classes: int):
        super().__init__()
        side, widths = levels_of(image_size, width)
        self.start = nn.Linear(latent_dim, widths[-1] * side * side)
        self.unflatten = nn.Unflatten(1, (widths[-1], side, side))
        coarse_to_fine = widths[::-1]
        self.norms = nn.ModuleList(ClassNorm(w, num_classes) for w in coarse_to_fine)
        self.layers = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 4, 2, 1) for before, after in pairwise(coarse_to_fine)
        )
        self.layers.append(nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """(B, Z) -> (B, C, S, S) in (-1, 1)"""
        h = self.unflatten(self.start(z))
        for norm, layer in zip(self.norms, self.layers, strict=True):
            h = layer(norm(h, y).relu())
        return h.tanh()


class Discriminator(nn.Module):
    """Strided convolutions and a linear layer; with labels, D(x, y) = wᵀφ(x) + e(y)ᵀφ(x) (projection, eq. 3).

    φ(x) are the flattened last maps. The linear layer has no bias, which would not affect a Wasserstein distance.
    With spectral norm, the largest singular value of every weight is 1, and there are no other norms.
    """

    def __init__(self, image_size: int, channels: int, width: int, num_classes: int, spectral_norm: bool):
        super().__init__()
        side, widths = levels_of(image_size, width)
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(0.2)]
        for before, after in pairwise(widths):
            layers.append(nn.Conv2d(before, after, 4, 2, 1))
            layers += [nn.LeakyReLU(0.2)] if spectral_norm else [nn.GroupNorm(GROUPS, after), nn.LeakyReLU(0.2)]
        self.features = nn.Sequential(*layers, nn.Flatten())
        numbers = widths[-1] * side * side
        self.real = nn.Linear(numbers, 1, bias=False)
        self.label = nn.Embedding(num_classes, numbers) if num_classes else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.02)
        if spectral_norm:
            for module in [m for m in self.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)]:
                spectrally_normed(module)

    def forward(self, images: Tensor, y: Tensor | None = None) -> Tensor:
        """(B, C, S, S) -> (B,)"""
        features = self.features(images)
        judged = self.real(features)[:, 0]
        return judged if self.label is None else judged + (self.label(y) * features).sum(1)


class GAN(GenerativeModel):
    """Generator and discriminator, trained with the sum of both losses in one backward pass.

    The generator's loss uses the discriminator with detached weights, the discriminator's loss uses detached images: so
    each network's gradient is that of its own loss, and AdamW, which treats each weight independently, updates both at
    once (see also `t2i/tokenizers/adversarial.py`).

    With `discriminator_steps` k, the generator's loss is included only in every k-th training pass, counted by the
    buffer `passes`. In the others the generator's gradient is None, not zero: optimizers skip such weights and their
    momentum, and gradient clipping counts only the discriminator. Under DistributedDataParallel this requires
    `find_unused_parameters`, which the training stage sets.

    Both networks see images with noise of the width of a level (Arjovsky and Bottou 2017, arXiv 1701.04862, §3), since
    real images have L levels and generated ones do not, which would be trivial to distinguish.

    Args:
        image_size, channels, levels, num_classes: Properties of the images, see `GenerativeModel`. The side is
            halved down to 4 or to the first odd number: 8, 16, 28, 32 and 64 work.
        latent_dim: Size of the latent vector, Z, which is standard normal.
        width: Channels at full resolution, W; they double each time the resolution is halved.
        loss_kind: Adversarial loss, see `adversarial/losses.py`.
        gradient_penalty: Weight of the gradient penalty on the discriminator, 10 in the paper; 0 disables it.
        spectral_norm: Spectral normalisation of the discriminator, instead of group normalisation.
        discriminator_steps: Discriminator updates per generator update, k.

    Raises ValueError for sizes that do not fit together and for an unknown loss.
    """

    likelihood: ClassVar[Likelihood] = "none"

    @register_to_config
    def __init__(
        self,
        image_size: int = 28,
        channels: int = 1,
        levels: int = 256,
        num_classes: int = 0,
        latent_dim: int = 64,
        width: int = 32,
        loss_kind: LossKind = "non_saturating",
        gradient_penalty: float = 0.0,
        spectral_norm: bool = False,
        discriminator_steps: int = 1,
    ):
        super().__init__()
        self._declare(image_size, channels, levels, num_classes)
        check_kind(loss_kind)
        if latent_dim < 1 or discriminator_steps < 1 or not gradient_penalty >= 0:
            raise ValueError(
                "latent_dim and discriminator_steps must be at least 1 and gradient_penalty at least 0, not "
                f"{latent_dim=}, {discriminator_steps=}, {gradient_penalty=}"
            )
        self.latent_dim = latent_dim
        self.generator = Generator(image_size, channels, latent_dim, width, num_classes)
        self.discriminator = Discriminator(image_size, channels, width, num_classes, spectral_norm)
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))  # number of passes in training mode

    def loss(self, images: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Images of L levels (B, C, S, S), labels (B,) -> scalars: `loss`, the sum of both losses, and its components.

        `distance` is the difference of the mean scores, see the method; `penalty` is present if it has a weight.
        """
        self._check(images, y)
        if self.training:
            self.passes += 1
        moves = not self.training or int(self.passes) % self.config.discriminator_steps == 0
        with torch.set_grad_enabled(moves and torch.is_grad_enabled()):
            made = self._noisy(self._made(len(images), y, None))
        real, kind = self._noisy(images.to(self.dtype)), self.config.loss_kind
        twice = None if y is None else torch.cat([y, y])
        of_real, of_made = self.discriminator(torch.cat([real, made.detach()]), twice).chunk(2)
        own = discriminator_loss(kind, of_real, of_made)
        generator_term = generator_loss(kind, held(self.discriminator, made, y)) if moves else None
        parts = {
            "loss": own if generator_term is None else own + generator_term,
            "discriminator": own.detach(),
            "generator": generator_loss(kind, of_made).detach(),
            "distance": (of_real.float().mean() - of_made.float().mean()).detach(),
        }
        if self.config.gradient_penalty > 0:
            mix = torch.rand(len(images), device=real.device, dtype=real.dtype)
            penalty = gradient_penalty(lambda x: self.discriminator(x, y), real, made, mix)
            parts["loss"] = parts["loss"] + self.config.gradient_penalty * penalty
            parts["penalty"] = penalty.detach()
        return parts

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Generated images, rounded to the nearest levels. See `GenerativeModel`."""
        self._check_labels(y, n)
        return nearest(self._made(n, y, generator), self.levels)

    def discriminate(self, images: Tensor, y: Tensor | None = None) -> Tensor:
        """Images (B, C, S, S) -> the discriminator's scores (B,), higher for real than for generated images.

        The decision threshold depends on the loss, see `losses.py`.

        Raises ValueError for other images.
        """
        self._check(images, y)
        return self.discriminator(images.to(self.dtype), y).float()

    def distance(self, real: Tensor, made: Tensor, y: Tensor | None = None) -> Tensor:
        """E D(x) − E D(x̂) of real and generated images, (B, C, S, S) each, with the same labels -> scalar.

        With "wasserstein" and a gradient penalty, the discriminator is about 1-Lipschitz, and this estimates the
        distance W₁ between both distributions from below (Arjovsky et al. 2017, eq. 2 and §3). For a K-Lipschitz
        discriminator it is K times as large; spectral norms bound K, but by more than 1, since they are of kernels and
        not of convolutions. With other losses it only shows which network is ahead.
        """
        return self.discriminate(real, y).mean() - self.discriminate(made, y).mean()

    def generator_gradient_norms(self, images: Tensor, y: Tensor | None = None) -> dict[str, float]:
        """Norms of the generator's gradient with the "minimax" and "non_saturating" losses and this discriminator.

        Computed on as many generated images as `images`, (B, C, S, S). If the discriminator is confident, "minimax" has
        almost no gradient, "non_saturating" the largest (Goodfellow et al. 2014, §3; Arjovsky and Bottou 2017, §2.2).
        """
        self._check(images, y)
        with torch.enable_grad():
            judged = held(self.discriminator, self._noisy(self._made(len(images), y, None)), y)
            weights, norms = list(self.generator.parameters()), {}
            for kind in ("minimax", "non_saturating"):
                slopes = torch.autograd.grad(generator_loss(kind, judged), weights, retain_graph=True)
                norms[kind] = float(torch.cat([s.flatten() for s in slopes]).cpu().double().norm())
        return norms

    def _made(self, n: int, y: Tensor | None, generator: Generators) -> Tensor:
        return self.generator(normal((n, self.latent_dim), generator, self.device, self.dtype), y)

    def _noisy(self, images: Tensor) -> Tensor:
        return images + (torch.rand_like(images) - 0.5) * (2 / (self.levels - 1))


def levels_of(image_size: int, width: int) -> tuple[int, list[int]]:
    """Side of the coarsest maps, and channels from full size down to it. Raises ValueError for unsupported sizes."""
    if width < GROUPS or width % GROUPS:
        raise ValueError(f"width must be a multiple of {GROUPS}, not {width}")
    side, widths = image_size, [width]
    while side > COARSEST and side % 2 == 0:
        side, widths = side // 2, [*widths, 2 * widths[-1]]
    if side > 2 * COARSEST or len(widths) < 2:
        raise ValueError(
            f"an image side of {image_size} cannot be halved down to {COARSEST} … {2 * COARSEST}: take 28 or 32"
        )
    return side, widths
