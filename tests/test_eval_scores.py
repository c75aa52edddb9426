"""From features to scores: cached computations do not change results, and details that matter are reported."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from t2i.eval import metrics
from t2i.eval.evaluators.clip_score import clip_scores
from t2i.eval.evaluators.fid import fidelity_scores, inception_score
from t2i.eval.evaluators.kid import kernel_distances
from t2i.eval.features import Features

DOCS = Path(__file__).parent.parent / "docs" / "evaluation.md"
ABOUT = {"name": "tiny", "dim": 6, "preprocess_id": "area-2", "weights_sha256": "ab" * 32}


def features(n: int, offset: float = 0.0) -> Features:
    return Features(torch.randn(n, 6) + offset, ABOUT, tuple(f"{i:064x}" for i in range(n)))


def test_a_manifold_scores_as_its_features_do():
    x, y = torch.randn(50, 6), torch.randn(70, 6) + 0.3
    manifold = metrics.Manifold.of(y, k=(3, 5), block=200)
    assert metrics.precision_recall(x, manifold) == metrics.precision_recall(x, y)
    assert metrics.density_coverage(x, manifold) == metrics.density_coverage(x, y)
    with pytest.raises(ValueError, match="balls for k = 3, 5, not for 4"):
        metrics.precision_recall(x, manifold, k=4)
    with pytest.raises(ValueError, match="one dimension, not 4 and 6"):
        metrics.precision_recall(x[:, :4], manifold)


def test_statistics_computed_together_have_the_intervals_of_each_alone():
    x = torch.randn(40, 3)
    both = metrics.half_sample_intervals(x, lambda rows: [rows.mean(), rows.std()], resamples=20, seed=4)
    statistics = (lambda r: [r.mean()], lambda r: [r.std()])
    alone = [metrics.half_sample_intervals(x, statistic, 20, 4)[0] for statistic in statistics]
    for one, other in zip(both, alone, strict=True):
        assert (one.value, one.n) == (other.value, other.n)
        assert (one.low, one.high) == (pytest.approx(other.low), pytest.approx(other.high))


def test_precision_recall_density_and_coverage_are_those_of_the_metrics():
    x, y, real = features(40, 0.2), features(60), features(40)
    scores = {score.name: score for score in fidelity_scores(x, y, real)}
    expected = metrics.precision_recall(x.values, y.values), metrics.density_coverage(x.values, y.values)
    for name, value in vars(expected[0]).items() | vars(expected[1]).items():
        if name != "k":
            assert scores[f"{name}[tiny]"].value == value
    best = metrics.precision_recall(real.values, y.values)
    assert scores["recall[tiny]"].ceiling == best.recall


def test_r_precision_records_the_variant_of_its_texts():
    of = {v: clip_scores(features(20), torch.randn(20, 6), v)[1] for v in ("hessel", "cosine")}
    assert {v: score.details["variant"] for v, score in of.items()} == {"hessel": "hessel", "cosine": "cosine"}
    assert all(score.name.startswith("R-precision") for score in of.values())


def test_kid_has_the_interval_of_the_metric():
    x, y = features(40, 0.2), features(60)
    [score], expected = kernel_distances(x, y, subsets=5, seed=3), metrics.kid_interval(x.values, y.values, 5, 40, 3)
    assert (score.value, score.low, score.high, score.n) == (expected.value, expected.low, expected.high, 40)


def test_the_inception_score_has_its_extremes_and_a_ceiling():
    """Each image certainly in one of six equally frequent classes: about 6 in each split. All equal: 1."""
    sure, alike = (Features(values, ABOUT, ("",) * 600) for values in (torch.eye(6).repeat(100, 1), torch.ones(600, 6)))
    [best] = inception_score(lambda values: 1e5 * values, sure)
    assert 5.5 < best.low < best.value < 6 and best.ceiling is None
    [worst] = inception_score(lambda values: 1e5 * values, alike, sure)
    assert (worst.value, worst.ceiling) == (pytest.approx(1), best.value)
    assert (worst.name, worst.details["splits"], worst.better) == ("Inception score[tiny]", 10, "higher")


def test_the_example_in_the_documentation_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [example] = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    exec(example, names := {})
    assert len(names["features"]) == 6 and len(names["diversity"]) == 2
    assert all(distance > 0 for distance in names["diversity"].values())
