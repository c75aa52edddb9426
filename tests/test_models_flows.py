"""Normalizing flows: exact inverses, exact determinants, densities that integrate to one."""

from __future__ import annotations

import math

import pytest
import torch
from generative_models import digits, pictures, seeds, stirred
from torch.autograd.functional import jacobian

from t2i.models.base import dequantize, log_likelihood
from t2i.models.flows.glow import Glow, Invertible1x1
from t2i.models.flows.layers import ActNorm, AffineCoupling, Logit, Split, Squeeze
from t2i.models.flows.nice import NICE, AdditiveCoupling, Flatten, Scaling
from t2i.models.flows.realnvp import RealNVP, Swap, checkerboard

SMALL = {
    "nice": lambda: NICE(4, 1, 17, width=16, hidden=2),
    "realnvp": lambda: RealNVP(4, 1, 17, scales=1, couplings=2, width=8, blocks=1),
    "glow": lambda: Glow(4, 1, 17, scales=2, steps=2, width=8, alpha=0.0),
    "glow-logit": lambda: Glow(4, 1, 17, scales=1, steps=2, width=8, alpha=0.05),
    "glow-conditional": lambda: Glow(4, 1, 17, num_classes=3, scales=1, steps=2, width=8),
    "glow-colour": lambda: Glow(4, 3, 17, scales=2, steps=1, width=8),
}
LAYERS = {
    "logit": lambda: Logit(0.05),
    "squeeze": Squeeze,
    "swap": Swap,
    "actnorm": lambda: ActNorm(4),
    "1x1": lambda: Invertible1x1(4),
    "coupling": lambda: AffineCoupling(torch.nn.Conv2d(2, 4, 3, padding=1)),
    "checkerboard": lambda: AffineCoupling(torch.nn.Conv2d(4, 8, 3, padding=1), 1.0, checkerboard(4, True)),
    "flat": lambda: Flatten((4, 4, 4)),
}


def flow(name: str):
    torch.manual_seed(1)
    return stirred(SMALL[name]()).eval()


def continuous(model, n: int = 3) -> tuple[torch.Tensor, torch.Tensor | None]:
    y = torch.arange(n) % 3 if model.conditional else None
    return torch.rand(n, *model.shape, dtype=model.dtype) * 1.9 - 0.95, y


def log_abs_det(function, x: torch.Tensor) -> torch.Tensor:
    """By autograd, for one image (1, …)."""
    J = jacobian(lambda v: function(v).flatten(), x)
    return torch.linalg.slogdet(J.reshape(x.numel(), x.numel()))[1]


@pytest.mark.parametrize("name", SMALL)
def test_under_autocast_only_networks_are_in_bfloat16(name):
    """With latents of eight bits of precision, a density would be off by a nat."""
    model = flow(name)
    images, y = continuous(model)
    kept = []
    for step in model.transforms:
        step.register_forward_hook(lambda step, given, out: kept.extend(part.dtype for part in out))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model.log_prob(images, y).dtype == torch.float32
    assert kept and set(kept) == {torch.float32}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_has_its_inverse_and_its_determinant(name):
    layer = LAYERS[name]()
    for parameter in layer.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    layer, x = layer.double(), torch.rand(2, 4, 4, 4, dtype=torch.float64) * 1.8 - 0.9
    z, log_det = layer(x)
    assert torch.allclose(layer.inverse(z), x, atol=1e-9)
    for i in range(2):
        expected = log_abs_det(lambda v: layer(v)[0], x[i : i + 1])
        found = log_det if log_det.ndim == 0 else log_det[i]
        assert found.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("learned", [False, True])
def test_a_split_is_undone(learned):
    split = Split((4, 4, 4), learned)
    for parameter in split.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    x = torch.randn(2, 4, 4, 4)
    a, out, log_det = split(x)
    assert a.shape[1:] == out.shape[1:] == split.out_shape
    assert torch.allclose(split.inverse(a, out), x, atol=1e-5)
    expected = log_abs_det(lambda v: torch.cat(split(v)[:2], dim=1), x[:1])
    assert (log_det if log_det.ndim == 0 else log_det[0]).item() == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_decoding_undoes_encoding(name):
    model = flow(name)
    images, y = continuous(model)
    with torch.no_grad():
        z = model.encode(images, y)
        assert z.shape == (3, math.prod(model.shape))
        assert torch.allclose(model.decode(z, y), images, atol=1e-4)
        assert torch.allclose(model.encode(model.decode(z, y), y), z, atol=1e-2)
        between = model.interpolate(images[:1], images[1:2], 5, None if y is None else y[:1])
    if y is None:
        assert torch.allclose(between[0], images[:1], atol=1e-4) and torch.allclose(between[-1], images[1:2], atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_the_log_determinant_is_autograds(name):
    model = flow(name)
    images, y = continuous(model)
    one = None if y is None else y[:1]
    with torch.no_grad():
        found = model._forward(images, y)[1][0]
    assert found.item() == pytest.approx(log_abs_det(lambda v: model.encode(v, one), images[:1]).item(), abs=1e-4)


@pytest.mark.parametrize("name", ["nice", "glow", "glow-conditional"])
def test_the_density_is_the_priors_through_the_change_of_variables(name):
    model = flow(name).double()
    images, y = continuous(model, 1)
    z = model.encode(images, y)
    mean, log_scale = model._prior(y)
    standard = (z - mean) / log_scale.exp()
    if model.distribution == "normal":
        nats = torch.distributions.Normal(mean, log_scale.exp()).log_prob(z)
    else:
        nats = -standard - 2 * torch.nn.functional.softplus(-standard) - log_scale
    expected = nats.sum() + log_abs_det(lambda v: model.encode(v, y), images)
    assert model.log_prob(images, y).item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 1e-4])
