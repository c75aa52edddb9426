"""Metrics of sets of features: closed forms, direct implementations of the definitions, and invariants."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from features import close, features

from t2i.eval import metrics
from t2i.eval.metrics import Gaussian, Moments, clip_score, frechet_distance, kid
from t2i.eval.metrics.common import squared_distances


def rotation(d: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(5), dtype=torch.float64))[0]


def root_trace(a: torch.Tensor, b: torch.Tensor) -> float:
    """tr (Σ₁ Σ₂)^½ from singular values of both symmetric roots: slow, exact, and unlike the library's method."""
    roots = []
    for cov in (a, b):
        values, vectors = torch.linalg.eigh(cov)
        roots.append(vectors * values.clamp(min=0).sqrt() @ vectors.T)
    return torch.linalg.svdvals(roots[0] @ roots[1]).sum().item()


def reference_fd(x: torch.Tensor, y: torch.Tensor) -> float:
    a, b = (torch.from_numpy(np.cov(z.numpy(), rowvar=False)) for z in (x, y))
    return ((x.mean(0) - y.mean(0)).square().sum() + a.trace() + b.trace()).item() - 2 * root_trace(a, b)


# --- moments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_moments_of_offset_features_equal_numpys(dtype):
    """Mean 1,000, standard deviation 0.1: a difference of sums of squares would lose eight digits."""
    g = torch.Generator().manual_seed(0)
    x = (1000 + 0.1 * torch.randn(3000, 16, generator=g, dtype=torch.float64)).to(dtype)
    moments = Moments()
    for batch in x.split(97):
        moments.update(batch)
    exact = np.cov(x.double().numpy(), rowvar=False)
    assert moments.count == 3000
    assert np.abs(moments.cov.numpy() - exact).max() < 1e-10 * np.abs(exact).max()
    np.testing.assert_allclose(moments.mean.numpy(), x.double().numpy().mean(0), rtol=1e-14)


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_merged_moments_are_the_moments_of_everything(parts: int):
    x = features(500, 6, offset=1000, scale=0.1)
    merged, before = Moments(), []
    for part in x.chunk(parts):
        one = Moments().update(part[:1]).update(part[1:].numpy())
        before.append((one, one.cov.clone()))
        merged.merge(one)
    whole = Moments.of(x)
    torch.testing.assert_close(merged.cov, whole.cov, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-14, atol=0)
    assert merged.count == 500
    assert all(torch.equal(one.cov, cov) for one, cov in before), "merging changed what was merged"


def test_moments_neither_change_nor_keep_their_input():
    x = features(10, 3)
    copy = x.clone()
    moments = Moments().update(x)
    assert torch.equal(x, copy)
    cov = moments.cov.clone()
    x.zero_()
    assert torch.equal(moments.cov, cov)
    assert Moments().merge(Moments()).count == 0


def test_bad_moments_raise():
    with pytest.raises(ValueError, match="at least 2 samples, not 1"):
        _ = Moments().update(torch.zeros(1, 3)).cov
    with pytest.raises(ValueError, match="at least 1 sample"):
        _ = Moments().mean
    with pytest.raises(ValueError, match="4 dimensions here and 3 before"):
        Moments().update(torch.zeros(2, 3)).update(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="4 dimensions here and 3 before"):
        Moments().update(torch.zeros(2, 3)).merge(Moments.of(torch.zeros(2, 4)))
    with pytest.raises(ValueError, match="not symmetric"):
        Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="shapes"):
        Gaussian(torch.zeros(2), torch.eye(3))


# --- Fréchet distance -----------------------------------------------------------------------------------------------


def test_equal_covariances_leave_the_distance_of_the_means():
    cov, mean = torch.cov(features(50, 8).T), torch.linspace(0, 1, 8).double()
    d = frechet_distance(Gaussian(torch.zeros(8), cov), Gaussian(mean, cov))
    assert d == close(mean.square().sum().item())


