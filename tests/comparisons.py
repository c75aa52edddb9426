"""A tiny comparison of families, shared by the tests of `t2i compare`."""

from __future__ import annotations

import json
from pathlib import Path

from t2i.training.benchmark.compare import BenchmarkConfig

ASK = BenchmarkConfig(budget="0.4s", preset="tiny", levels=17, num_images=60, num_test_images=50, extractor="random")
BUDGET = 0.4


def begun(out: Path, ask: BenchmarkConfig = ASK) -> Path:
    """The folder of a comparison without results yet."""
    (out / "families").mkdir(parents=True)
    kept = {k: v for k, v in vars(ask).items() if k not in ("out", "families")}
    (out / "settings.json").write_text(json.dumps(kept))
    return out
