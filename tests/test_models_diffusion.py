"""Denoising diffusion: its bound, and both ways to sample it."""

from __future__ import annotations

import pytest
import torch
from generative_models import MAKERS, digits, pictures, seeds, stirred
from torch.distributions import Normal, kl_divergence

from t2i.models import pixel_likelihoods
from t2i.models.base import from_levels
from t2i.models.diffusion.ddpm import DDPM

TINY = {"image_size": 8, "levels": 17, "widths": (8, 16)}


def ddpm(T: int = 6, **options) -> DDPM:
    return stirred(DDPM(**TINY, num_train_timesteps=T, beta_schedule="squaredcos_cap_v2", **options)).eval()


class KnownImage(DDPM):
    """A network that knows the image it is applied to."""

    image: torch.Tensor

    def noise(self, x, t, y=None):
        a, s = self._coefficients(t, x)
        return (x - a * self.image) / s


class GaussianDDPM(DDPM):
    """A network that knows that pixels are N(0.1, 0.2²), and predicts the mean of the noise."""

    def noise(self, x, t, y=None):
        a, s = self._coefficients(t, x)
        return s * (x - 0.1 * a) / (0.04 * a.square() + s.square())


def test_noise_comes_in_as_the_chain_of_small_steps_would_bring_it():
    """Ho et al., eq. 2 step by step, against eq. 4 at once."""
    model = ddpm(10)
    x0 = digits(17, 1)[0].expand(2000, -1, -1, -1)
    x = x0
    for t in range(1, 8):
        beta = model.beta[t].item()
        x = (1 - beta) ** 0.5 * x + beta**0.5 * torch.randn_like(x)
    at_once = model.schedule.add_noise(x0, torch.randn_like(x0), torch.full((2000,), 6))
    assert (x.mean(0) - at_once.mean(0)).abs().max() < 0.1
    assert (x.std(0) / at_once.std(0) - 1).abs().max() < 0.1
    assert x.mean(0)[0, 3, 3].item() == pytest.approx((model.alpha_bar[7].sqrt() * x0[0, 0, 3, 3]).item(), abs=0.06)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_every_term_of_the_bound_is_the_divergence_that_the_paper_writes(variance):
    """Ho et al., eq. 5 to 7 with torch.distributions, given the model's noise prediction."""
    model = ddpm(variance=variance)
    images = digits(17, 3)[0]
    terms = model.terms(images, generator=seeds(0)[0])
    assert terms.shape == (3, 7)
    generator = seeds(0)[0]
    for t in range(1, 7):
        x = model.schedule.add_noise(images, torch.randn(images.shape, generator=generator), torch.full((3,), t - 1))
        said = model.denoised(x, torch.full((3,), t))
        before, now, beta = model.alpha_bar[t - 1].item(), model.alpha_bar[t].item(), model.beta[t].item()
        means = [
            before**0.5 * beta / (1 - now) * image + (1 - beta) ** 0.5 * (1 - before) / (1 - now) * x
            for image in (images, said)
        ]
        if t == 1:
            k = ((images + 1) * 8).round()
            first = Normal(means[1].double(), model.posterior[2].sqrt())
            top = torch.where(k == 16, 1.0, first.cdf(images + 1 / 16))
            bottom = torch.where(k == 0, 0.0, first.cdf(images - 1 / 16))
            found = -(top - bottom).clamp(min=1e-300).log()
            known = found < 500  # beyond that, this difference of doubles is 0
            assert known.float().mean() > 0.8
            logs = pixel_likelihoods.discretized_gaussian(images, means[1], model.posterior[2].sqrt().log().float(), 17)
            assert torch.allclose(-logs.double()[known], found[known], rtol=1e-2, atol=1e-2)
            assert torch.allclose(terms[:, 0], -logs.flatten(1).sum(1), rtol=1e-3)
            continue
        true = beta * (1 - before) / (1 - now)
        q = Normal(means[0], true**0.5)
        p = Normal(means[1], (true if variance == "small" else beta) ** 0.5)
        assert torch.allclose(terms[:, t - 1], kl_divergence(q, p).flatten(1).sum(1), rtol=1e-3, atol=1e-3)
    left = model.alpha_bar[-1].item()
    last = kl_divergence(Normal(left**0.5 * images.double(), (1 - left) ** 0.5), Normal(0.0, 1.0))
    assert torch.allclose(terms[:, 6].double(), last.flatten(1).sum(1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 3])
def test_the_estimated_bound_is_the_sum_of_its_terms_on_average(samples):
    model = ddpm(5)
    images = digits(17, 1)[0].expand(1200, -1, -1, -1)
    with torch.no_grad():
        full = -model.terms(images[:400], generator=seeds(1)[0]).sum(1)
        drawn = model.elbo(images, generator=seeds(2)[0], samples=samples)
    error = (drawn.var() / 1200 + full.var() / 400).sqrt()
    assert (drawn.mean() - full.mean()).abs() < 4 * error
    assert error < 0.03 * full.mean().abs()


