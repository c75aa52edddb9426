"""Images as integer levels, on which the unconditional models are trained and scored.

Shapes: C channels · S image side · n images
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from t2i.data.base import Source


@dataclass(frozen=True)
class PreparePixels:
    """An image as levels 0 … `levels` − 1; with 2 levels each pixel is sampled, white with its intensity.

    Args:
        channels: 1 (converted to grey) or 3.
        shift: augmentation by random translation of up to `shift` pixels.
    """

    levels: int
    channels: int
    shift: int = 0

    def __call__(self, item: dict, rng: np.random.Generator) -> dict:
        """-> "k": levels, uint8 (C, S, S); "label": an integer, 0 if there is none"""
        image = np.asarray(item["image"], np.float32).transpose(2, 0, 1) / 255  # (3, S, S)
        if self.channels == 1:  # Rec. 601's luma; grey images are unchanged
            image = np.tensordot(np.float32([0.299, 0.587, 0.114]), image, 1)[None]
        if self.shift:
            image = _translated(image, *rng.integers(-self.shift, self.shift + 1, 2))
        white = rng.random(image.shape, np.float32) < image
        k = white if self.levels == 2 else (image * (self.levels - 1)).round()
        return {"k": k.astype(np.uint8), "label": item.get("label", 0)}


def first_levels(source: Source, prepare: PreparePixels, count: int, skip: int = 0) -> tuple[Tensor, Tensor]:
    """The first `count` images of a source, except the first `skip`, as levels uint8 (n, C, S, S) and labels (n,).

    Image i has the seed (0, i).
    """
    items = [prepare(source[i], np.random.default_rng((0, i))) for i in range(skip, min(count, len(source)))]
    return torch.from_numpy(np.stack([item["k"] for item in items])), torch.tensor([item["label"] for item in items])


def _translated(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """(C, S, S) -> (C, S, S), edge pixels repeated."""
    side = image.shape[1]
    rows, columns = (np.clip(np.arange(side) - by, 0, side - 1) for by in (down, right))
    return image[:, rows][:, :, columns]
