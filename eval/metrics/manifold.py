"""Precision and recall, density and coverage: which samples lie inside the other set's neighbourhoods?

A set's manifold is the union of balls around its samples, each with the distance to the sample's k-th nearest
neighbour in the same set (excluding itself) as radius.

Shapes: N generated · M reference · D dimensions · B rows of a block
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t2i.eval.metrics.common import BLOCK, Array, as_features, blocks, squared_distances

_TIE = 1e-9  # relative tolerance: a distance is often equal to a radius up to rounding


@dataclass(frozen=True)
class PrecisionRecall:
    """`precision`: the share of generated samples on the reference's manifold; `recall`: the other way round."""

    precision: float
    recall: float
    k: int


@dataclass(frozen=True)
class DensityCoverage:
    """`density`: number of reference balls around a generated sample, over k; 1 for equal sets, can exceed 1.
    `coverage`: the share of reference samples with a generated one in their ball."""

    density: float
    coverage: float
    k: int


@dataclass(frozen=True, eq=False)
class Manifold:
    """A reference with its balls, reused to evaluate many sets.

    Attributes:
        points: (M, D) float64, minus their mean, `centre` (D,), so that distances keep their accuracy.
        radii: {k: squared distance (M,) of each point to its k-th nearest neighbour}.
    """

    points: Tensor
    centre: Tensor
    radii: dict[int, Tensor]

    @classmethod
    def of(cls, reference: Array, k: int | Sequence[int], block: int = BLOCK) -> Manifold:
        """From features (M, D), with balls for one or several k; the distances are computed once.

        Raises ValueError for k below 1, M of at most k, NaN or infinity.
        """
        ks = (k,) if isinstance(k, int) else tuple(k)
        if min(ks) < 1:
            raise ValueError(f"k must be at least 1, not {min(ks)}")
        points = as_features(reference, "reference", least=max(ks) + 1)
        centre = points.mean(0)
        points = points - centre
        return cls(points, centre, dict(zip(ks, _radii(points, ks, block), strict=True)))


def precision_recall(generated: Array, reference: Array | Manifold, k: int = 3, block: int = BLOCK) -> PrecisionRecall:
    """Improved precision and recall: Kynkäänniemi et al. 2019, arXiv 1904.06991, eqs. 1 and 2. Balls are closed.

    Args:
        generated, reference: (N, D) and (M, D); the reference also as a `Manifold` with balls for k.
        k: index of the nearest neighbour that defines the radius.
        block: number of distances in memory at once.

    Raises ValueError for N or M of at most k, NaN or infinity, and for a manifold without balls for k.
    """
    x, y, y_radii = _checked(generated, reference, k, block)
    x_radii, y_radii = radii(x, k, block) * (1 + _TIE), y_radii * (1 + _TIE)  # (N,), (M,)
    inside, recalled = 0, torch.zeros(len(y), dtype=torch.bool, device=y.device)
    for part, rows in blocks(x, len(y), block):
        squared = squared_distances(rows, y)  # (B, M)
        inside += (squared <= y_radii).any(1).sum().item()
        recalled |= (squared <= x_radii[part, None]).any(0)
    return PrecisionRecall(inside / len(x), recalled.sum().item() / len(y), k)


def density_coverage(generated: Array, reference: Array | Manifold, k: int = 5, block: int = BLOCK) -> DensityCoverage:
    """Density and coverage: Naeem et al. 2020, arXiv 2002.09797, eqs. 3 and 4.

    Balls are open, as in the authors' code, so a set compared with itself has density 1. A reference that consists of
    one point repeated has empty balls, and scores 0.

    Args, errors: as for `precision_recall`.
    """
    x, y, reach = _checked(generated, reference, k, block)
    reach = reach * (1 - _TIE)  # (M,)
    inside, covered = 0, torch.zeros(len(y), dtype=torch.bool, device=y.device)
    for _, rows in blocks(x, len(y), block):
        hits = squared_distances(rows, y) < reach  # (B, M)
        inside += hits.sum().item()
        covered |= hits.any(0)
    return DensityCoverage(inside / (k * len(x)), covered.sum().item() / len(y), k)


def _checked(generated: Array, reference: Array | Manifold, k: int, block: int) -> tuple[Tensor, Tensor, Tensor]:
    """(N, D), (M, D), both relative to the reference's centre, and the reference's squared radii (M,)."""
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    x = as_features(generated, "generated", least=k + 1)
    manifold = reference if isinstance(reference, Manifold) else Manifold.of(reference, k, block)
    if k not in manifold.radii:
        raise ValueError(f"the manifold has balls for k = {', '.join(map(str, manifold.radii))}, not for {k}")
    if x.shape[1] != len(manifold.centre):
        raise ValueError(
            f"generated and reference must have one dimension, not {x.shape[1]} and {len(manifold.centre)}"
        )
    return x - manifold.centre.to(x), manifold.points.to(x), manifold.radii[k].to(x)


def radii(x: Tensor, k: int, block: int) -> Tensor:
    """(N, D) -> squared distance (N,) of each point to its k-th nearest neighbour, not counting itself."""
    return _radii(x, (k,), block)[0]


def _radii(x: Tensor, ks: Sequence[int], block: int) -> Tensor:
    """(N, D) -> (len(ks), N)"""
    nearest = [
        squared_distances(rows, x).topk(max(ks) + 1, largest=False).values for _, rows in blocks(x, len(x), block)
    ]
    return torch.cat(nearest)[:, list(ks)].T.contiguous()
