"""Score SDEs and classifier guidance, mostly on distributions whose score is known exactly."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from generative_models import digits, seeds, stirred
from torch.distributions import MultivariateNormal, Normal

from t2i.models.diffusion.classifier_guidance import NoisyClassifier, fit_classifier
from t2i.models.diffusion.ddpm import DDPM
from t2i.models.diffusion.score_sde import ScoreSDE, _divergence
from t2i.models.diffusion.sde import SDES, VE, VP, SubVP, along

TINY = {"image_size": 8, "levels": 17, "widths": (8, 16)}
SMALL = {"image_size": 2, "widths": (8,)}  # images whose density is known


# --- the SDEs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SDES)
def test_marginals_solve_the_sde(name):
    """da/dt = f a and ds²/dt = 2 f s² + g²; and the time parameter is inverted correctly."""
    sde = SDES[name]()
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64, requires_grad=True)
    a, s = sde.marginal(t)
    curves = (a + 0 * t, s.square(), sde.log_snr(t))
    da, ds2, dclock = (torch.autograd.grad(curve.sum(), t, retain_graph=True)[0] for curve in curves)
    f, g2 = sde.rate(t), sde.diffusion(t).square()
    assert torch.allclose(da, f * a, atol=1e-10)
    assert torch.allclose(ds2, 2 * f * s.square() + g2, rtol=1e-8)
    assert torch.allclose(dclock, -g2 / s.square(), rtol=1e-8)
    assert torch.allclose(sde.time(sde.log_snr(t)), t, rtol=1e-8)
    assert sde.marginal(torch.tensor(1.0))[0] < 0.01 or name == "ve"
    prior = sde.prior_log_prob(torch.ones(3, 5))
    assert torch.allclose(prior, Normal(0.0, sde.prior_std).log_prob(torch.ones(3, 5)).sum(1))


def test_vp_is_where_the_chain_of_ddpm_goes():
    chain = DDPM(**SMALL, num_train_timesteps=1000).alpha_bar
    times = torch.linspace(0, 1, 1001, dtype=torch.float64)
    assert torch.allclose(VP().marginal(times)[0].square(), chain, atol=2e-3)


@pytest.mark.parametrize("sde", [VP, VE, SubVP])
def test_noise_added_in_small_steps_is_the_marginal(sde):
    sde, n = sde(), 4000
    x, steps = 0.5 * torch.ones(n, 1), 400
    x = x + sde.marginal(torch.tensor(0.0))[1] * torch.randn_like(x)
    for i in range(steps):
        t = torch.full((n,), (i + 0.5) / steps)
        x = x + sde.drift(x, t) / steps + along(sde.diffusion(t), x) * torch.randn_like(x) / steps**0.5
    a, s = sde.marginal(torch.tensor(1.0))
    assert x.std().item() == pytest.approx(s.item(), rel=0.05)
    assert x.mean().item() == pytest.approx(0.5 * a.item(), abs=0.05 * s.item())


# --- a score that is known ------------------------------------------------------------------------------------------

MEAN = torch.tensor([0.2, -0.1, 0.0, 0.3])
COVARIANCE = 0.01 * torch.tensor([[9, 4, 2, 0], [4, 6, 0, 1], [2, 0, 4, -1], [0, 1, -1, 5.0]])


class GaussianScore(ScoreSDE):
    """The score of N(MEAN, COVARIANCE) under noise."""

    def score(self, x, t, y=None):
        a, s = (c[:, None] for c in self.sde.marginal(t))
        covariance = a[..., None].square() * COVARIANCE + s[..., None].square() * torch.eye(4)
        return -torch.linalg.solve(covariance, x.flatten(1) - a * MEAN).view_as(x)


class MixtureScore(ScoreSDE):
    """The score under noise of N(±0.5, 0.1²) for all pixels together, signs equally likely; labels are the signs."""

    def score(self, x, t, y=None):
        a, s = (along(c, x) for c in self.sde.marginal(t))
        variance = 0.01 * a.square() + s.square()
        share = self.logits(x, t).softmax(1)
        return (a * 0.5 * along(share[:, 1] - share[:, 0], x) - x) / variance

    def logits(self, x, t):
        a, s = self.sde.marginal(t)
        half = 0.5 * a / (0.01 * a.square() + s.square()) * x.flatten(1).sum(1)
        return torch.stack([-half, half], dim=1)


def known(kind: type[ScoreSDE], sde: str, **options) -> ScoreSDE:
    return kind(**SMALL, sde=sde, **options)


@pytest.mark.parametrize("sde", SDES)
@pytest.mark.parametrize("method", ["sde", "pc", "ode"])
def test_every_sampler_lands_on_a_known_gaussian(sde, method):
    model = known(GaussianScore, sde, steps=250)
    x = model.sample(3000, generator=seeds(0)[0], method=method, rounded=False).flatten(1)
    assert (x.mean(0) - MEAN).abs().max() < 0.02
    spread = COVARIANCE.diagonal().sqrt()
    assert ((x.T.cov() - COVARIANCE) / (spread[:, None] * spread)).abs().max() < 0.08


class NarrowScore(ScoreSDE):
    """The score under noise of N(0, 0.015²) for each pixel: noise left over by the last steps is visible."""

    def score(self, x, t, y=None):
        a, s = (along(c, x) for c in self.sde.marginal(t))
        return -x / (0.015**2 * a.square() + s.square())


@pytest.mark.parametrize("sde", SDES)
@pytest.mark.parametrize("method", ["sde", "pc", "ode"])
def test_few_steps_are_enough_for_narrow_targets(sde, method):
    x = known(NarrowScore, sde, steps=50).sample(4000, generator=seeds(0)[0], method=method, rounded=False)
    least = VE().sigma_min if sde == "ve" else 1e-3  # noise in the last images
    # The ODE leaves it there; the stochastic samplers return the mean given the last image.
    narrow = math.hypot(0.015, least) if method == "ode" else 0.015**2 / math.hypot(0.015, least)
    assert x.std().item() == pytest.approx(narrow, rel=0.13)
    assert x.mean().abs() < 0.1 * narrow


@pytest.mark.parametrize("sde", SDES)
def test_the_times_of_sampling_fall_from_the_last_to_the_first(sde):
    times = SDES[sde]().times(50)
    assert times[0] == 1 and times[-1].item() == pytest.approx(SDES[sde]().first, rel=1e-9)
    assert (times.diff() < 0).all()


@pytest.mark.parametrize("sde", SDES)
def test_the_likelihood_of_a_known_gaussian_is_its_density(sde):
    model = known(GaussianScore, sde, ode_steps=40, sigma_max=200.0)
    noise = model.sde.marginal(torch.tensor(model.sde.first))[1].item()  # the minimum, which is part of the density too
    truth = MultivariateNormal(MEAN, COVARIANCE + noise**2 * torch.eye(4))
    images = truth.sample((6,)).clamp(-1, 1)
    images, true = images.view(6, 1, 2, 2), truth.log_prob(images)
    for how in ({}, {"tolerance": 1e-5}):
        found = model.log_prob(images, trace="exact", **how)
        assert (found - true).abs().max() < 0.005 * true.abs().mean()
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4).view(16, 1, 2, 2)  # all sign combinations
    x, gained = model._solve(images[:1].expand(16, -1, -1, -1), divergence=_divergence(signs))
    each = model.sde.prior_log_prob(x) + gained
    assert each.std() > 0.01  # pixels are correlated: the signs matter
    assert each.mean().item() == pytest.approx(true[0].item(), rel=0.005)
    drawn = model.log_prob(images[:1].expand(8, -1, -1, -1), generator=seeds(0)[0])
    assert drawn.std() > 0.01 and ((drawn[:, None] - each).abs().amin(1) < 1e-3).all()


def test_the_trace_is_that_of_the_jacobian_for_a_network_too():
    """ln |det| of the whole map by finite differences, against the integral of the divergence."""
    model = stirred(ScoreSDE(image_size=4, widths=(16,), ode_steps=8), 0.02).eval()
    image, step, one = torch.rand(1, 1, 4, 4) - 0.5, 1e-2, torch.eye(16)
    moves = torch.cat([one, -one, torch.zeros(1, 16)]).view(33, 1, 4, 4)
    ends = model._solve(image + step * moves)[0].flatten(1)
    log_det = ((ends[:16] - ends[16:32]) / (2 * step)).double().det().abs().log()
    expected = model.sde.prior_log_prob(ends[32:])[0] + log_det
    assert model.log_prob(image, trace="exact").item() == pytest.approx(expected.item(), abs=0.02)


@pytest.mark.parametrize("sde", SDES)
def test_images_come_back_from_their_noise(sde):
    model = stirred(ScoreSDE(**TINY, sde=sde, sigma_max=10.0, ode_steps=14), 0.02).eval()
    images = digits(17, 1)[0] * 0.9
    z = model.encode(images)
    assert z.shape == (1, 64)
    assert (model.decode(z) - images).abs().max() < 0.02
    gaussian = known(GaussianScore, sde)
    x = 0.3 * torch.randn(5, 1, 2, 2).clamp(-2, 2)
    assert torch.allclose(gaussian.decode(gaussian.encode(x)), x, atol=1e-3)
    z = torch.randn(3, 4)
    by_ode = gaussian.sample(3, generator=seeds(7)[0], method="ode", rounded=False)
    same = torch.randn(3, 1, 2, 2, generator=seeds(7)[0])
    assert torch.allclose(gaussian.decode(same.flatten(1)), by_ode.clamp(-1, 1), atol=1e-5)


def test_without_a_generator_an_image_decides_on_its_own_signs():
    model = stirred(ScoreSDE(**TINY, ode_steps=1)).eval()
    images = digits(17, 3)[0] * 0.9
    found = model.log_prob(images)
    assert torch.equal(found, model.log_prob(images))
    assert torch.allclose(found.flip(0), model.log_prob(images.flip(0)), rtol=1e-4, atol=1e-3)
    assert not torch.equal(found, model.log_prob(images, generator=seeds(0)[0]))


@pytest.mark.parametrize("weighting", ["std", "likelihood"])
def test_no_score_has_less_loss_than_the_true_one(weighting):
    """For a Gaussian the minimum noise error is known: the mean of a² v / (a² v + s²)."""

    class Scaled(GaussianScore):
        factor = 1.0

        def score(self, x, t, y=None):
            return self.factor * super().score(x, t, y)

    model = Scaled(**SMALL, weighting=weighting)
    images = MultivariateNormal(MEAN, COVARIANCE).sample((20000,)).clamp(-1, 1).view(-1, 1, 2, 2)
    levels = ((images + 1) * 127.5).round() / 127.5 - 1
    losses = []
    for model.factor in (1.0, 0.8, 1.2):
        torch.manual_seed(0)
        losses.append(model.loss(levels)["loss"].item())
    assert losses[0] < min(losses[1:])
    most, least = model._clock()
    t = torch.linspace(model.sde.first, 1, 20001)
    t = t if weighting == "std" else model.sde.time(torch.linspace(most, least, 20001))
    a, s = (c[:, None].square() for c in model.sde.marginal(t))
    v = torch.linalg.eigvalsh(COVARIANCE)
    weight = 1.0 if weighting == "std" else 0.5 * (most - least)
    assert losses[0] == pytest.approx(weight * (a * v / (a * v + s)).mean().item(), rel=0.03)


# --- classifier guidance --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sde", "pc", "ode"])
def test_guided_samples_land_in_their_class(method):
    model = known(MixtureScore, "vp", steps=100)
    free = model.sample(400, generator=seeds(0)[0], method=method, rounded=False).flatten(1)
    assert 0.4 < (free.mean(1) > 0).float().mean() < 0.6
    target = torch.arange(400) % 2
    led = {"classifier": model.logits, "target": target, "method": method, "rounded": False}
    x = model.sample(400, generator=seeds(0)[0], **led).flatten(1)
    assert ((x.mean(1) > 0) == (target == 1)).all()
    signs = 2 * target[:, None] - 1
    assert (x * signs).mean().item() == pytest.approx(0.5, abs=0.02)  # guidance scale 1 gives p(x | y)
    assert (x * signs - 0.5).std().item() == pytest.approx(0.1, rel=0.1)
    none = model.sample(400, generator=seeds(0)[0], guidance=0.0, **led).flatten(1)
    assert torch.allclose(none, free)


def test_a_classifier_learns_what_noise_leaves():
    k = torch.arange(64) % 2
    images = (2.0 * k - 1)[:, None, None, None].expand(-1, 1, 4, 4) * torch.ones(64, 1, 4, 4)
    classifier = NoisyClassifier(4, 1, 2, num_classes=2, widths=(8,))
    losses = fit_classifier(classifier, VP(), images, k, steps=60, learning_rate=1e-2)
    assert sum(losses[-10:]) / 10 < 0.85 * sum(losses[:5]) / 5
    early = classifier(images, torch.full((64,), 0.05)).softmax(1)
    late = classifier(torch.randn(64, 1, 4, 4), torch.ones(64)).softmax(1).amax(1)
    assert early[torch.arange(64), k].min() > 0.9 > late.mean()
    led = {"classifier": classifier, "target": torch.tensor([0, 1]), "guidance": 3.0, "rounded": False}
    images = ScoreSDE(4, 1, 2, widths=(8,), steps=10).sample(2, generator=seeds(0, 0), **led)
    assert images[0].mean() < images[1].mean()


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ScoreSDE(**TINY, sde="vpp"), "one of vp, ve, subvp"),
        (lambda: ScoreSDE(**TINY, beta_min=3.0, beta_max=1.0), "beta_min ≤ beta_max"),
        (lambda: ScoreSDE(**TINY, sde="ve", sigma_min=0.0), "sigma_min < sigma_max"),
        (lambda: ScoreSDE(**TINY).sample(1, method="euler"), "one of sde, pc, ode"),
        (lambda: ScoreSDE(**TINY).sample(1, target=torch.tensor([0])), "needs the target"),
        (lambda: ScoreSDE(**TINY).log_prob(digits(17, 1)[0], trace="none"), "choose 'hutchinson'"),
        (lambda: NoisyClassifier(8, widths=(8,), num_classes=1), "two classes"),
    ],
)
def test_bad_options_raise(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_fit_follows_from_its_seed_and_leaves_the_callers_alone():
    torch.manual_seed(1)
    images, y = torch.randint(0, 2, (16, 1, 4, 4)) * 2.0 - 1, torch.arange(16) % 2
    start = NoisyClassifier(4, 1, 2, num_classes=2, widths=(8,))
    found = []
    for outside, seed in ((5, 0), (6, 0), (6, 1)):
        torch.manual_seed(outside)
        state = torch.get_rng_state()
        found.append(fit_classifier(copy.deepcopy(start), VP(), images, y, steps=3, batch=4, seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
    assert found[0] == found[1] != found[2]


def test_a_label_without_a_name_cannot_be_fitted():
    with pytest.raises(ValueError, match=r"labels in \[0, 2\)"):
        classifier = NoisyClassifier(4, levels=2, num_classes=2, widths=(8,))
        fit_classifier(classifier, VP(), torch.ones(3, 1, 4, 4), torch.tensor([0, 1, 2]))
    assert math.isclose(VP().first, 1e-5, rel_tol=1e-2)
