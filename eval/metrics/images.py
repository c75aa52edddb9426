"""Pairs of images pixel by pixel, and how far apart the images of one set are.

Shapes: N images · C channels · H, W sides
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i.eval.metrics.common import BLOCK, Array, Scores, as_double, as_features, blocks, squared_distances

WINDOW, SIGMA = 11, 1.5  # of SSIM
K1, K2 = 0.01, 0.03


def psnr(images: Array, references: Array) -> Scores:
    """Peak signal-to-noise ratio in dB, −10 log₁₀ of the mean squared error of each pair, then the mean.

    Equal images have an infinite one. (A mean of the errors first, as torchmetrics takes it by default, is another
    number.)

    Args:
        images, references: floats (N, C, H, W) in [0, 1].

    Raises ValueError for other shapes or ranges, NaN or infinity.
    """
    x, y = _checked(images, references)
    return _mean(-10 * (x - y).square().flatten(1).mean(1).log10())


def ssim(images: Array, references: Array) -> Scores:
    """Structural similarity: Wang et al. 2004, "Image quality assessment", eq. 13, of each channel, then the mean.

    A Gaussian window of 11×11 with σ = 1.5, as the authors have it; only where it lies wholly inside the image.

    Args:
        images, references: floats (N, C, H, W) in [0, 1], H and W at least 11.

    Raises ValueError as `psnr` does, and for smaller images.
    """
    x, y = _checked(images, references)
    if min(x.shape[2:]) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW}×{WINDOW}, not {x.shape[2]}×{x.shape[3]}")
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    cov = _blur(x * y) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * cov + c2) / (var_x + var_y + c2)
    return _mean((luminance * structure).flatten(1).mean(1))


def diversity(features: Array, block: int = BLOCK) -> float:
    """Mean distance of all pairs of one set's features (N, D), N ≥ 2: for images of one prompt, how varied they are.

    LPIPS' place with any network's features. Raises ValueError for fewer than two samples, NaN or infinity.
    """
    x = as_features(features)
    x = x - x.mean(0)
    total = sum(squared_distances(rows, x).sqrt().sum() for _, rows in blocks(x, len(x), block))
    return total.item() / (len(x) * (len(x) - 1))


def _checked(images: Array, references: Array) -> tuple[Tensor, Tensor]:
    x, y = as_double(images, "images"), as_double(references, "references")
    if x.ndim != 4 or x.shape != y.shape or x.numel() == 0:
        raise ValueError(f"images and references must both be (N, C, H, W), not {tuple(x.shape)}, {tuple(y.shape)}")
    if min(x.min(), y.min()) < 0 or max(x.max(), y.max()) > 1:
        raise ValueError("images and references must be in [0, 1]")
    return x, y.to(x.device)


def _blur(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, H − 10, W − 10), weighted by the Gaussian window, along one side after the other."""
    n, c, h, w = x.shape
    places = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = (-places.square() / (2 * SIGMA**2)).exp()
    weights = weights / weights.sum()
    x = F.conv2d(x.reshape(n * c, 1, h, w), weights.view(1, 1, -1, 1))
    x = F.conv2d(x, weights.view(1, 1, 1, -1))
    return x.reshape(n, c, *x.shape[2:])


def _mean(per_sample: Tensor) -> Scores:
    per_sample = per_sample.cpu().numpy()
    return Scores(float(per_sample.mean()), per_sample)
