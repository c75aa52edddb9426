"""Variational autoencoders and their pixel distributions."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from generative_models import MAKERS, VAE_SIZES, digits, pictures, stirred
from torch.distributions import Normal, kl_divergence

from t2i.models import pixel_likelihoods
from t2i.models.base import dequantize, from_levels, nearest_levels, to_levels
from t2i.models.latent_variable.hierarchical_vae import HierarchicalVAE
from t2i.models.latent_variable.multimodal_vae import MultimodalVAE
from t2i.models.latent_variable.vae import VAE, gaussian, gaussian_kl


def trained(model, steps: int = 40):
    images, y = pictures(model, 32)
    optimizer = torch.optim.Adam(model.train().parameters(), 5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(images, y)["loss"].backward()
        optimizer.step()
    return model.eval()


def test_kl_and_density_are_those_of_torch_distributions():
    a, b, c, d, x = torch.randn(5, 7, 3)
    q, p = Normal(a, b.exp()), Normal(c, d.exp())
    assert torch.allclose(gaussian_kl(a, b, c, d), kl_divergence(q, p), rtol=1e-4, atol=1e-5)
    assert torch.allclose(gaussian(x, a, b), q.log_prob(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["vae", "vae-conditional"])
def test_the_loss_is_reconstruction_and_kl(name):
    model = stirred(MAKERS[name]()).eval()
    images, y = pictures(model)
    found = model.loss(images, y)
    mean, log_std = model.posterior(images, y)
    prior = Normal(0.0, 1.0)
    if y is not None:
        prior_mean, prior_log_std = model.prior(y).chunk(2, dim=1)
        prior = Normal(prior_mean, prior_log_std.exp())
    kl = kl_divergence(Normal(mean, log_std.exp()), prior).sum(1).mean()
    assert torch.allclose(found["kl"], kl, rtol=1e-4)
    assert torch.allclose(found["nats"], found["reconstruction"] + kl, rtol=1e-4)
    assert torch.allclose(found["loss"] * 64, found["nats"], rtol=1e-4)


def test_under_autocast_the_kls_of_groups_are_of_float32():
    model = stirred(MAKERS["hvae"]()).eval()
    images = pictures(model)[0]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        told = model._run(model._features(images), model._noise(len(images), None), None, len(images))[2]
    assert {part.dtype for group in told for part in group} == {torch.float32}


@pytest.mark.parametrize("name", ["vae", "vae-conditional"])
def test_under_autocast_the_kl_is_of_float32(name):
    """In bfloat16, with eight bits of precision, it would be off by up to a per cent."""
    model = stirred(MAKERS[name]()).eval()
    images, y = pictures(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mean, log_std = model.posterior(images, y)
        kl = model.kl(images, y)
    assert mean.dtype == log_std.dtype == kl.dtype == torch.float32
    prior_mean, prior_log_std = model._prior(y, mean)
    exact = kl_divergence(Normal(mean, log_std.exp()), Normal(prior_mean, prior_log_std.exp()))
    assert torch.allclose(kl, exact, rtol=1e-4, atol=1e-5)


def test_under_autocast_posteriors_of_images_and_captions_are_float32_too():
    model = stirred(MultimodalVAE(12, 3, **VAE_SIZES, channels=1)).eval()
    images, y = digits(2)
    text = torch.stack([y + 1, torch.zeros_like(y)], dim=1).repeat(1, 2)[:, :3]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        experts = model.experts(images, text)
        assert model.elbo(images, text).isfinite().all()
    assert {number.dtype for expert in experts for q in expert for number in q} == {torch.float32}


def test_beta_weighs_the_kl_in_the_loss_and_not_in_the_bound():
    images = digits(2)[0]
    found = []
    for beta in (1.0, 4.0):
        torch.manual_seed(3)
        model = stirred(VAE(**VAE_SIZES, latent_dim=3, beta=beta)).eval()
        torch.manual_seed(4)
        found.append(model.loss(images))
    assert torch.equal(found[0]["nats"], found[1]["nats"])
    assert torch.allclose(found[1]["loss"] - found[0]["loss"], 3 * found[0]["kl"] / 64, rtol=1e-3)


@pytest.mark.parametrize("name", ["vae", "vae-conditional", "hvae"])
def test_more_importance_samples_never_loosen_the_bound_on_average(name):
    model = trained(stirred(MAKERS[name]()))
    images, y = pictures(model, 64)
    with torch.no_grad():
        bounds = [model.elbo(images, y, samples=k).mean() for k in (1, 6, 36)]
    assert all(after > before - 0.1 for before, after in pairwise(bounds))
    assert bounds[-1] > bounds[0] + 0.05


def test_the_weighted_bound_of_a_linear_model_comes_near_the_integral():
    """With one latent dimension, ln p(x) is an integral over a line, computed on a fine grid."""
    model = trained(VAE(**VAE_SIZES, latent_dim=1))
    images = digits(2, 2)[0]
    with torch.no_grad():
        grid = torch.linspace(-6, 6, 2401)[:, None]
        outputs = model._outputs(grid, None)
        for image in images:
            nats = pixel_likelihoods.log_prob("bernoulli", outputs, image.expand(len(grid), -1, -1, -1), 2)
            exact = (nats + Normal(0.0, 1.0).log_prob(grid[:, 0]) + torch.tensor(12 / 2400).log()).logsumexp(0)
            many = model.elbo(image.expand(20, -1, -1, -1), samples=100).mean()
            assert model.elbo(image.expand(100, -1, -1, -1)).mean() < exact + 0.3
            assert many.item() == pytest.approx(exact.item(), abs=0.1)


def test_free_nats_and_warm_up_change_the_loss_alone():
    images = digits(2)[0]
    sizes = {**VAE_SIZES, "groups": (1, 2), "latent_channels": 2, "dropout": 0.0}
    found = {}
    for name, options in {
        "plain": {"warmup": 0.0},
        "free": {"warmup": 0.0, "free_nats": 1e4},
        "warm": {"warmup": 0.5},
    }.items():
        torch.manual_seed(1)
        model = stirred(HierarchicalVAE(**sizes, **options), 0.02).train()
        found[name] = []
        for step in range(6):
            torch.manual_seed(2)
            model.progress = step / 8
            found[name].append(model.loss(images))
    plain = found["plain"][0]
    assert all(torch.equal(f["nats"], plain["nats"]) for f in found["free"] + found["warm"])
    assert torch.allclose(found["free"][0]["loss"] * 64, plain["reconstruction"] + 3e4, rtol=1e-4)
    shares = [((f["loss"] * 64 - f["reconstruction"]) / f["kl"]).item() for f in found["warm"]]
    assert shares == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1], abs=1e-3)


def test_the_residual_posterior_starts_as_the_prior():
    model = HierarchicalVAE(**VAE_SIZES, groups=(1, 2))
    assert model.loss(digits(2)[0])["kl"].abs() < 1e-4


def test_hierarchical_latents_are_those_that_generated_the_image():
    """encode gives the means top-down, and decoding them is the pass that computed them."""
    model = stirred(MAKERS["hvae"]()).eval()
    images = digits(2, 4)[0]
    with torch.no_grad():
        outputs = model._run(model._features(images), [None] * 3, None, 4)[0]
        assert torch.allclose(model.decode(model.encode(images)), 2 * outputs.sigmoid() - 1, atol=1e-5)


# --- pixels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 5, 256])
def test_the_discretised_logistic_is_a_distribution(levels):
    x = from_levels(torch.arange(levels), levels)
    for mean, log_scale in ((0.0, -1.0), (0.7, -4.0), (-1.4, -2.0), (0.1, 2.0), (0.3, -9.0)):
        m, s = torch.full_like(x, mean), torch.full_like(x, log_scale)
        assert pixel_likelihoods.discretized_logistic(x, m, s, levels).exp().sum().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("pixels", ["bernoulli", "logistic"])
def test_samples_are_as_frequent_as_their_probability(pixels):
    levels = 2 if pixels == "bernoulli" else 5
    outputs = torch.tensor([0.3] if pixels == "bernoulli" else [0.2, -1.0]).view(1, -1, 1, 1).expand(20000, -1, 1, 1)
    drawn = to_levels(pixel_likelihoods.sample_pixels(pixels, outputs, levels), levels).flatten()
    x = from_levels(torch.arange(levels), levels).view(-1, 1, 1, 1)
    expected = pixel_likelihoods.log_prob(pixels, outputs[:levels], x, levels).exp()
    assert torch.allclose(drawn.bincount(minlength=levels) / 20000, expected, atol=0.015)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_levels_go_there_and_back(levels):
    k = torch.arange(levels)
    images = from_levels(k, levels)
    assert torch.equal(to_levels(images, levels), k)
    bins = dequantize(images.repeat(50, 1), levels)
    assert bins.min() >= -1 and bins.max() <= 1
    assert torch.equal(nearest_levels(bins, levels), images.repeat(50, 1))
    with pytest.raises(ValueError, match="levels"):
        to_levels(images[:1] + 1 / (levels - 1), levels)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"levels": 17}, "binarise"),
        ({"pixels": "poisson"}, "choose 'bernoulli'"),
        ({"widths": (12,)}, "multiples of 8"),
        ({"image_size": 9}, "cannot be halved"),
        ({"channels": 2}, "channels 1 or 3"),
        ({"beta": 2.0, "train_samples": 2}, "1 with several samples"),
    ],
)
def test_bad_options_raise(options, says):
    with pytest.raises(ValueError, match=says):
        VAE(**VAE_SIZES | options)
    with pytest.raises(ValueError, match="groups must have"):
        HierarchicalVAE(**VAE_SIZES, groups=(1,))
