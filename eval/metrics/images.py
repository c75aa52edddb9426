"""Pixelwise comparison of image pairs, and the diversity of a set of images.

torchmetrics is imported on first use, as it takes seconds.

Shapes: N images · C channels · H, W sides
"""

from __future__ import annotations

import torch
from torch import Tensor

from t2i.eval.metrics.common import BLOCK, Array, Scores, as_double, as_features, blocks, squared_distances

WINDOW, BORDER = 11, 5  # of SSIM: side of the Gaussian window with σ = 1.5, and its reach
BATCH = 64  # images per batch


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

    Uses only windows that lie wholly inside the image, as the authors do: torchmetrics pads the images by reflection
    and includes the border.

    Args:
        images, references: floats (N, C, H, W) in [0, 1], H and W at least 11.

    Raises ValueError as `psnr` does, and for smaller images.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    x, y = _checked(images, references)
    if min(x.shape[2:]) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW}×{WINDOW}, not {x.shape[2]}×{x.shape[3]}")
    inner, parts = slice(BORDER, -BORDER), []
    for pair in zip(x.split(BATCH), y.split(BATCH), strict=True):
        _, full = structural_similarity_index_measure(*pair, data_range=1.0, return_full_image=True)
        parts.append(full[:, :, inner, inner].flatten(1).mean(1))
    return Scores.of(torch.cat(parts))


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
