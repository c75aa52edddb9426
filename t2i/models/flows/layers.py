"""The base class of the normalising flows, and invertible layers.

A flow maps an image bijectively to independent latents: ln p(x) = ln p(z) + ln |det ∂z/∂x| (Dinh et al. 2015,
arXiv 1410.8516, eq. 1).
Shapes: B batch · C image channels · S image side · N = C·S·S · c, s channels and side of a layer's input
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.models.base import GenerativeModel, Generators, Likelihood, nearest_levels, normal, uniform


class Bijection(nn.Module):
    """A layer with an exact inverse: x -> z and ln |det ∂z/∂x|, (B,) or a scalar if it is the same for all images."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def inverse(self, z: Tensor) -> Tensor:
        raise NotImplementedError


class Logit(Bijection):
    """[-1, 1] -> ℝ by logit(α + (1 - 2α) (x + 1) / 2) (Dinh et al. 2017, arXiv 1605.08803, §4.1)."""

    def __init__(self, alpha: float):
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        share = self.alpha + (0.5 - self.alpha) * (x + 1)
        z = share.logit()
        # d logit / d share = 1 / (share (1 - share)) = 1 / (σ(z) σ(-z))
        return z, _sum(math.log(0.5 - self.alpha) - F.logsigmoid(z) - F.logsigmoid(-z))

    def inverse(self, z: Tensor) -> Tensor:
        return (z.sigmoid() - self.alpha) / (0.5 - self.alpha) - 1


