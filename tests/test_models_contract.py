"""The interface of every unconditional model, in all families."""

from __future__ import annotations

import json

import pytest
import torch
from generative_models import MAKERS, pictures, seeds, stirred

from t2i.models import CLASSES, load_pretrained
from t2i.models.base import GenerativeModel, bits_per_dim, log_likelihood


@pytest.fixture(params=MAKERS)
def model(request) -> GenerativeModel:
    return stirred(MAKERS[request.param]())


def scores(model: GenerativeModel, images, y, *numbers: int) -> torch.Tensor:
    return log_likelihood(model, images, y, seeds(*numbers) if len(numbers) > 1 else seeds(*numbers)[0])


def partial_scores(model: GenerativeModel, images, y, known, samples: int = 1) -> torch.Tensor:
    if model.likelihood == "exact":
        return model.log_prob(images, y, known)
    return model.elbo(images, y, seeds(0)[0], samples, known)


def options(model: GenerativeModel) -> dict:
    return {k: v for k, v in json.loads(model.to_json_string()).items() if not k.startswith("_")}


def test_every_family_is_here():
    assert {type(make()).__name__ for make in MAKERS.values()} == set(CLASSES)


def test_what_is_declared_is_there(model):
    assert model.likelihood in ("exact", "bound", "none")
    assert hasattr(model, "log_prob") == (model.likelihood == "exact")
    assert hasattr(model, "elbo") == (model.likelihood == "bound")
    assert hasattr(model, "sample") == model.samples
    assert (hasattr(model, "encode") and hasattr(model, "decode")) == model.latents


def test_saved_and_opened_it_is_the_same(model, tmp_path):
    model.eval().save_pretrained(tmp_path)
    again = load_pretrained(tmp_path)
    assert type(again) is type(model) and options(again) == options(model)
    assert [p.suffix for p in sorted(tmp_path.iterdir())] == [".json", ".safetensors"]
    images, y = pictures(model, 3)
    with torch.no_grad():
        if model.likelihood != "none":
            assert torch.equal(scores(model, images, y, 0), scores(again, images, y, 0))
        if model.samples:
            drawn = [m.sample(2, y if y is None else y[:2], seeds(5)[0]) for m in (model, again)]
            assert torch.equal(*drawn)


