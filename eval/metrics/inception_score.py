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


def inception_score(
    scores: Array, splits: int = 10, shuffle: bool = True, seed: int = 2020, probabilities: bool = False
) -> InceptionScore:
    """exp E KL(p(y|x) ‖ p(y)): Salimans et al. 2016, arXiv 1606.03498, section 4; torch-fidelity's definition.

    Args:
        scores: logits (N, K), or with `probabilities` non-negative rows that sum to one.
        splits: number of parts that are scored separately.
        shuffle: shuffle before splitting, with `seed`; sorted samples would give splits of few classes.

    Raises ValueError for fewer samples than splits, NaN or infinity, rows that are not probabilities.
    """
    if splits < 1:
        raise ValueError(f"splits must be at least 1, not {splits}")
    scores = as_features(scores, "scores", least=splits)
    n = len(scores)
    p, log_p = _given(scores) if probabilities else (scores.softmax(1), scores.log_softmax(1))
    if shuffle:
        order = torch.from_numpy(np.random.RandomState(seed).permutation(n))  # the order of torch-fidelity
        p, log_p = p[order.to(p.device)], log_p[order.to(p.device)]
    edges = [i * n // splits for i in range(splits + 1)]
    parts = [slice(*edge) for edge in pairwise(edges)]
    values = [_score(p[part], log_p[part]) for part in parts]
    return InceptionScore(float(np.mean(values)), float(np.std(values)), splits)


def _given(p: Tensor) -> tuple[Tensor, Tensor]:
    if p.min() < 0 or (p.sum(1) - 1).abs().max() > 1e-3:
        raise ValueError("probabilities must not be negative and must sum to one in each row")
    return p, p.log()


def _score(p: Tensor, log_p: Tensor) -> float:
    """p, log_p (n, K) -> exp of the mean divergence. Classes with zero probability add nothing; 0 · −∞ would be NaN."""
    divergence = p * (log_p - p.mean(0).log())
    return divergence.where(p > 0, 0).sum(1).mean().exp().item()
