"""Pixelwise comparison of image pairs, and the diversity of a set of images.

torchmetrics is imported on first use, as it takes seconds.

Shapes: N images · C channels · H, W sides
"""

from __future__ import annotations

import torch
from torch import Tensor

from t2i.eval.metrics.common import BLOCK, Array, Scores, as_double, as_features, blocks, squared_distances

WINDOW, SIGMA = 11, 1.5  # of SSIM: side of the Gaussian window, and its standard deviation
C1, C2 = 0.01**2, 0.03**2  # of SSIM, for values in [0, 1]
BATCH = 16  # images per batch


def psnr(images: Array, references: Array) -> Scores:
    """Peak signal-to-noise ratio in dB: −10 log₁₀ of the mean squared error of each pair, then the mean.

    It is infinite for equal images. (Averaging the errors first, torchmetrics' default, gives another number.)

    Args:
        images, references: floats (N, C, H, W) in [0, 1].

    Raises ValueError for other shapes or ranges, NaN or infinity.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    x, y = _checked(images, references)
    return Scores.of(peak_signal_noise_ratio(x, y, data_range=1.0, dim=(1, 2, 3), reduction="none"))


def ssim(images: Array, references: Array) -> Scores:
    """Structural similarity: Wang et al. 2004, "Image quality assessment", eq. 13, for each channel, then the mean.

    Uses only windows that lie wholly inside the image, as the authors do. Equals torchmetrics' without the border,
    which it pads by reflection; two products of matrices are faster than its convolution.

    Args:
        images, references: floats (N, C, H, W) in [0, 1], H and W at least 11.

    Raises ValueError as `psnr` does, and for smaller images.
    """
    x, y = _checked(images, references)
    if min(x.shape[2:]) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW}×{WINDOW}, not {x.shape[2]}×{x.shape[3]}")
    rows, columns = (_windows(side).to(x.device) for side in x.shape[2:])

    def weighted(z: Tensor) -> Tensor:
        """Weighted means over all windows: (B, C, H, W) -> (B, C, H − 10, W − 10)"""
        return rows @ z @ columns.T

    parts = []
    for a, b in zip(x.split(BATCH), y.split(BATCH), strict=True):
        mean_a, mean_b = weighted(a), weighted(b)
        var_a = (weighted(a * a) - mean_a.square()).clamp(min=0)
        var_b = (weighted(b * b) - mean_b.square()).clamp(min=0)
        covariance = weighted(a * b) - mean_a * mean_b
        luminance = (2 * mean_a * mean_b + C1) / (mean_a.square() + mean_b.square() + C1)
        parts.append((luminance * (2 * covariance + C2) / (var_a + var_b + C2)).flatten(1).mean(1))
    return Scores.of(torch.cat(parts))


def _windows(side: int) -> Tensor:
    """(side − 10, side): row i has the window's weights at i, …, i + 10."""
    weights = torch.exp(-((torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    found = torch.zeros(side - WINDOW + 1, side, dtype=torch.float64)
    for i in range(len(found)):
        found[i, i : i + WINDOW] = weights / weights.sum()
    return found


def diversity(features: Array, block: int = BLOCK) -> float:
    """Mean pairwise distance of features (N, D), N ≥ 2, such as those of several images of one prompt.

    Similar to LPIPS, with the features of any network. Raises ValueError for fewer than two samples, NaN or infinity.
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
