"""Confidence intervals by resampling: how much would the score vary with other samples?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from t2i.eval.metrics.common import BLOCK, Array, as_double

NORMAL_95 = 1.959964  # half-width, in standard deviations, of a normal distribution's 95 % interval


@dataclass(frozen=True)
class Interval:
    """`value` on the samples themselves; `low` and `high`, which enclose `level` of the resamples; `n` samples."""

    value: float
    low: float
    high: float
    n: int
    level: float = 0.95


def bootstrap_interval(
    samples: Array,
    statistic: Callable[[np.ndarray], float] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval: Efron 1979, "Bootstrap methods"; Efron & Tibshirani 1993, section 13.3.

    Args:
        samples: (N, …), N ≥ 2, resampled by rows: N at a time, with replacement.
        statistic: samples (N, …), float64, to a number; default: the mean of samples (N,), which is much faster.
        resamples: at least 2.
        seed: seed of the resamples.

    Raises ValueError for fewer than two samples, arguments out of range, NaN or infinity in samples or statistic.
    """
    samples = as_double(samples, "samples").cpu().numpy()
    if samples.ndim < 1 or len(samples) < 2:
        raise ValueError(f"an interval needs at least 2 samples, not the shape {samples.shape}")
    if resamples < 2 or not 0 < level < 1:
        raise ValueError(f"an interval needs resamples ≥ 2 and a level between 0 and 1: {resamples=}, {level=}")
    if statistic is None and samples.ndim != 1:
        raise ValueError(f"a mean needs samples (N,), not {samples.shape}; give a statistic")
    rng = np.random.default_rng(seed)
    if statistic is None:
        value, values = samples.mean(), _means(samples, resamples, rng)
    else:
        value = statistic(samples)
        resampled = (rng.integers(len(samples), size=len(samples)) for _ in range(resamples))
        values = np.array([statistic(samples[rows]) for rows in resampled], dtype=np.float64)
    if not np.isfinite(values).all() or not np.isfinite(value):
        raise ValueError("the statistic is NaN or infinite on a resample")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high), len(samples), level)


def half_sample_intervals(
    samples: Array,
    statistic: Callable[[np.ndarray], Sequence[float]],
    resamples: int = 100,
    seed: int = 0,
) -> list[Interval]:
    """95 % intervals of statistics that the bootstrap would bias, such as a distance between sets: Shao & Wu 1989.

    "A general theory for jackknife variance estimation", deleting half of the samples: the variance of a statistic of
    N samples is estimated by that of its values on random halves without replacement. Resampling with replacement
    repeats samples, which makes the set less varied and increases a Fréchet distance; so does a half, but here only the
    spread matters. The part of a statistic that depends on pairs of samples rather than on single ones varies more on
    halves, by a factor of up to √3: if that part dominates, the interval is too wide.

    Args:
        samples: (N, …), N ≥ 4, of which halves are taken by rows.
        statistic: samples (N, …), float64, to numbers; as smooth in the samples as means and covariances are.
        resamples: at least 2.
        seed: seed of the halves.

    Raises ValueError for fewer than four samples, arguments out of range, NaN or infinity in samples or statistic.
    """
    samples = as_double(samples, "samples").cpu().numpy()
    if samples.ndim < 1 or len(samples) < 4 or resamples < 2:
        raise ValueError(f"halves need at least 4 samples and 2 resamples, not {samples.shape} and {resamples}")
    rng = np.random.default_rng(seed)
    half, n = len(samples) // 2, len(samples)
    halves = (rng.permutation(n)[:half] for _ in range(resamples))
    whole = np.array(statistic(samples), dtype=np.float64)  # (statistics,)
    values = np.array([statistic(samples[rows]) for rows in halves], dtype=np.float64)  # (resamples, statistics)
    if not np.isfinite(values).all() or not np.isfinite(whole).all():
        raise ValueError("the statistic is NaN or infinite on a resample")
    errors = NORMAL_95 * np.sqrt(values.var(0, ddof=1) * half / (n - half))
    return [Interval(float(v), float(v - e), float(v + e), n) for v, e in zip(whole, errors, strict=True)]


def _means(samples: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means of many resamples at once; the random numbers are the same as one after the other."""
    n = len(samples)
    rows = max(1, BLOCK // n)
    sizes = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    return np.concatenate([samples[rng.integers(n, size=(size, n))].mean(1) for size in sizes])
