"""Mean and covariance of more features than fit in memory.

Shapes: N samples · D dimensions
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from t2i.eval.metrics.common import Array, as_double, as_features, gram_of

ROWS = 1024  # rows converted to float64 at once


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean and covariance, the inputs of the Fréchet distance.

    Attributes:
        mean: (D,), float64.
        cov: (D, D), float64, symmetric.

    Raises ValueError for other shapes, NaN or infinity, and a covariance that is not symmetric.
    """

    mean: Tensor
    cov: Tensor

    def __post_init__(self):
        mean, cov = as_double(self.mean, "the mean"), as_double(self.cov, "the covariance")
        if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
            raise ValueError(f"a Gaussian needs shapes (D,) and (D, D), not {tuple(mean.shape)} and {tuple(cov.shape)}")
        if (cov - cov.T).abs().max() > 1e-6 * cov.abs().max():
            raise ValueError("the covariance is not symmetric")
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "cov", (cov + cov.T) / 2)


class Moments:
    """Running mean and covariance in float64.

    Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance": the sums of squares are of deviations
    from each part's mean, and parts are merged by eq. 2.1b. A sum of raw squares minus N·mean² would lose all accuracy
    for features far from the origin. Means are stored relative to the first batch's, for the same reason.
    """

    def __init__(self):
        self.count = 0
        self._shift: Tensor | None = None  # (D,)
        self._mean: Tensor | None = None  # (D,), relative to the shift
        self._scatter: Tensor | None = None  # (D, D), sum of outer products of deviations from the mean

    @classmethod
    def of(cls, features: Array, name: str = "features") -> Self:
        """Moments of features (N, D); error messages call them by `name`."""
        return cls().update(features, name)

    def update(self, batch: Array, name: str = "features") -> Self:
        """Add features (N, D), N ≥ 1. Raises ValueError for a different D, NaN or infinity.

        They are converted to float64 a few rows at a time; this is done twice, as the mean comes first, and costs
        little.
        """
        first = as_features(batch[:ROWS] if getattr(batch, "ndim", 0) == 2 else batch, name, least=1)
        self._check(first.shape[1])
        count, shift = len(batch), first.mean(0) if self._shift is None else self._shift.to(first.device)
        parts = [batch[start : start + ROWS] for start in range(0, count, ROWS)]
        mean = sum(as_features(part, name, least=1).sub(shift).sum(0) for part in parts) / count
        middle = shift + mean
        deviations = (as_double(part, name) - middle for part in parts)
        return self._add(count, shift, mean, gram_of(deviations, first.new_zeros(first.shape[1], first.shape[1])))

    def merge(self, other: Moments) -> Self:
        """Add everything that `other` has accumulated; `other` is not modified. Raises ValueError for a different D."""
        if other.count == 0:
            return self
        self._check(len(other._shift))
        shift = other._shift if self._shift is None else self._shift.to(other._shift)
        return self._add(other.count, shift, other._mean + (other._shift - shift), other._scatter)

    @property
    def mean(self) -> Tensor:
        """(D,). Raises ValueError before the first sample."""
        if self.count == 0:
            raise ValueError("a mean needs at least 1 sample")
        return self._shift + self._mean

    @property
    def cov(self) -> Tensor:
        """(D, D), divided by N − 1. Raises ValueError for fewer than two samples."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 samples, not {self.count}")
        return self._scatter / (self.count - 1)

    def gaussian(self) -> Gaussian:
        """The mean and the covariance. Raises ValueError for fewer than two samples."""
        return Gaussian(self.mean, self.cov)

    def _check(self, dimension: int) -> None:
        if self._shift is not None and dimension != len(self._shift):
            raise ValueError(f"features have {dimension} dimensions here and {len(self._shift)} before")

    def _add(self, count: int, shift: Tensor, mean: Tensor, scatter: Tensor) -> Self:
        """Chan's eq. 2.1b: the total scatter is the sum of both scatters and that of the two means."""
        if self.count == 0:
            self.count, self._shift, self._mean, self._scatter = count, shift, mean, scatter
            return self
        total, apart = self.count + count, mean.to(self._mean) - self._mean
        self._scatter = self._scatter + scatter.to(self._mean) + apart.outer(apart) * (self.count * count / total)
        self._mean = self._mean + apart * (count / total)
        self.count = total
        return self
