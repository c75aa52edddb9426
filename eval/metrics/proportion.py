"""Proportions with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.special import ndtri

from t2i.eval.metrics.bootstrap import Interval


def proportion(successes: float, n: int, level: float = 0.95) -> Interval:
    """`successes` / `n` with Wilson's score interval: Wilson 1927, "Probable inference", eq. 11.

    Equals `scipy.stats.binomtest(successes, n).proportion_ci(level, "wilson")`, but accepts fractional successes, such
    as half a success for a tie.

    Raises ValueError for n < 1 and successes outside [0, n].
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"a proportion needs n ≥ 1 and 0 ≤ successes ≤ n, not {successes} of {n}")
    p, z = successes / n, float(ndtri((1 + level) / 2))
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Interval(p, min(low, p), max(high, p), n, level)  # rounding errors at 0 and at 1


def share(truths: Sequence[bool]) -> Interval:
    """The proportion that is true. Raises ValueError for an empty sequence."""
    return proportion(sum(truths), len(truths))