def test_a_gradient_reaches_every_parameter(model):
    if hasattr(model, "fit"):
        pytest.skip("it is not trained by gradients")
    images, y = pictures(model)
    model.train().loss(images, y)["loss"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_training_in_bfloat16_is_finite(model):
    if hasattr(model, "fit"):
        pytest.skip("it is not trained by gradients")
    images, y = pictures(model, 4)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.train().loss(images, y)["loss"]
    loss.backward()
    assert loss.isfinite()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_scores_follow_from_the_seed_and_leave_images_alone(model):
    if model.likelihood == "none":
        pytest.skip("it has no likelihood")
    images, y = pictures(model, 3)
    before = images.clone()
    model.eval()
    with torch.no_grad():
        assert torch.equal(scores(model, images, y, 0), scores(model, images, y, 0))
        bits = bits_per_dim(model, images, y, seeds(0)[0])
    assert torch.equal(images, before)
    numbers = images[0].numel()
    assert torch.allclose(bits, -scores(model, images, y, 0) / (numbers * torch.tensor(2.0).log()))


def test_a_batch_is_scored_as_single_images(model):
    if model.likelihood == "none":
        pytest.skip("it has no likelihood")
    images, y = pictures(model, 3)
    model.eval()
    with torch.no_grad():
        together = scores(model, images, y, 1, 2, 3)
        for i in range(3):
            alone = scores(model, images[i : i + 1], y if y is None else y[i : i + 1], i + 1)
            assert torch.allclose(together[i], alone[0], rtol=1e-4, atol=1e-3)


def test_unknown_pixels_are_not_looked_at(model):
    if model.partial == "none":
        pytest.skip("it scores whole pictures")
    images, y = pictures(model, 3)
    side, model = model.shape[1], model.eval()
    whole, nothing = torch.ones(side, side, dtype=torch.bool), torch.zeros(side, side, dtype=torch.bool)
    each = torch.stack([whole, torch.arange(side * side).view(side, side) < 19, nothing])
    if model.partial == "any":
        each[1] = torch.rand(side, side, generator=seeds(0)[0]) < 0.5
    other = images.where(each[:, None], -images)
    for samples in (1, 3):
        with torch.no_grad():
            found = partial_scores(model, images, y, each, samples)
            assert torch.allclose(partial_scores(model, images, y, whole, samples)[0], found[0], rtol=1e-4)
            assert torch.allclose(partial_scores(model, other, y, each, samples), found, rtol=1e-4, atol=1e-4)
        if model.likelihood == "exact":
            assert found[2] == 0
        with pytest.raises(ValueError, match="known must be bool"):
            partial_scores(model, images, y, each[:2], samples)


def test_samples_follow_from_their_own_generators(model):
    if not model.samples:
        pytest.skip("it has nothing to sample from")
    model.eval()
    y = torch.arange(3) if model.conditional else None
    images = model.sample(3, y, seeds(1, 2, 3))
    assert images.shape == (3, *model.shape)
    steps = (images + 1) * (model.levels - 1) / 2
    assert (steps - steps.round()).abs().max() < 1e-3 and steps.min() > -0.1 and steps.max() < model.levels - 0.9
    assert torch.equal(images, model.sample(3, y, seeds(1, 2, 3)))
    alone = model.sample(1, y if y is None else y[1:2], seeds(2))
    assert (images[1:2] - alone).abs().mean() < 0.02  # rounding may change single pixels
    assert not torch.equal(images, model.sample(3, y, seeds(4, 5, 6)))
    assert model.sample(3, y, seeds(1, 2, 3), **model.preview_options).shape == images.shape


def test_the_loss_falls_on_a_few_images(model):
    if hasattr(model, "discriminate"):
        pytest.skip("of two players' losses the sum need not fall")
    images, y = pictures(model)
    if hasattr(model, "fit"):
        images, y = pictures(model, 60)
        before = model.loss(images, y)["loss"]
        model.fit(images, y)
        assert model.loss(images, y)["loss"] < before
        return
    optimizer = torch.optim.Adam(model.train().parameters(), 5e-3)
    found = []
    for _ in range(30):
        loss = model.loss(images, y)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert sum(found[-5:]) / 5 < found[0] - 0.05 * abs(found[0])


def test_codes_decode_to_images(model):
    if not model.latents:
        pytest.skip("it has no latents")
    images, y = pictures(model, 3)
    model.eval()
    with torch.no_grad():
        z = model.encode(images, y)
        again = model.decode(z, y)
    assert z.shape[0] == 3 and again.shape == images.shape and again.abs().max() <= 1.001
    with pytest.raises(ValueError, match="latents must"):
        model.decode(z[:, 1:], y)


def test_bad_input_raises(model):
    images, y = pictures(model, 2)
    with pytest.raises(ValueError, match="shape"):
        model.loss(images[:, :, 1:], y)
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]|levels"):
        model.loss(images + 3, y)
    with pytest.raises(ValueError, match="this model takes"):
        model.loss(images, None if model.conditional else torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="one image at least"):
        model.loss(images[:0], y if y is None else y[:0])
    if not model.samples:
        return
    with pytest.raises(ValueError, match="one image at least"):
        model.sample(0, y if y is None else y[:0])
    with pytest.raises(ValueError, match="this model takes"):
        model.sample(2, None if model.conditional else torch.zeros(2, dtype=torch.long))
    if model.conditional:
        with pytest.raises(ValueError, match=r"labels must lie in \[0, 10\)"):
            model.loss(images, torch.tensor([0, 10]))
    with pytest.raises(ValueError, match="generators for 2 images"):
        model.sample(2, y, seeds(0, 1, 2))
