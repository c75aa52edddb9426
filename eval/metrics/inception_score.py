"""Inception score: are single images recognisable, and is the set diverse?

Shapes: N samples · K classes
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from t2i.eval.metrics.common import Array, as_features


@dataclass(frozen=True)
class InceptionScore:
    """Mean and population standard deviation over the splits."""

    mean: float
    std: float
    splits: int


def inception_score(logits: Array, splits: int = 10, seed: int = 2020) -> InceptionScore:
    """exp E KL(p(y|x) ‖ p(y)): Salimans et al. 2016, arXiv 1606.03498, section 4; torch-fidelity's definition.

    Args:
        logits: (N, K); logarithms of probabilities are logits too.
        splits: number of parts that are scored separately.
        seed: of the shuffling before the split, as sorted samples would give parts of few classes.

    Raises ValueError for fewer samples than splits, NaN or infinity.
    """
    if splits < 1:
        raise ValueError(f"splits must be at least 1, not {splits}")
    logits = as_features(logits, "logits", least=splits)
    n = len(logits)
    logits = logits[torch.from_numpy(np.random.RandomState(seed).permutation(n)).to(logits.device)]  # torch-fidelity's
    p, log_p = logits.softmax(1), logits.log_softmax(1)
    edges = [i * n // splits for i in range(splits + 1)]
    parts = [slice(*edge) for edge in pairwise(edges)]
    values = [_score(p[part], log_p[part]) for part in parts]
    return InceptionScore(float(np.mean(values)), float(np.std(values)), splits)


def _score(p: Tensor, log_p: Tensor) -> float:
    """p, log_p (n, K) -> exp of the mean divergence. Classes with zero probability add nothing; 0 · −∞ would be NaN."""
    divergence = p * (log_p - p.mean(0).log())
    return divergence.where(p > 0, 0).sum(1).mean().exp().item()