def test_a_network_that_knows_the_image_pays_only_for_the_ends():
    model = KnownImage(**TINY, num_train_timesteps=50)
    model.image = digits(17, 2)[0]
    terms = model.terms(model.image, generator=seeds(0)[0])
    assert terms[:, 1:-1].abs().max() < 1e-3
    assert torch.allclose(model.elbo(model.image), -terms[:, 0] - terms[:, -1], atol=1e-3)
    assert model.loss(model.image)["loss"] < 1e-6
    assert torch.equal(model.sample(2), model.image)


def test_the_logged_nats_are_those_of_the_bound_on_average():
    model = ddpm(5)
    images = digits(17, 1)[0].expand(2000, -1, -1, -1)
    with torch.no_grad():
        full = model.terms(images[:200]).sum(1).mean()
        assert model.loss(images)["nats"].item() == pytest.approx(full.item(), rel=0.06)


@pytest.mark.parametrize("steps", [None, 300])
def test_samples_of_a_known_gaussian_have_its_mean_and_deviation(steps):
    found = []
    for variance in ("small", "large"):
        model = GaussianDDPM(2, widths=(8,), num_train_timesteps=400, variance=variance)
        images = model.sample(4000, generator=seeds(0)[0], steps=steps)
        assert images.mean().item() == pytest.approx(0.1, abs=0.01)
        assert images.std().item() == pytest.approx(0.2, rel=0.05)
        found.append(images.std().item())
    assert found[0] < found[1] or steps  # β̃ is too small, β too large (Ho et al., § 3.2)


def test_ddim_with_all_steps_and_eta_1_is_ancestral_sampling():
    model = ddpm(8)
    for t in range(2, 9):
        before, now = model.alpha_bar[t - 1], model.alpha_bar[t]
        assert model.fresh(t, t - 1) ** 2 == pytest.approx((model.beta[t] * (1 - before) / (1 - now)).item(), rel=1e-6)
    assert torch.equal(model.sample(3, generator=seeds(1)[0]), model.sample(3, None, seeds(1)[0], steps=8, eta=1.0))


def test_a_step_back_has_the_mean_of_the_posterior():
    """DDIM's eq. 12 against Ho et al., eq. 7."""
    model = ddpm(8)
    x, t = torch.randn(2, 1, 8, 8), 5
    before, now, beta = model.alpha_bar[4].item(), model.alpha_bar[5].item(), model.beta[5].item()
    image = model.denoised(x, torch.full((2,), t))
    mean = before**0.5 * beta / (1 - now) * image + (1 - beta) ** 0.5 * (1 - before) / (1 - now) * x
    assert torch.allclose(model._mean(x, t, t - 1, model.fresh(t, t - 1), None), mean, atol=1e-5)


def test_ddim_with_eta_0_samples_only_the_initial_noise():
    model = ddpm(8)
    used, once = seeds(3, 3)
    first = model.sample(2, generator=used, steps=4)
    torch.randn(2, 1, 8, 8, generator=once)
    assert torch.equal(used.get_state(), once.get_state())
    assert torch.equal(first, model.sample(2, generator=seeds(3)[0], steps=4))
    assert not torch.equal(first, model.sample(2, generator=seeds(3)[0], steps=4, eta=0.5))


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_discretised_gaussian_is_a_distribution(levels):
    x = from_levels(torch.arange(levels), levels)
    for mean, log_std in ((0.0, -1.0), (0.7, -4.0), (-1.4, -2.0), (0.1, 2.0), (0.3, -6.0)):
        logs = pixel_likelihoods.discretized_gaussian(x, torch.full_like(x, mean), torch.tensor(log_std), levels)
        assert logs.isfinite().all() and logs.exp().sum().item() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("name", ["ddpm", "score-sde"])
def test_gradient_checkpointing_changes_no_gradient(name):
    model, kept, found = stirred(MAKERS[name]()).train(), [], []
    images, y = pictures(model, 4)
    for checkpointed in (False, True):
        if checkpointed:
            model.enable_gradient_checkpointing()
        model.zero_grad()
        torch.manual_seed(0)
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(kept.pop() + x.numel()) or x, lambda x: x):
            loss = model.loss(images, y)["loss"]
        loss.backward()
        found.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))
    assert kept[1] < kept[0]  # values saved for the backward pass


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: DDPM(**TINY, num_train_timesteps=20), "needs 21"),
        (lambda: DDPM(**TINY, beta_schedule="sigmoid"), "choose 'linear'"),
        (lambda: DDPM(**TINY, variance="learned"), "choose 'small'"),
        (lambda: DDPM(**TINY | {"widths": (12,)}), "multiples of 8"),
        (lambda: DDPM(**TINY | {"image_size": 9}), "cannot be halved"),
        (lambda: ddpm().sample(1, steps=7), r"steps must lie in \[1, 6\]"),
        (lambda: ddpm().elbo(digits(17, 1)[0], samples=0), "samples must"),
    ],
)
def test_bad_options_raise(make, says):
    with pytest.raises(ValueError, match=says):
        make()