def test_diagonal_covariances_have_a_closed_form():
    a, b = torch.logspace(-3, 2, 12).double(), torch.logspace(1, -4, 12).double()
    zero = torch.zeros(12)
    d = frechet_distance(Gaussian(zero, a.diag()), Gaussian(zero, b.diag()))
    assert d == close((a.sqrt() - b.sqrt()).square().sum().item())


def test_one_dimension_has_a_closed_form():
    """In one dimension: (1 − 3)² + (2 − 5)²."""
    d = frechet_distance(Gaussian(np.array([1.0]), np.array([[4.0]])), Gaussian(np.array([3.0]), np.array([[25.0]])))
    assert d == close(13.0)


@pytest.mark.parametrize("n, m", [(10, 12), (10, 200), (200, 10), (200, 300), (40, 40), (2, 2)])
def test_every_route_equals_the_definition(n: int, m: int):
    """Fewer and more samples than the 40 dimensions; features and moments."""
    x, y = features(n, 40, 1), features(m, 40, 2, offset=0.1, scale=1.3)
    exact = reference_fd(x, y)
    for a in (x, Moments.of(x), Moments.of(x).gaussian()):
        for b in (y.numpy(), Moments.of(y)):
            assert frechet_distance(a, b) == close(exact, rel=1e-7)
            assert frechet_distance(b, a) == close(exact, rel=1e-7)


@pytest.mark.parametrize("zeroed", ["both", "one", "different"])
def test_constant_dimensions_change_nothing(zeroed: str):
    x, y = features(300, 32, 1), features(250, 32, 2, scale=1.2)
    if zeroed in ("both", "one"):
        x[:, 20:] = 0
    if zeroed == "both":
        y[:, 20:] = 0
    if zeroed == "different":
        x[:, :10], y[:, 22:] = 0, 7
    xc, yc = x - x.mean(0), y - y.mean(0)
    nuclear = torch.linalg.svdvals(xc @ yc.T).sum().item() / math.sqrt(299 * 249)
    exact = (x.mean(0) - y.mean(0)).square().sum() + xc.square().sum() / 299 + yc.square().sum() / 249 - 2 * nuclear
    d = frechet_distance(x, y)
    assert math.isfinite(d) and d == close(exact.item(), rel=1e-7)


def test_few_samples_as_moments_equal_the_nuclear_norm():
    x, y = features(15, 64, 1, offset=1000, scale=0.1), features(20, 64, 2, offset=1000, scale=0.12)
    assert frechet_distance(Moments.of(x), Moments.of(y)) == close(frechet_distance(x, y), rel=1e-11)


@pytest.mark.parametrize("n", [5, 50])
def test_constant_features_have_a_finite_distance(n: int):
    x, y = torch.full((n, 16), 3.0), torch.full((n, 16), 5.0)
    assert frechet_distance(x, y) == close(16 * 4.0)
    assert frechet_distance(x, x) == 0
    z = features(n, 16)
    exact = (z.mean(0) - 3).square().sum() + (z - z.mean(0)).square().sum() / (n - 1)
    assert frechet_distance(x, z) == close(exact.item())


@pytest.mark.parametrize("n", [20, 200])
def test_frechet_distance_obeys_its_laws(n: int):
    x, y = features(n, 32, 1), features(n + 9, 32, 2, scale=1.5)
    d, turn = frechet_distance(x, y), rotation(32)
    assert frechet_distance(x, x.clone()) == pytest.approx(0, abs=1e-7)
    assert frechet_distance(y, x) == close(d)
    assert frechet_distance(x.flip(0), y) == close(d)
    assert frechet_distance(x.flip(1), y.flip(1)) == close(d)
    assert frechet_distance(x @ turn, y @ turn) == close(d, rel=1e-8)
    assert frechet_distance(x + 1000, y + 1000) == close(d, rel=1e-7)
    assert frechet_distance(3 * x, 3 * y) == close(9 * d)


