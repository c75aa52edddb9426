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
    """To learn from, images (N, C, S, S) of L levels and labels (N,); as many others to be judged by; K classes."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]

    def few(self, count: int, seed: int) -> Tensor:
        """Places of `count` images of each class, in an order that the seed alone says: fewer are among more.

        Raises UsageError where a class has not so many.
        """
        order = np.random.default_rng(seed).permutation(len(self.labels))
        labels = self.labels.numpy()[order]
        chosen = [order[labels == k][:count] for k in range(len(self.classes))]
        if short := [self.classes[k] for k, places in enumerate(chosen) if len(places) < count]:
            raise UsageError(f"there are not {count} pictures of: {', '.join(short)}; ask for fewer with --labels")
        return torch.from_numpy(np.concatenate(chosen))


def labelled(data: str, train: int, test: int, like: GenerativeModel | None = None) -> Labelled:
    """The first `train` and `test` images of `data`'s two parts, as `like` takes them, or as they are.

    Raises UsageError for data without labels.
    """
    splits = open_splits(data, like.shape[1] if like else None)
    if not splits.classes:
        raise UsageError(f"{data} has no labels")
    channels, levels = (like.shape[0], like.levels) if like else (splits.channels, splits.levels)
    prepare, found = PreparePixels(levels, channels), []
    for part, count in ((splits.train, train), (splits.test, test)):
        k, labels = first_levels(part, prepare, count)
        found += [from_levels(k, levels), labels]
    return Labelled(*found, splits.classes)
