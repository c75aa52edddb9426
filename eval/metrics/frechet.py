"""Fréchet distance between two Gaussians; the FID if the features are Inception's.

Dowson & Landau 1982; Heusel et al. 2017, arXiv 1706.08500, eq. 6:

    d² = |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁ Σ₂)^½

With any factor F of Σ₁ = F Fᵀ, Σ₁ Σ₂ and the symmetric Fᵀ Σ₂ F have the same nonzero eigenvalues, so that neither a
matrix square root nor an eigensolver for general matrices is needed; with factors of both, tr (Σ₁ Σ₂)^½ is the sum of
the singular values of F₁ᵀ F₂. If there are few samples, the centred samples are such a factor.

Shapes: N samples · D dimensions · R rank
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from t2i.eval.metrics.common import Array, as_features, gram
from t2i.eval.metrics.moments import Gaussian, Moments

_EPS = torch.finfo(torch.float64).eps
_NEGATIVE = 1e-10  # an eigenvalue below −this · the largest is not a rounding error
_BELOW_ZERO = 1e-6  # the same for the distance, relative to the traces: square roots of rounding errors are larger


@dataclass(frozen=True)
class _Side:
    """A Gaussian: mean (D,), trace and a factor (D, R) of the covariance; `few` if that is the centred samples."""

    mean: Tensor
    trace: Tensor
    factor: Tensor
    few: bool = False


@dataclass(frozen=True)
class FDInfinity:
    """Attributes: `value` at infinitely many samples; `slope` against 1/N; the `counts` and `distances` of the fit."""

    value: float
    slope: float
    counts: tuple[int, ...]
    distances: tuple[float, ...]


def frechet_distance(generated: Array | Moments | Gaussian, reference: Array | Moments | Gaussian) -> float:
    """d² between two sets, each given as features (N, D) or by its moments.

    With fewer samples than dimensions, features are far faster than moments, and more accurate.

    Raises ValueError for fewer than two samples, other shapes, different D, NaN or infinity, and for a covariance with
    negative eigenvalues beyond rounding.
    """
    return _distance(_side(generated, "generated"), _side(reference, "reference"))


def fd_infinity(
    generated: Array,
    reference: Array | Moments | Gaussian,
    points: int = 15,
    smallest: int | None = None,
    seed: int = 0,
) -> FDInfinity:
    """The distance at infinitely many generated samples: Chong & Forsyth 2020, arXiv 1911.07023, algorithm 1.

    The bias of the distance is linear in 1/N: a line is fitted to the distances of subsets and extrapolated to 1/N = 0.

    Args:
        generated: (N, D).
        reference: as in `frechet_distance`; its own bias remains.
        points: number of subsets, sampled independently, with sizes evenly spaced from `smallest` to N.
        smallest: default: N / 10, as in the paper (5,000 of 50,000).
        seed: seed of the subsets.

    Raises ValueError as `frechet_distance` does, and for fewer than two points or sizes.
    """
    features, side = as_features(generated, "generated"), _side(reference, "reference")
    n = len(features)
    smallest = max(2, n // 10) if smallest is None else smallest
    if points < 2 or not 2 <= smallest < n:
        raise ValueError(f"a line needs points ≥ 2 and 2 ≤ smallest < {n}, not {points=} and {smallest=}")
    rng = np.random.default_rng(seed)
    counts = [int(count) for count in np.linspace(smallest, n, points)]
    subsets = (torch.from_numpy(rng.permutation(n)[:count]).to(features.device) for count in counts)
    distances = [_distance(_side(features[subset], "generated"), side) for subset in subsets]
    slope, value = np.polyfit(1 / np.array(counts), distances, 1)
    return FDInfinity(float(value), float(slope), tuple(counts), tuple(distances))


def _side(given: Array | Moments | Gaussian, name: str) -> _Side:
    if isinstance(given, Moments | Gaussian):
        cov = given.cov
        return _Side(given.mean, cov.trace(), _factor(cov))
    if getattr(given, "ndim", 0) == 2 and len(given) >= max(2, given.shape[1]):
        return _side(Moments.of(given, name), name)
    features = as_features(given, name)
    n = len(features)
    mean = features.mean(0)
    factor = (features - mean).T / (n - 1) ** 0.5
    return _Side(mean, factor.square().sum(), factor, few=True)


def _distance(a: _Side, b: _Side) -> float:
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"generated and reference must have one dimension, not {len(a.mean)} and {len(b.mean)}")
    traces = (a.trace + b.trace.to(a.trace)).item()
    apart = (a.mean - b.mean.to(a.mean)).square().sum().item()
    squared = apart + traces - 2 * _trace_of_root(a, b)
    if squared < -_BELOW_ZERO * traces:
        raise ValueError(f"the Fréchet distance came out as {squared:.3g}: the covariances are not of features")
    return max(0.0, squared)


def _trace_of_root(a: _Side, b: _Side) -> float:
    """tr (Σ₁ Σ₂)^½"""
    product = a.factor.T @ b.factor.to(a.factor)  # (R₁, R₂)
    if a.few and b.few:
        return torch.linalg.svdvals(product).sum().item()  # the nuclear norm
    # Otherwise R is often D, and the eigenvalues of F₁ᵀ Σ₂ F₁ take less than half the time of singular values. Uses the
    # smaller side, as rounding errors in place of zeros would contribute their square roots.
    congruence = gram(product if product.shape[1] <= product.shape[0] else product.T)
    return _clamped(torch.linalg.eigvalsh(congruence)).sqrt().sum().item()


def _factor(cov: Tensor) -> Tensor:
    """(D, D) -> (D, R) with factor @ factor.T = cov: triangular, or from eigenvectors if cov is singular."""
    lower, failed = torch.linalg.cholesky_ex(cov)  # a tenth of the time of an eigendecomposition, and as stable
    if not failed:
        return lower
    values, vectors = torch.linalg.eigh(cov)
    values = _clamped(values)
    keep = values > len(cov) * _EPS * values.max()  # as in numpy.linalg.matrix_rank
    return vectors[:, keep] * values[keep].sqrt()


def _clamped(eigenvalues: Tensor) -> Tensor:
    """Set negative rounding errors to zero. Raises ValueError for larger negative values."""
    if len(eigenvalues) and eigenvalues.min() < -_NEGATIVE * eigenvalues.abs().max():
        raise ValueError(
            f"a covariance has a negative eigenvalue ({eigenvalues.min().item():.3g}, the largest being"
            f" {eigenvalues.max().item():.3g}): compute it in float64"
        )
    return eigenvalues.clamp(min=0)