def test_invalid_covariances_raise():
    zero, good = torch.zeros(3), torch.eye(3)
    bad = torch.diag(torch.tensor([1.0, 1.0, -0.1]))
    for a, b in ((bad, good), (good, bad)):
        with pytest.raises(ValueError, match="negative eigenvalue"):
            frechet_distance(Gaussian(zero, a), Gaussian(zero, b))
    tiny = torch.diag(torch.tensor([1.0, 1.0, -1e-14], dtype=torch.float64))
    assert frechet_distance(Gaussian(zero, tiny), Gaussian(zero, good)) == close(1.0)


def test_bad_features_raise():
    x = features(5, 3)
    with pytest.raises(ValueError, match="one dimension, not 3 and 4"):
        frechet_distance(x, features(5, 4))
    with pytest.raises(ValueError, match="at least 2 samples, not 1"):
        frechet_distance(x[:1], x)
    with pytest.raises(ValueError, match="shape"):
        frechet_distance(x[0], x)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_raises_everywhere(bad: float):
    good = features(12, 4).abs()
    x = good.clone()
    x[3, 2] = bad
    image = torch.full((1, 1, 16, 16), 0.5)
    spoilt = image.clone()
    spoilt[0, 0, 2, 2] = bad
    for metric in (
        lambda: Moments.of(x),
        lambda: frechet_distance(x, good),
        lambda: frechet_distance(good, x.numpy()),
        lambda: metrics.fd_infinity(x, good),
        lambda: kid(x, good, subset_size=5),
        lambda: metrics.cmmd(good, x),
        lambda: metrics.inception_score(x, splits=2),
        lambda: metrics.precision_recall(good, x),
        lambda: metrics.density_coverage(x, good),
        lambda: clip_score(x, good, "cosine"),
        lambda: metrics.mmd_error(good, x),
        lambda: metrics.r_precision(good, x, candidates=3),
        lambda: metrics.psnr(spoilt, image),
        lambda: metrics.ssim(image, spoilt),
        lambda: metrics.diversity(x),
        lambda: metrics.bootstrap_interval(x[:, 2]),
    ):
        with pytest.raises(ValueError, match="NaN"):
            metric()


@pytest.mark.parametrize("count", [5, 40])
def test_the_error_names_the_set_with_nan(count: int):
    good = torch.randn(count, 8, generator=torch.Generator().manual_seed(0))
    spoilt = good.clone()
    spoilt[-1, 3] = math.nan
    with pytest.raises(ValueError, match="in generated"):
        metrics.frechet_distance(spoilt, good)
    with pytest.raises(ValueError, match="in reference"):
        metrics.frechet_distance(good, spoilt)


def test_fd_infinity_removes_the_bias():
    """Both sets come from one distribution: the distance is 0, but finite samples give more."""
    d = 16
    reference = Gaussian(torch.zeros(d), torch.eye(d))
    generated = torch.randn(4000, d, generator=torch.Generator().manual_seed(1))
    found = metrics.fd_infinity(generated, reference, smallest=200, seed=0)
    assert abs(found.value) < 0.25 * found.distances[-1] and found.slope > 0
    assert found.counts[0] == 200 and found.counts[-1] == 4000 and len(found.counts) == 15
    assert found.distances[-1] == close(frechet_distance(generated, reference))
    assert found == metrics.fd_infinity(generated, reference, smallest=200, seed=0)
    assert found != metrics.fd_infinity(generated, reference, smallest=200, seed=1)
    with pytest.raises(ValueError, match="smallest < 4000"):
        metrics.fd_infinity(generated, reference, smallest=4000)


# --- kernels --------------------------------------------------------------------------------------------------------


def test_kid_is_seeded():
    x, y = features(60, 8, 1), features(70, 8, 2)
    first = kid(x, y, subsets=5, subset_size=20, seed=3)
    assert first == kid(x.numpy(), y.numpy(), subsets=5, subset_size=20, seed=3)
    assert first != kid(x, y, subsets=5, subset_size=20, seed=4)


