"""Conversion of images between the shapes and ranges of models, arrays and files."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

OUTPUT_TYPES = ("pil", "np", "pt", "latent")  # of a pipeline; latents are not decoded


def to_tensor(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in [-1, 1]"""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pil(images: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [-1, 1] -> RGB images"""
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [Image.fromarray(p) for p in pixels.permute(0, 2, 3, 1).cpu().numpy()]


def as_output(images: Tensor, output_type: str) -> list[Image.Image] | np.ndarray | Tensor:
    """(B, 3, H, W) in [-1, 1] -> the `output_type` of a pipeline: "pil" images, a "pt" tensor (B, 3, H, W) or an "np"
    array (B, H, W, 3), both in [0, 1]

    Raises FloatingPointError for images that are not finite, which would be converted to black.
    """
    check_finite(images)
    if output_type == "pil":
        return to_pil(images)
    images = (images.float() + 1) / 2
    return images if output_type == "pt" else images.permute(0, 2, 3, 1).cpu().numpy()


def check_finite(images: Tensor) -> None:
    """Raise FloatingPointError for decoded images (B, …) with NaN or infinite values."""
    if not (whole := images.isfinite().flatten(1).all(1)).all():
        raise FloatingPointError(
            f"{int((~whole).sum())} of {len(images)} images are not finite (NaN) after decoding in {images.dtype}: the "
            "decoder's weights are damaged, or float16 is too narrow for them: open the pipeline in float32, or train "
            "or copy its weights again"
        )


def check_images(images: Tensor, stride: int) -> None:
    """Raise ValueError unless `images` are (B, 3, H, W) in [-1, 1] with sides that `stride` divides."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have the shape (B, 3, S, S), not {tuple(images.shape)}")
    if images.shape[2] % stride or images.shape[3] % stride:
        raise ValueError(f"an image of {images.shape[2]}×{images.shape[3]} is not divisible by {stride}")
    low, high = images.aminmax()
    if not -1.001 <= low <= high <= 1.001:  # NaN fails too
        raise ValueError(f"images must lie in [-1, 1], but range from {low:.3g} to {high:.3g}")
