"""Metrics of single samples (CLIP score, PSNR, SSIM), and the interval of any metric."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from features import close, features
from scipy.stats import binomtest
from torch import nn

from t2i.eval import metrics
from t2i.eval.metrics import clip_score

# --- CLIP score -----------------------------------------------------------------------------------------------------

IMAGES = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
TEXTS = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, -4.0]])  # cosines 1, −1, −1


def test_each_clip_score_clamps_as_its_definition_does():
    """Clamping each sample leaves a third of them; clamping the mean leaves nothing; the cosine is not clamped."""
    hessel, mean, cosine = (clip_score(IMAGES, TEXTS, v) for v in ("hessel", "torchmetrics", "cosine"))
    assert hessel.value == close(2.5 / 3) and hessel.per_sample.tolist() == [2.5, 0, 0]
    assert mean.value == 0 and mean.per_sample.tolist() == [100, -100, -100]
    assert cosine.value == close(-1 / 3)
    assert clip_score(IMAGES[:1], TEXTS[:1], "torchmetrics").value == 100


def test_a_clip_score_needs_a_known_variant():
    with pytest.raises(TypeError):
        clip_score(IMAGES, TEXTS)
    with pytest.raises(ValueError, match="must be one of hessel, torchmetrics, cosine, not 'clip'"):
        clip_score(IMAGES, TEXTS, "clip")
    with pytest.raises(ValueError, match="one text for each image, not 2 for 3"):
        clip_score(IMAGES, TEXTS[:2], "cosine")
    with pytest.raises(ValueError, match="no direction"):
        clip_score(torch.zeros(3, 2), TEXTS, "cosine")


def test_r_precision_has_its_extremes_and_chance_level():
    """A perfect model scores 1; constant or unrelated embeddings score about 1 / R."""
    texts = features(300, 16, 1)
    assert metrics.r_precision(texts, texts, candidates=20).value == 1
    assert metrics.r_precision(-texts, texts, candidates=20).value == 0
    assert metrics.r_precision(texts, torch.ones(300, 16), candidates=20).value == close(1 / 20)
    chance = metrics.r_precision(features(300, 16, 2), texts, candidates=4, seed=1)
    assert chance.value == pytest.approx(0.25, abs=0.1)
    some = texts + 2 * features(300, 16, 3)
    found = [metrics.r_precision(some, texts, candidates=50, block=b).per_sample for b in (1, 5000, 2**22)]
    assert 0.1 < found[0].mean() < 0.9
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all()
    everyone = metrics.r_precision(some, texts, candidates=300).value  # no sampling: the nearest of all
    nearest = nn.functional.normalize(some) @ nn.functional.normalize(texts).T
    assert everyone == close((nearest.argmax(1) == torch.arange(300)).double().mean().item())
    with pytest.raises(ValueError, match="from 2 to the number of texts, 300"):
        metrics.r_precision(texts, texts, candidates=301)


# --- images ---------------------------------------------------------------------------------------------------------


def images_of(seed: int, n: int = 3, side: int = 24) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_psnr_by_hand():
    """Off by 0.1 everywhere: 20 dB. Computed per image, then averaged."""
    x = torch.full((2, 3, 8, 8), 0.5)
    y = x + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    found = metrics.psnr(x, y)
    np.testing.assert_allclose(found.per_sample, [20, 40], rtol=1e-5)
    assert found.value == close(30.0, rel=1e-5)
    assert metrics.psnr(x, x).value == math.inf


def test_ssim_obeys_its_laws():
    x, y = images_of(0), images_of(1)
    assert metrics.ssim(x, x).value == close(1.0)
    assert metrics.ssim(x, y).value == close(metrics.ssim(y, x).value) and metrics.ssim(x, y).value < 0.2
    np.testing.assert_allclose(metrics.ssim(x[1:2], y[1:2]).per_sample, metrics.ssim(x, y).per_sample[1:2])
    assert metrics.ssim(x, y).value == close(metrics.ssim(x.transpose(2, 3), y.transpose(2, 3)).value)
    a, b = torch.full((1, 1, 11, 11), 0.2), torch.full((1, 1, 11, 11), 0.6)
    assert metrics.ssim(a, b).value == close((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), rel=1e-5)


def test_bad_images_raise():
    x = images_of(0)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        metrics.psnr(2 * x - 1, x)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        metrics.psnr((255 * x).to(torch.uint8), x)
    with pytest.raises(ValueError, match="must both be"):
        metrics.ssim(x, x[:2])
    with pytest.raises(ValueError, match="at least 11×11, not 10×24"):
        metrics.ssim(x[:, :, :10], x[:, :, :10])


def test_diversity_is_the_mean_over_pairs():
    x = features(30, 5, offset=1000, scale=0.1)
    exact = torch.nn.functional.pdist(x).mean().item()
    assert metrics.diversity(x) == close(exact) and metrics.diversity(x, block=40) == close(exact)
    assert metrics.diversity(torch.ones(4, 5)) == 0


# --- bootstrap ------------------------------------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_the_normal_interval():
    x = np.random.default_rng(0).normal(3, 2, size=400)
    found = metrics.bootstrap_interval(x, resamples=4000)
    half = 1.96 * x.std() / 20
    assert found.value == close(x.mean()) and found.n == 400
    assert found.low == pytest.approx(x.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(x.mean() + half, abs=0.1 * half)


def test_the_fast_path_for_means_equals_the_statistic(monkeypatch):
    x = np.random.default_rng(0).normal(size=50)
    fast, slow = metrics.bootstrap_interval(x, seed=3), metrics.bootstrap_interval(x, np.mean, seed=3)
    assert (fast.low, fast.high) == (close(slow.low), close(slow.high))
    monkeypatch.setattr("t2i.eval.metrics.bootstrap.BLOCK", 120)  # two at a time
    assert metrics.bootstrap_interval(x, seed=3) == fast
    assert metrics.bootstrap_interval(x, seed=4) != fast


def test_the_interval_covers_the_truth_in_95_percent_of_cases():
    rng = np.random.default_rng(1)
    intervals = [metrics.bootstrap_interval(rng.exponential(size=60), resamples=300, seed=i) for i in range(300)]
    assert 0.89 < np.mean([i.low <= 1 <= i.high for i in intervals]) < 0.98


def test_bootstrap_of_any_statistic_and_its_errors():
    x = features(80, 4, 1)
    found = metrics.bootstrap_interval(x, lambda rows: float(np.median(rows[:, 0])), resamples=100, level=0.8)
    assert found.low <= found.value <= found.high and found.level == 0.8
    with pytest.raises(ValueError, match="at least 2 samples"):
        metrics.bootstrap_interval([1.0])
    with pytest.raises(ValueError, match="give a statistic"):
        metrics.bootstrap_interval(x)
    with pytest.raises(ValueError, match="NaN or infinite"):
        metrics.bootstrap_interval(x, lambda rows: math.nan, resamples=3)


def test_the_half_sample_interval_of_a_mean_is_the_normal_interval():
    x = features(400, 1, 1)[:, 0].numpy()
    [found] = metrics.half_sample_intervals(x, lambda rows: [np.mean(rows)], resamples=2000)
    error = 1.96 * x.std(ddof=1) / 20
    assert found.value == close(x.mean())
    assert found.high - found.value == pytest.approx(error, rel=0.1)
    assert found.low + found.high == pytest.approx(2 * found.value)


def test_the_half_sample_interval_of_a_distance_has_the_width_of_the_sampling_spread():
    reference = features(500, 6, 0)

    def distance(rows: np.ndarray) -> float:
        return metrics.frechet_distance(rows, reference)

    samples = [features(120, 6, seed, offset=0.3) for seed in range(1, 121)]
    values = [distance(rows) for rows in samples]
    intervals = [
        metrics.half_sample_intervals(rows, lambda x: [distance(x)], 40, seed=i)[0]
        for i, rows in enumerate(samples[:40])
    ]
    width = np.mean([i.high - i.low for i in intervals])
    assert width == pytest.approx(2 * 1.96 * np.std(values, ddof=1), rel=0.25)
    assert np.mean([i.low <= np.mean(values) <= i.high for i in intervals]) > 0.8


# --- proportions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_interval_against_known_values_and_scipy(right: int, n: int, low: float, high: float):
    found = metrics.proportion(right, n)
    assert (found.value, found.n) == (right / n, n)
    assert found.low == pytest.approx(low, abs=1e-4) and found.high == pytest.approx(high, abs=1e-4)
    peer = binomtest(right, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == (pytest.approx(peer.low, abs=1e-12), pytest.approx(peer.high, abs=1e-12))


def test_invalid_counts_of_a_proportion_raise():
    for right, n in ((0, 0), (3, 2), (-1, 5)):
        with pytest.raises(ValueError):
            metrics.proportion(right, n)
    assert metrics.share([True, False]) == metrics.proportion(1, 2)
    assert metrics.proportion(2.5, 5).value == 0.5  # ties count as half