def test_kid_by_hand():
    x, y = features(7, 3, 1), features(7, 3, 2, offset=1)
    same = [((a @ b) / 3 + 1) ** 3 for z in (x, y) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]
    other = [((a @ b) / 3 + 1) ** 3 for a in x for b in y]
    exact = (sum(same) / (7 * 6) - 2 * sum(other) / 49).item()
    found = kid(x, y, subsets=2, subset_size=7)
    assert found.mean == close(exact) and found.std < 1e-12
    assert kid(x.flip(0), y, subsets=1, subset_size=7).mean == close(exact)


def test_kid_of_one_distribution_is_about_zero_and_constants_are_finite():
    found = kid(features(400, 8, 1), features(400, 8, 2), subsets=20, subset_size=100)
    assert abs(found.mean) < 3 * found.std
    ones = torch.ones(10, 4)
    assert kid(ones, ones, subsets=2, subset_size=10).mean == pytest.approx(0, abs=1e-12)


def test_kid_needs_enough_samples():
    with pytest.raises(ValueError, match="at least subset_size=1000 samples of each, not 30 and 40"):
        kid(features(30, 4), features(40, 4))


@pytest.mark.parametrize("block", [10, 2**22])
def test_the_error_of_kid_is_the_explicit_jackknife(block: int):
    x, y = features(9, 3, 1), features(7, 3, 2, offset=1)

    def of_all(z: torch.Tensor) -> float:
        within = [((a @ b) / 3 + 1) ** 3 for i, a in enumerate(z) for j, b in enumerate(z) if i != j]
        across = [((a @ b) / 3 + 1) ** 3 for a in z for b in y]  # the reference's own term is constant
        return (sum(within) / len(within) - 2 * sum(across) / len(across)).item()

    without = [of_all(torch.cat([x[:i], x[i + 1 :]])) for i in range(9)]
    assert metrics.mmd_error(x, y, block) == close((8 * np.var(without)) ** 0.5)


@pytest.mark.parametrize("offset, at_most", [(1, 1.25), (0, 1.25 * 2**0.5)], ids=["different", "alike"])
def test_the_interval_of_kid_has_the_width_of_the_sampling_spread(offset: float, at_most: float):
    reference = features(2000, 6, 0)

    def interval(n: int, seed: int) -> metrics.Interval:
        return metrics.kid_interval(features(n, 6, seed, offset), reference, subset_size=100)

    found = [interval(400, seed) for seed in range(1, 41)]
    values, width = [i.value for i in found], np.mean([i.high - i.low for i in found])
    assert 0.8 < width / (2 * 1.96 * np.std(values, ddof=1)) < at_most
    assert np.mean([i.low <= np.mean(values) <= i.high for i in found]) > 0.8
    if offset:  # for equal distributions, most of the width comes from the subsets
        narrower = np.mean([i.high - i.low for i in (interval(1600, seed) for seed in range(1, 6))])
        assert width / narrower == pytest.approx(2, rel=0.15)  # 1/√N, although a subset has 100 samples of each


def test_cmmd_by_hand_and_by_blocks():
    x, y = features(9, 5, 1), features(11, 5, 2, offset=0.3)
    u, v = (z / z.norm(dim=1, keepdim=True) for z in (x, y))
    means = [(-(a[:, None] - b).square().sum(-1) / 200).exp().mean() for a, b in ((u, u), (v, v), (u, v))]
    exact = 1000 * (means[0] + means[1] - 2 * means[2]).item()
    assert metrics.cmmd(x, y) == close(exact, rel=1e-8)
    assert metrics.cmmd(5 * x, y, block=20) == close(exact, rel=1e-8)
    assert metrics.cmmd(x, x) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="no direction"):
        metrics.cmmd(x, torch.zeros(2, 5))


# --- Inception score ------------------------------------------------------------------------------------------------


def test_inception_score_has_its_extremes():
    """K certain, equally frequent classes: K. Equal predictions: 1. Zeros give no NaN."""
    certain = 1e5 * torch.eye(4).repeat(10, 1)
    assert metrics.inception_score(certain, splits=1).mean == close(4.0)
    never = torch.nn.functional.pad(certain, (0, 1), value=-1e5)  # a fifth class that no sample has
    assert metrics.inception_score(never, splits=1).mean == close(4.0)
    assert metrics.inception_score(torch.zeros(40, 4), splits=4).mean == close(1.0)


