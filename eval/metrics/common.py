"""Input validation shared by all metrics, and pairwise distances in little memory.

Shapes: N samples · M other samples · D dimensions
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Array = Tensor | np.ndarray
BLOCK = 2**22  # entries of an N×M matrix in memory at once, 32 MiB
_STRIP = 256  # columns of a symmetric product computed at once
_ROUNDING = 1e-12  # relative to the squared norms; a smaller squared distance is rounding error


@dataclass(frozen=True, eq=False)
class Scores:
    """A metric with a score for each sample.

    Attributes:
        value: over all samples, usually the mean.
        per_sample: float64 (N,), for intervals and to find the worst samples.
    """

    value: float
    per_sample: np.ndarray

    @classmethod
    def of(cls, per_sample: Tensor) -> Scores:
        """Scores (N,) and their mean."""
        values = per_sample.double().cpu().numpy()
        return cls(float(values.mean()), values)


def as_double(values: Array, name: str) -> Tensor:
    """A float64 tensor on its own device. Raises ValueError if it contains NaN or infinity."""
    if isinstance(values, Tensor):
        values = values.detach()
        values = (values.cpu() if values.device.type == "mps" else values).double()  # Metal has no float64
    else:
        values = torch.tensor(np.asarray(values, dtype=np.float64))
    if not values.sum().isfinite():  # ten times faster than checking every number
        raise ValueError(f"there is NaN or infinity in {name}")
    return values


def as_features(features: Array, name: str = "features", least: int = 2) -> Tensor:
    """(N, D) in float64. Raises ValueError for another shape, fewer than `least` samples, NaN or infinity."""
    features = as_double(features, name)
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"{name} must have the shape (N, D), not {tuple(features.shape)}")
    if len(features) < least:
        raise ValueError(f"{name} must have at least {least} samples, not {len(features)}")
    return features


def as_pair(
    a: Array, b: Array, names: tuple[str, str] = ("generated", "reference"), least: int = 2
) -> tuple[Tensor, Tensor]:
    """(N, D) and (M, D) in float64, on the first one's device. Raises ValueError as `as_features`, or if D differs."""
    x, y = as_features(a, names[0], least), as_features(b, names[1], least)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{names[0]} and {names[1]} must have one dimension, not {x.shape[1]} and {y.shape[1]}")
    return x, y.to(x.device)


def blocks(x: Tensor, width: int, block: int = BLOCK) -> Iterator[tuple[slice, Tensor]]:
    """(slice, x[slice]) from first to last row, with few enough rows that rows × width is at most `block`."""
    rows = max(1, block // max(1, width))
    for start in range(0, len(x), rows):
        part = slice(start, min(start + rows, len(x)))
        yield part, x[part]


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(N, D), (M, D) -> (N, M), exactly zero between equal points.

    |x|² + |y|² − 2 x·y is ten times faster than subtracting, but accurate only for points around the origin: centre
    them first.
    """
    scale = x.square().sum(1)[:, None] + y.square().sum(1)  # (N, M)
    squared = scale - 2 * x @ y.T
    return squared.where(squared > _ROUNDING * scale, 0)


def gram(x: Tensor) -> Tensor:
    """(N, D) -> xᵀ x (D, D)."""
    return gram_of([x], x.new_zeros(x.shape[1], x.shape[1]))


def gram_of(parts: Iterable[Tensor], product: Tensor) -> Tensor:
    """The sum of xᵀ x over all parts (N, D), added to `product` (D, D), which is initially zero.

    Exploits symmetry: little more than half of it is computed, in strips.
    """
    strips = [slice(start, start + _STRIP) for start in range(0, len(product), _STRIP)]
    for x in parts:
        for strip in strips:
            product[strip, strip.start :].addmm_(x[:, strip].T, x[:, strip.start :])  # everything right of the diagonal
    for strip in strips:
        product[strip.stop :, strip] = product[strip, strip.stop :].T
    return product
