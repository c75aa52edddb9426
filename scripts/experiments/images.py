"""Labelled images in memory, with the size, channels and levels that a model was trained on.

Shapes: N images · C channels · S side · K classes
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from t2i.checks import UsageError
from t2i.data.levels import PreparePixels, first_levels
from t2i.data.splits import open_splits
from t2i.models.base import GenerativeModel, from_levels


@dataclass(frozen=True)
class Labelled:
    """Training images (N, C, S, S) with L levels and labels (N,); the same for testing; K classes."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]

    def few(self, count: int, seed: int) -> Tensor:
        """Indices of `count` images of each class, in an order determined by the seed: smaller counts are subsets.

        Raises UsageError if a class has fewer images.
        """
        order = np.random.default_rng(seed).permutation(len(self.labels))
        labels = self.labels.numpy()[order]
        chosen = [order[labels == k][:count] for k in range(len(self.classes))]
        if short := [self.classes[k] for k, places in enumerate(chosen) if len(places) < count]:
            raise UsageError(f"there are fewer than {count} images of: {', '.join(short)}; give a lower --labels")
        return torch.from_numpy(np.concatenate(chosen))


def labelled(data: str, train: int, test: int, like: GenerativeModel | None = None) -> Labelled:
    """The first `train` and `test` images of `data`'s splits, in the format of the model `like`, if given.

    Raises UsageError for data without labels.
    """
    splits = open_splits(data, like.shape[1] if like else None)
    if not splits.classes:
        raise UsageError(f"{data} has no labels")
    channels, levels = (like.shape[0], like.levels) if like else (splits.channels, splits.levels)
    prepare, parts = PreparePixels(levels, channels), []
    for part, count in ((splits.train, train), (splits.test, test)):
        k, labels = first_levels(part, prepare, count)
        parts += [from_levels(k, levels), labels]
    return Labelled(*parts, splits.classes)
