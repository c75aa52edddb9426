"""Precision and recall, density and coverage: which samples lie inside the other set's neighbourhoods?

A set's manifold is the union of balls round its samples, each reaching to the sample's k-th nearest neighbour in its
own set (itself not counted).

Shapes: N generated · M reference · D dimensions · B rows of a block
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from t2i.eval.metrics.common import BLOCK, Array, as_pair, blocks, squared_distances

_TIE = 1e-9  # relative: a distance is often equal to a radius, but for rounding


@dataclass(frozen=True)
class PrecisionRecall:
    """`precision`: the share of generated samples on the reference's manifold; `recall`: the other way round."""

    precision: float
    recall: float
    k: int


@dataclass(frozen=True)
class DensityCoverage:
    """`density`: balls of the reference round a generated sample, over k; 1 for equal sets, and may be above.
    `coverage`: the share of reference samples that have a generated one in their ball."""

    density: float
    coverage: float
    k: int


def precision_recall(generated: Array, reference: Array, k: int = 3, block: int = BLOCK) -> PrecisionRecall:
    """Improved precision and recall: Kynkäänniemi et al. 2019, arXiv 1904.06991, eqs. 1 and 2. Balls are closed.

    Args:
        generated, reference: (N, D) and (M, D).
        k: neighbour that the balls reach to.
        block: distances held at once.

    Raises ValueError for N or M of at most k, NaN or infinity.
    """
    x, y = _checked(generated, reference, k)
    x_radii, y_radii = radii(x, k, block) * (1 + _TIE), radii(y, k, block) * (1 + _TIE)  # (N,), (M,)
    inside, recalled = 0, torch.zeros(len(y), dtype=torch.bool, device=y.device)
    for part, rows in blocks(x, len(y), block):
        squared = squared_distances(rows, y)  # (B, M)
        inside += (squared <= y_radii).any(1).sum().item()
        recalled |= (squared <= x_radii[part, None]).any(0)
    return PrecisionRecall(inside / len(x), recalled.sum().item() / len(y), k)


def density_coverage(generated: Array, reference: Array, k: int = 5, block: int = BLOCK) -> DensityCoverage:
    """Density and coverage: Naeem et al. 2020, arXiv 2002.09797, eqs. 3 and 4.

    Balls are open, as in the authors' code: so a set compared with itself has density 1. A reference that is one
    point k times over has balls without inside, and scores 0.

    Args, errors: as for `precision_recall`.
    """
    x, y = _checked(generated, reference, k)
    reach = radii(y, k, block) * (1 - _TIE)  # (M,)
    inside, covered = 0, torch.zeros(len(y), dtype=torch.bool, device=y.device)
    for _, rows in blocks(x, len(y), block):
        hits = squared_distances(rows, y) < reach  # (B, M)
        inside += hits.sum().item()
        covered |= hits.any(0)
    return DensityCoverage(inside / (k * len(x)), covered.sum().item() / len(y), k)


def _checked(generated: Array, reference: Array, k: int) -> tuple[Tensor, Tensor]:
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    x, y = as_pair(generated, reference, least=k + 1)
    centre = y.mean(0)  # distances stay, and keep their digits
    return x - centre, y - centre


def radii(x: Tensor, k: int, block: int) -> Tensor:
    """(N, D) -> squared distance (N,) of each to its k-th nearest neighbour; the nearest of all is itself."""
    return torch.cat([squared_distances(rows, x).kthvalue(k + 1).values for _, rows in blocks(x, len(x), block)])
