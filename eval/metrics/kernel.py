"""Maximum mean discrepancies: KID and CMMD.

Shapes: N samples · M other samples · D dimensions · S subset size
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from t2i.eval.metrics.bootstrap import NORMAL_95, Interval
from t2i.eval.metrics.common import BLOCK, Array, as_pair, blocks, squared_distances

CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0


@dataclass(frozen=True)
class KID:
    """Mean and population standard deviation over the subsets. Slightly negative values are possible for equal sets."""

    mean: float
    std: float
    subsets: int
    subset_size: int


def kid(generated: Array, reference: Array, subsets: int = 100, subset_size: int = 1000, seed: int = 2020) -> KID:
    """Kernel Inception distance: Bińkowski et al. 2018, arXiv 1801.01401, section 4.

    The unbiased MMD² (eq. 4) with the kernel (x·y / D + 1)³, over random subsets of S samples of each set.

    Args:
        generated, reference: (N, D) and (M, D).
        subsets, subset_size, seed: default: torch-fidelity's, with the same subsets.

    Raises ValueError for N or M below S, S < 2, no subsets, NaN or infinity.
    """
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"KID needs subsets ≥ 1 and subset_size ≥ 2, not {subsets=} and {subset_size=}")
    x, y = as_pair(generated, reference)
    if min(len(x), len(y)) < subset_size:
        raise ValueError(f"KID needs at least subset_size={subset_size} samples of each, not {len(x)} and {len(y)}")
    rng = np.random.RandomState(seed)  # the legacy generator, which torch-fidelity uses for the subsets
    values = []
    for _ in range(subsets):
        picked = [torch.from_numpy(rng.choice(len(z), subset_size, replace=False)).to(z.device) for z in (x, y)]
        values.append(_unbiased(x[picked[0]], y[picked[1]]))
    return KID(float(np.mean(values)), float(np.std(values)), subsets, subset_size)


def kid_interval(
    generated: Array, reference: Array, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> Interval:
    """`kid` with its 95 % interval, which reflects sampling of the generated images and of the subsets.

    Its mean over all possible subsets is the unbiased MMD² of all samples; by the law of total variance, its variance
    is the latter's (see `mmd_error`) plus that of a mean over finitely many subsets.

    Raises ValueError as `kid` does, and for N or M below 3.
    """
    score, error = kid(generated, reference, subsets, subset_size, seed), mmd_error(generated, reference)
    half = NORMAL_95 * math.hypot(error, score.std / math.sqrt(subsets))
    return Interval(score.mean, score.mean - half, score.mean + half, len(generated))


def mmd_error(generated: Array, reference: Array, block: int = BLOCK) -> float:
    """Standard error of KID's unbiased MMD² of all samples of each set, for a fixed reference.

    The jackknife of a U-statistic: Arvesen 1969, "Jackknifing U-statistics". Leaving out a sample removes the pairs
    that contain it, hence one pass over the kernel gives all N values. If the two sets are alike, the statistic depends
    almost only on pairs, and the jackknife overestimates, by a factor of up to √2.

    Args:
        generated, reference: (N, D) and (M, D).
        block: entries of a kernel matrix in memory at once.

    Raises ValueError for N or M below 3, NaN or infinity.
    """
    x, y = as_pair(generated, reference, least=3)
    n, d = x.shape
    diagonal = (x.square().sum(1) / d + 1) ** 3  # (N,), of each sample with itself
    within = torch.cat([_polynomial(rows, x).sum(1) for _, rows in blocks(x, n, block)]) - diagonal
    across = torch.cat([_polynomial(rows, y).mean(1) for _, rows in blocks(x, len(y), block)])
    pairs = (within.sum() - 2 * within) / ((n - 1) * (n - 2))  # (N,), leaving out sample i
    without = pairs - 2 * (across.sum() - across) / (n - 1)
    return ((n - 1) * without.var(correction=0)).sqrt().item()


def _unbiased(x: Tensor, y: Tensor) -> float:
    """Unbiased MMD² of (S, D) and (S, D): a sample is never compared with itself."""
    s = len(x)
    xx, yy, xy = _polynomial(x, x), _polynomial(y, y), _polynomial(x, y)
    within = xx.sum() - xx.trace() + yy.sum() - yy.trace()
    return (within / (s * (s - 1)) - 2 * xy.mean()).item()


def _polynomial(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def cmmd(generated: Array, reference: Array, block: int = BLOCK) -> float:
    """CLIP maximum mean discrepancy: Jayasumana et al. 2024, arXiv 2401.09603, section 4.

    1000 · MMD² with the kernel exp(−|x − y|² / (2 · 10²)) on normalised embeddings. As in the authors' code the
    estimate is the biased one (samples are also compared with themselves), hence never negative. They compute in
    float32, with noise of about 1e-4; this is in float64.

    Args:
        generated, reference: CLIP image embeddings (N, D) and (M, D), of any nonzero norm.
        block: entries of a kernel matrix in memory at once.

    Raises ValueError for fewer than two samples, zero vectors, NaN or infinity.
    """
    x, y = (normalised(z) for z in as_pair(generated, reference))
    squared = _mean_kernel(x, x, block) + _mean_kernel(y, y, block) - 2 * _mean_kernel(x, y, block)
    return CMMD_SCALE * max(0.0, squared)  # negative only by rounding


def _mean_kernel(x: Tensor, y: Tensor, block: int) -> float:
    total = sum(
        squared_distances(part, y).mul_(-1 / (2 * CMMD_SIGMA**2)).exp_().sum() for _, part in blocks(x, len(y), block)
    )
    return total.item() / (len(x) * len(y))


def normalised(embeddings: Tensor) -> Tensor:
    """Rows divided by their norm. Raises ValueError for a zero row, which has no direction."""
    lengths = torch.linalg.vector_norm(embeddings, dim=-1, keepdim=True)
    if not (lengths > 0).all():
        raise ValueError("an embedding is zero, so it has no direction")
    return embeddings / lengths
