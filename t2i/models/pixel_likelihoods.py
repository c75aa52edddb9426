"""Pixel likelihoods: log-probabilities of images under the distributions that decoders output, in nats.

Shapes: B batch · C channels · S image side · L levels
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i.models.base import Generators, from_levels, nearest_levels, normal, to_levels, uniform

Pixels = Literal["bernoulli", "gaussian", "logistic"]
MIN_LOG_SCALE = -7.0  # of a logistic, for pixels in [-1, 1]; narrower ones cover a single level and have no gradient


def check_pixels(pixels: str, levels: int) -> None:
    """Raise ValueError for an unknown likelihood, or "bernoulli" with more than two levels."""
    if pixels not in ("bernoulli", "gaussian", "logistic"):
        raise ValueError(f"unknown pixel likelihood {pixels!r}: choose 'bernoulli', 'gaussian' or 'logistic'")
    if pixels == "bernoulli" and levels != 2:
        raise ValueError(
            f"a Bernoulli likelihood is for images of 2 levels, not {levels}: "
            "set levels=2 to binarise them, or pixels='logistic'"
        )


def outputs_of(pixels: Pixels) -> int:
    """The number of distribution parameters per image value."""
    return 1 if pixels == "bernoulli" else 2


def log_prob(pixels: Pixels, outputs: Tensor, images: Tensor, levels: int, known: Tensor | None = None) -> Tensor:
    """ln p(images | outputs): (B, 1 or 2 · C, S, S), (B, C, S, S) -> nats (B,); a density for "gaussian" alone.

    With `known`, bool (B, C, S, S), only of those values, which are independent of the others.
    """
    mean, log_scale = (outputs, None) if pixels == "bernoulli" else outputs.chunk(2, dim=1)
    if pixels == "bernoulli":
        nats = -F.binary_cross_entropy_with_logits(mean, (images + 1) / 2, reduction="none")
    elif pixels == "gaussian":
        log_scale = _bounded(log_scale)
        nats = -0.5 * ((images - mean) * (-log_scale).exp()).square() - log_scale - 0.5 * math.log(2 * math.pi)
    else:
        nats = discretized_logistic(images, mean, log_scale, levels)
    return (nats if known is None else nats.where(known, 0.0)).flatten(1).sum(1)


def mode(pixels: Pixels, outputs: Tensor) -> Tensor:
    """The mean image: (B, 1 or 2 · C, S, S) -> (B, C, S, S) in [-1, 1]"""
    if pixels == "bernoulli":
        return 2 * outputs.sigmoid() - 1
    return outputs.chunk(2, dim=1)[0].clamp(-1, 1)


def sample_pixels(pixels: Pixels, outputs: Tensor, levels: int, generator: Generators = None) -> Tensor:
    """Sample images of L levels from p(x | outputs): (B, 1 or 2 · C, S, S) -> (B, C, S, S)"""
    if pixels == "bernoulli":
        u = uniform(outputs.shape, generator, outputs.device, outputs.dtype)
        return from_levels(u < outputs.sigmoid(), 2)
    mean, log_scale = outputs.chunk(2, dim=1)
    if pixels == "gaussian":
        noise = normal(mean.shape, generator, mean.device, mean.dtype)
        return nearest_levels(mean + _bounded(log_scale).exp() * noise, levels)
    return logistic_levels(mean, log_scale, uniform(mean.shape, generator, mean.device, mean.dtype), levels)


def discretized_logistic(images: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """Log-probability of each value's bin under a logistic distribution; the outer bins extend to infinity.

    All tensors have one shape; images of L levels. Salimans et al. 2017 (PixelCNN++, arXiv 1701.05517), eq. 2.
    """
    half = 1 / (levels - 1)  # of a bin around -1 + 2k/(L - 1)
    inverse = (-log_scale.clamp(min=MIN_LOG_SCALE)).exp()
    upper, lower = (images - mean + half) * inverse, (images - mean - half) * inverse
    k = to_levels(images, levels)
    # σ(b) - σ(a) = σ(b) σ(-a) (1 - exp(a - b)), which is accurate in the tails.
    inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-2 * half * inverse))
    return torch.where(k == 0, F.logsigmoid(upper), torch.where(k == levels - 1, F.logsigmoid(-lower), inside))


def logistic_levels(mean: Tensor, log_scale: Tensor, u: Tensor, levels: int) -> Tensor:
    """Sample the discretised logistic by its inverse distribution function; u uniform in [0, 1), all of one shape."""
    u = u.clamp(1e-6, 1 - 1e-6)
    x = mean + log_scale.clamp(min=MIN_LOG_SCALE).exp() * (u.log() - (-u).log1p())
    return nearest(x, levels)


def discretized_gaussian(images: Tensor, mean: Tensor, log_std: Tensor, levels: int) -> Tensor:
    """Log-probability of each value's bin under a Gaussian; the outer bins extend to infinity.

    Images of L levels and means of one shape, log_std broadcastable. Ho et al. 2020 (arXiv 2006.11239), eq. 13.
    """
    half = 1 / (levels - 1)  # of a bin around -1 + 2k/(L - 1)
    inverse = (-log_std).exp()
    upper, lower = (images - mean + half) * inverse, (images - mean - half) * inverse
    k = to_levels(images, levels)
    # Φ(b) - Φ(a) = Φ(-a) - Φ(-b): take the one in the lower tail, where the difference is accurate.
    right = lower > 0
    b, a = torch.where(right, -lower, upper), torch.where(right, -upper, lower)
    log_b, log_a = torch.special.log_ndtr(b), torch.special.log_ndtr(a)
    inside = log_b + torch.log(-torch.expm1((log_a - log_b).clamp(max=-1e-6)))
    below, above = torch.special.log_ndtr(upper), torch.special.log_ndtr(-lower)
    return torch.where(k == 0, below, torch.where(k == levels - 1, above, inside))


def nearest(images: Tensor, levels: int) -> Tensor:
    """Round images (…) to the nearest of L levels."""
    return from_levels(((images.clamp(-1, 1) + 1) * ((levels - 1) / 2)).round(), levels)


def _bounded(log_scale: Tensor) -> Tensor:
    """Bound the scale: on constant pixels, an arbitrarily narrow Gaussian would have infinite density."""
    return log_scale.clamp(-6.0, 2.0)