def test_a_density_of_two_numbers_integrates_to_one(alpha):
    """With the logit, all mass lies over the square of valid images, except what α leaves outside."""
    steps = [AdditiveCoupling(2, 8, 1, True), AdditiveCoupling(2, 8, 1, False), Scaling(2)]
    for parameter in torch.nn.ModuleList(steps).double().parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    side = 1.0 if alpha else 30.0
    axis = ((torch.arange(400, dtype=torch.float64) + 0.5) / 200 - 1) * side
    x, total = torch.cartesian_prod(axis, axis), 0
    for step in [Logit(alpha), *steps] if alpha else steps:
        x, log_det = step(x)
        total = total + log_det
    nats = (-x - 2 * torch.nn.functional.softplus(-x)).sum(1) + total
    assert (nats.exp().sum() * (side / 200) ** 2).item() == pytest.approx(1, abs=0.01)


def test_discrete_images_are_scored_through_their_bins():
    """For a uniform density the answer is known: each of the L^N images has probability L^-N."""
    model = NICE(8, 1, 17)
    model.log_prob = lambda x, y: torch.full((len(x),), -64 * math.log(2.0))  # uniform on [-1, 1]^64
    images = digits(17, 4)[0]
    assert log_likelihood(model, images) == pytest.approx(torch.full((4,), -64 * math.log(17)), rel=1e-5)
    drawn = dequantize(images, 17)
    assert ((drawn - images).abs() <= 2 / 17).all() and drawn.min() >= -1 and drawn.max() <= 1


def test_activation_norms_start_from_the_data():
    model = Glow(8, 1, 17, scales=2, steps=2, width=8, alpha=0.0)
    images, _ = pictures(model, 64)
    model.initialize(images)
    norms = [layer for layer in model.modules() if isinstance(layer, ActNorm)]
    seen = []
    hooks = [n.register_forward_hook(lambda _, __, out: seen.append(out[0])) for n in norms]
    before = model.state_dict()["transforms.1.shift"].clone()
    model.loss(images)
    for hook in hooks:
        hook.remove()
    assert len(seen) == 4
    for z in seen:
        assert z.mean((0, 2, 3)).abs().max() < 0.15
        assert ((z.std((0, 2, 3)) - 1).abs() < 0.15).all()
    model.loss(images * 0)
    assert torch.equal(before, model.state_dict()["transforms.1.shift"])


def test_a_new_one_by_one_convolution_is_a_rotation():
    layer = Invertible1x1(6)
    lower, upper = layer._factors()
    weight = layer.permutation @ lower @ upper
    assert torch.allclose(weight @ weight.t(), torch.eye(6), atol=1e-5)
    assert layer.log_scale.sum().abs() < 1e-5


def test_temperature_draws_nearer_to_the_middle():
    model = flow("glow")
    cold, warm = (model.sample(64, None, seeds(0)[0], temperature=t) for t in (0.0, 1.0))
    assert torch.equal(cold, cold[:1].expand_as(cold))
    assert warm.std(0).mean() > 0.05


def test_a_scale_is_bounded():
    coupling = AffineCoupling(torch.nn.Conv2d(2, 4, 3, padding=1), bound=1.5)
    coupling.network.weight.data *= 1e4
    log_scale, _ = coupling._affine(torch.randn(4, 2, 4, 4))
    assert 1.4 < log_scale.abs().max() <= 1.5


def test_bad_options_raise():
    with pytest.raises(ValueError, match="cannot be halved"):
        Glow(6, 1, 17, scales=2)
    with pytest.raises(ValueError, match="alpha must lie"):
        RealNVP(8, 1, 17, alpha=0.6)
    with pytest.raises(ValueError, match="must be even"):
        NICE(7, 1, 17)