def test_inception_score_is_the_same_for_log_probabilities():
    logits = features(50, 6, scale=4)
    a = metrics.inception_score(logits, splits=5)
    b = metrics.inception_score(logits.softmax(1).log(), splits=5)
    assert (a.mean, a.std) == (close(b.mean), close(b.std))
    assert a == metrics.inception_score(logits, splits=5)
    assert a != metrics.inception_score(logits, splits=5, seed=1)
    with pytest.raises(ValueError, match="at least 10 samples, not 9"):
        metrics.inception_score(logits[:9])


# --- manifolds ------------------------------------------------------------------------------------------------------


def prdc(generated: np.ndarray, reference: np.ndarray, k: int) -> tuple[float, float, float, float]:
    """All four from full matrices of pairwise differences."""
    within = [np.linalg.norm(z[:, None] - z, axis=-1) for z in (generated, reference)]
    radii = [np.sort(d, axis=1)[:, k] for d in within]
    across = np.linalg.norm(generated[:, None] - reference, axis=-1)  # (N, M)
    precision, recall = (across <= radii[1]).any(1).mean(), (across <= radii[0][:, None]).any(0).mean()
    return precision, recall, (across < radii[1]).sum(1).mean() / k, (across < radii[1]).any(0).mean()


@pytest.mark.parametrize("block", [1, 500, 2**22])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_manifold_metrics_equal_their_definitions(block: int, offset: float):
    x, y = features(120, 6, 1, offset + 0.2), features(90, 6, 2, offset, scale=0.8)
    precision, recall, density, coverage = prdc(x.numpy(), y.numpy(), 4)
    a = metrics.precision_recall(x, y, k=4, block=block)
    b = metrics.density_coverage(x.float() if offset == 0 else x, y, k=4, block=block)
    assert 0.1 < precision < 1 and 0.1 < recall < 1 and 0.1 < coverage < 1
    assert (a.precision, a.recall) == (close(precision), close(recall))
    assert (b.density, b.coverage) == (close(density), close(coverage))


def test_manifold_metrics_do_not_depend_on_order_or_rotation():
    x, y, turn = features(80, 6, 1), features(90, 6, 2), rotation(6)
    for metric in (metrics.precision_recall, metrics.density_coverage):
        assert metric(x, y) == metric(x.flip(0), y.flip(0)) == metric(x @ turn, y @ turn)


@pytest.mark.parametrize("block", [7, 2**22])
def test_manifold_metrics_are_extreme_for_equal_and_for_distant_sets(block: int):
    """Ties everywhere: each radius is a distance that it is compared with."""
    x = features(100, 6, offset=1000, scale=0.1)
    same = metrics.precision_recall(x, x.clone(), block=block)
    assert (same.precision, same.recall) == (1, 1)
    same = metrics.density_coverage(x, x.clone(), block=block)
    assert (same.density, same.coverage) == (1, 1)
    far = metrics.precision_recall(x, x + 10), metrics.density_coverage(x, x + 10)
    assert far == (metrics.PrecisionRecall(0, 0, 3), metrics.DensityCoverage(0, 0, 5))


def test_equal_points_have_distance_zero():
    x = features(200, 64)
    squared = squared_distances(x, x.flip(0)).fliplr()
    assert (squared.diagonal() == 0).all() and (squared == 0).sum() == 200
    torch.testing.assert_close(squared, torch.cdist(x, x).square())


def test_collapsed_sets_have_finite_scores():
    ones, x = torch.ones(10, 4), features(50, 4, offset=1)
    assert metrics.precision_recall(ones, ones) == metrics.PrecisionRecall(1, 1, 3)
    assert metrics.density_coverage(ones, ones) == metrics.DensityCoverage(0, 0, 5)
    assert metrics.precision_recall(ones, x).recall == 0
    with pytest.raises(ValueError, match="at least 6 samples, not 5"):
        metrics.density_coverage(x[:5], x)
