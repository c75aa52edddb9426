"""Pixels between the shapes and ranges of models, arrays and files."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor


def to_tensor(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in [-1, 1]"""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pil(images: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [-1, 1] -> RGB pictures"""
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [Image.fromarray(p) for p in pixels.permute(0, 2, 3, 1).cpu().numpy()]
