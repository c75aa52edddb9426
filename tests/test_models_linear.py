"""Principal components, Gaussian mixtures and the autoencoder."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from generative_models import digits, seeds
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA

from t2i.models.base import dequantize
from t2i.models.linear.linear_mixture import LinearMixture, nearest


def fitted(rank: int = 8, components: int = 1, n: int = 300, **options) -> LinearMixture:
    model = LinearMixture(8, 1, 17, rank=rank, components=components, **options)
    model.fit(digits(17, n)[0])
    return model


def test_one_gaussian_is_probabilistic_pca():
    images = digits(17, 300)[0]
    x = dequantize(images, 17, torch.Generator().manual_seed(0))  # as in `fit`
    model = fitted(ridge=0.0)
    ours = model.log_prob(x).numpy()
    theirs = PCA(8, svd_solver="full").fit(x.flatten(1).double().numpy()).score_samples(x.flatten(1).double().numpy())
    # scikit-learn's mixture divides by n, its PCA by n - 1.
    assert np.allclose(ours, theirs, atol=0.15)


def test_full_rank_is_a_normal_distribution():
    model = LinearMixture(2, 1, 17, rank=4)
    model.center.copy_(torch.tensor([0.1, -0.2, 0.3, 0.0]))
    model.means.copy_(torch.randn(1, 1, 4) * 0.1)
    model.scales.copy_(torch.randn(1, 1, 4, 4).tril(-1) * 0.2 + torch.eye(4) * 0.5)
    normal = torch.distributions.MultivariateNormal(model.center + model.means[0, 0], scale_tril=model.scales[0, 0])
    images = torch.rand(5, 1, 2, 2) * 2 - 1
    assert torch.allclose(model.log_prob(images), normal.log_prob(images.flatten(1)), atol=1e-4)


def test_em_never_loses_likelihood():
    model = LinearMixture(8, 1, 17, rank=8, components=6)
    (bounds,) = model.fit(digits(17, 300)[0])
    assert len(bounds) > 3
    assert all(after >= before - 1e-9 for before, after in pairwise(bounds))


def test_more_gaussians_fit_better_and_more_components_reconstruct_better():
    images = digits(17, 300)[0]
    one, six = (fitted(components=k).log_prob(images).mean() for k in (1, 6))
    assert six > one + 1
    errors = []
    for rank in (2, 8, 32):
        model = fitted(rank)
        errors.append((model.decode(model.encode(images)) - images).square().mean())
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2]


def test_samples_have_the_moments_of_what_they_were_fitted_to():
    images = digits(17, 600)[0]
    drawn = fitted(16, 4, 600).sample(4000, None, seeds(0)[0])
    assert (drawn.mean(0) - images.mean(0)).abs().max() < 0.15
    assert (drawn.std(0) - images.std(0)).abs().max() < 0.2
    assert len(drawn.unique()) == 17


@pytest.mark.parametrize("rank", [60, 63, 64])
def test_near_full_rank_the_density_is_the_normal_distribution_s(rank: int):
    model, images = fitted(rank, 1, 1000), digits(17, 200)[0]
    basis, scales = model.basis.double(), model.scales[0, 0].double()
    inside = basis.t() @ scales @ scales.t() @ basis
    outside = model.noise.double() * (torch.eye(64) - basis.t() @ basis)
    mean = model.center.double() + model.means[0, 0].double() @ basis
    # the digits' corners are constant: only dequantisation noise is left of them
    true = multivariate_normal(mean, inside + outside, allow_singular=rank == 64).logpdf(images.flatten(1).double())
    assert np.abs(model.log_prob(images).numpy() - true).max() < 0.05


def test_some_pixels_have_the_density_that_is_left_when_the_others_are_integrated_out():
    model = LinearMixture(2, 1, 17, num_classes=2, rank=3, components=2)
    for buffer in (model.center, model.means):
        buffer.copy_(torch.randn_like(buffer) * 0.2)
    model.noise.fill_(0.02)
    model.basis.copy_(torch.linalg.qr(torch.randn(4, 4))[0][:3])
    model.scales.copy_(torch.randn(2, 2, 3, 3).tril(-1) * 0.05 + torch.eye(3) * 0.15)
    at, step = torch.linspace(-0.995, 0.995, 200), 2 / 200  # midpoints of bins; almost nothing lies outside
    images = torch.cartesian_prod(torch.tensor([0.1]), at, torch.tensor([-0.2]), at).view(-1, 1, 2, 2)
    known = torch.tensor([[True, False], [True, False]])
    for k in range(2):
        y = torch.full((len(images),), k)
        whole = (model.log_prob(images, y).logsumexp(0) + 2 * math.log(step)).item()
        assert model.log_prob(images[:1], y[:1], known).item() == pytest.approx(whole, abs=1e-3)


def test_each_class_has_the_mixture_of_its_images():
    images, y = digits(17, 600)
    model = LinearMixture(8, 1, 17, num_classes=10, rank=16, components=2)
    bounds = model.fit(images, y)
    assert len(bounds) == 10 and all(len(of_class) > 1 for of_class in bounds)
    scored = torch.stack([model.log_prob(images, torch.full_like(y, k)) for k in range(10)], 1)
    assert (scored.argmax(1) == y).double().mean() > 0.98
    drawn = model.sample(400, torch.arange(400) % 2, seeds(0)[0], leftover=False)
    for k in range(2):
        assert (drawn[k::2].mean(0) - images[y == k].mean(0)).abs().max() < 0.2


def test_the_nearest_image_of_an_image_is_itself():
    images = digits(17, 50)[0]
    assert torch.equal(nearest(images[10:20] + 0.01, images), torch.arange(10, 20))


def test_bad_options_raise():
    with pytest.raises(ValueError, match=r"rank must lie in \[1, 64\]"):
        LinearMixture(8, 1, 17, rank=65)
    with pytest.raises(ValueError, match="of a class, are too few"):
        LinearMixture(8, 1, 17, 10, rank=6, components=5).fit(*digits(17, 20))
    with pytest.raises(ValueError, match="too few"):
        LinearMixture(8, 1, 17, rank=20).fit(digits(17, 20)[0])
