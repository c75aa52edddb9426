"""Disentanglement of latents: the mutual information gap (MIG).

Chen et al. 2018, arXiv 1802.04942, § 4.1. The mutual information is estimated from the posterior means in 20 bins of
equal width, as by Locatello et al. 2019 (arXiv 1811.12359, appendix B), and not by integration over the posterior, as
by Chen et al.: the two are not comparable.
Shapes: N images · Z latent dimensions · K factors
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

BINS = 20


def mutual_information(latents: ArrayLike, factors: ArrayLike, bins: int = BINS) -> np.ndarray:
    """I(z_j; v_k) in nats: latents, finite numbers (N, Z), and factors, integers (N, K) -> (K, Z)

    The estimate is biased upwards by about (bins - 1)(values - 1) / 2N nats: use many images.
    Raises ValueError for other shapes and values.
    """
    from sklearn.metrics import mutual_info_score  # slow to import

    latents, factors = _checked(latents, factors, bins)
    binned = [np.digitize(z, np.histogram_bin_edges(z, bins)[1:-1]) for z in latents.T]
    return np.array([[mutual_info_score(v, z) for z in binned] for v in factors.T])


def entropies(factors: ArrayLike) -> np.ndarray:
    """H(v_k) in nats: integers (N, K) -> (K,)"""
    shares = [np.unique(v, return_counts=True)[1] / len(v) for v in np.asarray(factors).T]
    return np.array([-(p * np.log(p)).sum() for p in shares])


def gaps(information: np.ndarray, entropy: np.ndarray) -> np.ndarray:
    """Gap in information between the best and second best latent, normalised by entropy: (K, Z), (K,) -> (K,)

    Raises ValueError for a factor that never varies, and for fewer than two latents.
    """
    if information.shape[1] < 2:
        raise ValueError("a gap between the best latent and the second best needs two latents at least")
    if not (entropy > 0).all():
        raise ValueError(f"factor {int(np.argmin(entropy))} has the same value in all images; leave it out")
    second, best = np.sort(information, axis=1)[:, -2:].T
    return (best - second) / entropy


def mig(latents: ArrayLike, factors: ArrayLike, bins: int = BINS) -> float:
    """The mean gap over the factors, in [0, 1] (Chen et al. 2018, eq. 6): (N, Z), (N, K) -> scalar

    1: each factor is fully determined by one latent, with no information in others; 0: two latents are equally
    informative for each factor.
    Raises ValueError as `mutual_information` and `gaps` do.
    """
    return float(gaps(mutual_information(latents, factors, bins), entropies(factors)).mean())


def _checked(latents: ArrayLike, factors: ArrayLike, bins: int) -> tuple[np.ndarray, np.ndarray]:
    latents, factors = np.asarray(latents, dtype=np.float64), np.asarray(factors)
    if latents.ndim != 2 or factors.ndim != 2 or len(latents) != len(factors) or not len(latents):
        raise ValueError(f"need latents (N, Z) and factors (N, K), not {latents.shape} and {factors.shape}")
    if not np.issubdtype(factors.dtype, np.integer):
        raise ValueError(f"factors must be integers, not {factors.dtype}: number their values")
    if not np.isfinite(latents).all():
        raise ValueError("some latents are NaN or infinite")
    if bins < 2:
        raise ValueError(f"bins must be at least 2, not {bins}")
    return latents, factors
