"""Features with known properties, for the tests of the metrics."""

from __future__ import annotations

import pytest
import torch


def close(value: float, rel: float = 1e-9):
    return pytest.approx(value, rel=rel, abs=0)


def features(n: int, d: int, seed: int = 0, offset: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    """(n, d), float64, correlated, with variances spanning two decades."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(99), dtype=torch.float64) / d**0.5
    decades = torch.logspace(0, -1, d, dtype=torch.float64)
    return (torch.randn(n, d, generator=g, dtype=torch.float64) * decades) @ mix * scale + offset