class Squeeze(Bijection):
    """(B, c, s, s) -> (B, 4·c, s/2, s/2), with determinant 1."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return F.pixel_unshuffle(x, 2), x.new_zeros(())

    def inverse(self, z: Tensor) -> Tensor:
        return F.pixel_shuffle(z, 2)


class ActNorm(Bijection):
    """Scale and shift per channel, initialised by data to mean 0 and standard deviation 1 (Glow, §3.1)."""

    def __init__(self, channels: int):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.waiting = False  # whether the next data initialise it

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.waiting:
            self.waiting = False
            with torch.no_grad():
                self.shift.copy_(-x.mean((0, 2, 3)))
                self.log_scale.copy_(-(x.std((0, 2, 3)) + 1e-3).log())
        z = (x + self.shift[:, None, None]) * self.log_scale.exp()[:, None, None]
        return z, self.log_scale.sum() * (x.shape[2] * x.shape[3])

    def inverse(self, z: Tensor) -> Tensor:
        return z * (-self.log_scale).exp()[:, None, None] - self.shift[:, None, None]


class AffineCoupling(Bijection):
    """Affine coupling: one half of the input determines scale and shift of the other (RealNVP, eq. 7 and 8).

    Args:
        network: network from c/2 channels, or c with a mask, to twice as many.
        bound: maximum absolute log-scale, for stability.
        mask: (1, 1, s, s), 1 for the unchanged half; by default, it is the first half of the channels.
    """

    def __init__(self, network: nn.Module, bound: float = 2.0, mask: Tensor | None = None):
        super().__init__()
        self.network, self.bound = network, bound
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        stays, moves = self._halves(x)
        log_scale, shift = self._affine(stays)
        return self._whole(stays, moves * log_scale.exp() + shift), _sum(log_scale)

    def inverse(self, z: Tensor) -> Tensor:
        stays, moves = self._halves(z)
        log_scale, shift = self._affine(stays)
        return self._whole(stays, (moves - shift) * (-log_scale).exp())

    def _affine(self, stays: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = self.network(stays).to(stays.dtype).chunk(2, dim=1)  # under autocast, only the network is in half
        log_scale = self.bound * (raw / self.bound).tanh()
        return (log_scale, shift) if self.mask is None else (log_scale * (1 - self.mask), shift * (1 - self.mask))

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(x.chunk(2, dim=1)) if self.mask is None else (x * self.mask, x * (1 - self.mask))

    def _whole(self, stays: Tensor, moves: Tensor) -> Tensor:
        return torch.cat([stays, moves], dim=1) if self.mask is None else stays + moves


class Split(nn.Module):
    """Factor out the second half of the channels as latents (RealNVP, §3.6).

    Args:
        shape: (c, s, s) of the input.
        learned: whether to normalise it to (b - μ(a)) / σ(a), so that p(b | a) is learned (Glow's prior).
    """

    def __init__(self, shape: tuple[int, int, int], learned: bool = False):
        super().__init__()
        half = shape[0] // 2
        self.out_shape = (half, *shape[1:])
        self.prior = zeros(nn.Conv2d(half, 2 * half, 3, padding=1)) if learned else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-> the remaining half, (B, c/2, s, s); the latents, of the same shape; log-determinant"""
        a, b = x.chunk(2, dim=1)
        if self.prior is None:
            return a, b, x.new_zeros(())
        mean, log_std = self._prior(a)
        return a, (b - mean) * (-log_std).exp(), -_sum(log_std)

    def inverse(self, a: Tensor, out: Tensor) -> Tensor:
        if self.prior is not None:
            mean, log_std = self._prior(a)
            out = out * log_std.exp() + mean
        return torch.cat([a, out], dim=1)

    def _prior(self, a: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.prior(a).to(a.dtype).chunk(2, dim=1)
        return mean, 3 * (log_std / 3).tanh()


class Flow(GenerativeModel):
    """Base class of the flows, which define only their steps.

    The prior is a standard normal or logistic; with labels y, mean and scale of every latent are learned per class.
    """

    likelihood: ClassVar[Likelihood] = "exact"
    latents: ClassVar[bool] = True
    initializes: ClassVar[bool] = True
    continuous = True

    def _assemble(
        self, steps: list[nn.Module], last: tuple[int, ...], prior: Literal["normal", "logistic"], alpha: float
    ) -> None:
        """Set steps, output shape of the last one, prior, and α of the logit transform (0: none). Raises ValueError."""
        if not 0 <= alpha < 0.5:
            raise ValueError(f"alpha must lie in [0, 0.5), not {alpha}")
        self.transforms = nn.ModuleList([Logit(alpha), *steps] if alpha else steps)
        self.pieces = [step.out_shape for step in self.transforms if isinstance(step, Split)] + [last]
        self.distribution = prior
        numbers = math.prod(self.shape)
        self.label = nn.Embedding(self.num_classes, 2 * numbers) if self.num_classes else None
        if self.label is not None:
            nn.init.zeros_(self.label.weight)

    @torch.no_grad()
    def initialize(self, images: Tensor, y: Tensor | None = None) -> None:
        """Initialise the activation norms with images of L levels (B, C, S, S), before training, equal on all ranks."""
        for layer in self.modules():
            if isinstance(layer, ActNorm):
                layer.waiting = True
        self.loss(images, y)

    def log_prob(self, images: Tensor, y: Tensor | None = None) -> Tensor:
        """ln p(x | y), exact, of continuous images (B, C, S, S) in [-1, 1] -> nats (B,). Raises ValueError for others.

        Images of L levels are scored by `t2i.models.base.log_likelihood`.
        """
        z, log_det = self._forward(images, y)
        mean, log_scale = self._prior(y)
        z = (z - mean) * (-log_scale).exp()
        if self.distribution == "normal":
            nats = -0.5 * z.square() - 0.5 * math.log(2 * math.pi)
        else:
            nats = F.logsigmoid(z) + F.logsigmoid(-z)
        return (nats - log_scale).sum(1) + log_det

    def encode(self, images: Tensor, y: Tensor | None = None) -> Tensor:
        """Continuous images (B, C, S, S) in [-1, 1] -> latents (B, N)"""
        return self._forward(images, y)[0]

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Latents (B, N) -> images (B, C, S, S) in [-1, 1]: the inverse of `encode`. Raises ValueError."""
        sizes = [math.prod(shape) for shape in self.pieces]
        if z.ndim != 2 or z.shape[1] != sum(sizes):
            raise ValueError(f"latents must have the shape (B, {sum(sizes)}), not {tuple(z.shape)}")
        self._check_labels(y, len(z))
        parts = [part.view(-1, *shape) for part, shape in zip(z.split(sizes, 1), self.pieces, strict=True)]
        x = parts.pop()
        for step in reversed(self.transforms):
            x = step.inverse(x, parts.pop()) if isinstance(step, Split) else step.inverse(x)
        return x.view(-1, *self.shape).clamp(-1, 1)

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None, generator: Generators = None, temperature: float = 1.0) -> Tensor:
        """See `GenerativeModel`; the prior's standard deviations are multiplied by `temperature` (Glow, §6)."""
        self._check_labels(y, n)
        shape = (n, math.prod(self.shape))
        if self.distribution == "normal":
            z = normal(shape, generator, self.device, self.dtype)
        else:
            z = uniform(shape, generator, self.device, self.dtype).clamp(1e-6, 1 - 1e-6).logit()
        mean, log_scale = self._prior(y)
        return nearest_levels(self.decode(mean + temperature * log_scale.exp() * z, y), self.levels)

    @torch.no_grad()
    def interpolate(self, first: Tensor, second: Tensor, steps: int = 8, y: Tensor | None = None) -> Tensor:
        """Linear interpolation between the latents of images (B, C, S, S) -> (steps, B, C, S, S), with both ends."""
        a, b = self.encode(first, y), self.encode(second, y)
        return torch.stack([self.decode(torch.lerp(a, b, share.item()), y) for share in torch.linspace(0, 1, steps)])

    def _forward(self, images: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """Latents (B, N) and ln |det ∂z/∂x| (B,)"""
        self._check(images, y)
        x = images.to(self.dtype)
        total, pieces = x.new_zeros(len(x)), []
        for step in self.transforms:
            if isinstance(step, Split):
                x, out, log_det = step(x)
                pieces.append(out.flatten(1))
            else:
                x, log_det = step(x)
            total = total + log_det
        return torch.cat([*pieces, x.flatten(1)], dim=1), total

    def _prior(self, y: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.label is None:
            zero = torch.zeros((), device=self.device, dtype=self.dtype)
            return zero, zero
        mean, log_scale = self.label(y).chunk(2, dim=1)
        return mean, log_scale.clamp(-3, 3)


def zeros(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """Set the weights and biases of a layer to zero, so that the layer it parametrises starts as the identity."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _sum(x: Tensor) -> Tensor:
    return x.flatten(1).sum(1)
