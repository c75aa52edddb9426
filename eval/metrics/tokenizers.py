"""Metrics of image tokenizers: how a codebook is used, and the distance between features of originals and
reconstructions.

Shapes: N samples · D dimensions
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from t2i.eval.metrics.common import Array, Scores, as_pair


@dataclass(frozen=True)
class CodeUsage:
    """Attributes:
    used: number of different codes that occur.
    perplexity: exp of the entropy of their frequencies: `used` if all occur equally often, 1 if only one occurs.
    count: number of codes counted.
    """

    used: int
    perplexity: float
    count: int


def code_usage(codes: np.ndarray) -> CodeUsage:
    """Codes, integers of any shape -> their usage. Raises ValueError for none, and for other numbers than integers."""
    if not np.issubdtype(codes.dtype, np.integer) or codes.size == 0:
        raise ValueError(f"codes must be integers, at least one of them, not {codes.dtype} {codes.shape}")
    counts = np.unique(codes, return_counts=True)[1]  # independent of the size of the codebook, which may be large
    p = counts / counts.sum()
    return CodeUsage(len(counts), float(np.exp(-(p * np.log(p)).sum())), codes.size)


def cosine_distance(generated: Array, reference: Array) -> Scores:
    """1 − cosine of the angle between row i of each, features (N, D), N ≥ 1; exactly 0 for equal rows.

    A feature vector of zeros counts as orthogonal to every other. Raises ValueError for other shapes, NaN or infinity.
    """
    x, y = as_pair(generated, reference, least=1)
    if x.shape != y.shape:
        raise ValueError(f"pairs need as many rows in both, not {len(x)} and {len(y)}")
    equal = (x == y).all(1)
    norms = (x.square().sum(1) * y.square().sum(1)).sqrt()  # (N,)
    cosine = (x * y).sum(1) / norms.where(norms > 0, 1)
    return Scores.of((1 - cosine).clamp(min=0).where(~equal, 0))
