"""The multimodal VAE: posterior, private latents, captions, bounds; and its recipe."""

from __future__ import annotations

import dataclasses
import json
from itertools import product

import pytest
import torch
from generative_models import VAE_SIZES, digits, seeds, stirred
from torch.distributions import Normal
from transformers import AutoTokenizer

from t2i.data.toybox_v1 import Scene, Thing, Toybox
from t2i.images import to_tensor
from t2i.models.latent_variable.multimodal_vae import MultimodalVAE, product_of_experts
from t2i.training.cli import run
from t2i.training.recipes import RECIPES
from t2i.training.recipes.unconditional import multimodal

SIZES = {"shared_dim": 3, "image_dim": 2, "text_dim": 2, "text_width": 16, "channels": 1, "levels": 2}


def tiny(vocab_size: int = 12, text_length: int = 3, **options) -> MultimodalVAE:
    model = MultimodalVAE(vocab_size, text_length, **VAE_SIZES | SIZES | options)
    return stirred(model).eval()


def pairs(n: int = 16, levels: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Digits, and captions with the digit plus one and, for odd ones, another token."""
    images, y = digits(levels, n)
    return images, torch.stack([y + 1, torch.where(y % 2 == 1, 11, 0), torch.zeros_like(y)], dim=1)


def trained(model: MultimodalVAE, images: torch.Tensor, text: torch.Tensor, steps: int) -> MultimodalVAE:
    optimizer = torch.optim.Adam(model.train().parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(images, text)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


# --- the posterior --------------------------------------------------------------------------------------------------


def test_the_product_of_experts_is_the_product_of_their_densities():
    x = torch.linspace(-12, 12, 24001)
    experts = [(torch.tensor([[m]]), torch.tensor([[s]])) for m, s in ((1.0, -0.5), (-0.7, 0.3))]
    density = Normal(0.0, 1.0).log_prob(x)
    for mean, log_std in experts:
        density = density + Normal(mean[0, 0], log_std[0, 0].exp()).log_prob(x)
    density = (density - density.logsumexp(0)).exp()
    mean, log_std = product_of_experts(experts)
    expected = (density * x).sum()
    assert mean.item() == pytest.approx(expected.item(), abs=1e-4)
    assert log_std.exp().item() == pytest.approx((density * (x - expected) ** 2).sum().sqrt().item(), abs=1e-4)


def test_with_one_modality_the_posterior_is_its_expert_times_the_prior():
    model, (images, text) = tiny(), pairs(4)
    for given, which in (({"images": images}, 0), ({"text": text}, 1)):
        (mean, log_std), _ = model.experts(images, text)[which]
        precision = 1 + (-2 * log_std).exp()
        found, found_log_std = model.posterior(**given)
        assert torch.allclose(found, mean * (-2 * log_std).exp() / precision, atol=1e-5)
        assert torch.allclose(found_log_std, -0.5 * precision.log(), atol=1e-5)
    together = model.posterior(images, text)[1]
    assert (together < model.posterior(images)[1]).all() and (together < model.posterior(text=text)[1]).all()
    with pytest.raises(ValueError, match="images, text, or both"):
        model.posterior()


@pytest.mark.parametrize("moved", ["image", "text"])
def test_private_latents_do_not_touch_the_other_modality(moved):
    """Moving the posterior of one w with the same noise keeps the nats of the other modality, and their KL."""
    model, (images, text) = tiny(image_dim=2, text_dim=2), pairs(4)  # equal sizes: a mix-up would not raise
    other = "text" if moved == "image" else "image"

    def found() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        torch.manual_seed(0)
        return model.loss(images, text), model.elbo(images, text, seeds(0)[0]).detach()

    def move(by: float) -> None:
        """Move the mean of w, which follows that of z."""
        getattr(model, f"{moved}_encoder").out.bias.data[model.config.shared_dim :][:2] += by

    (before, bound), _ = found(), move(3.0)
    after, moved_bound = found()
    for name in (other, f"kl_{other}", "kl_shared"):
        assert torch.equal(after[name], before[name])
    assert all((after[name] - before[name]).abs() > 1e-3 for name in (moved, f"kl_{moved}"))

    # With a decoder that ignores its input, the bound consists of the other modality's nats and the known KL.
    last = model.image_decoder.levels[-1] if moved == "image" else model.text_decoder.out
    last.weight.data.zero_()
    deaf_moved = found()[1]
    which = 0 if moved == "image" else 1
    far = kl_to_prior(model.experts(images, text)[which][1])
    move(-3.0)
    deaf = found()[1]
    near = kl_to_prior(model.experts(images, text)[which][1])
    assert (deaf_moved - deaf).mean().item() == pytest.approx(near - far, abs=1e-3) and near < far - 1
    assert (moved_bound - bound).mean().item() != pytest.approx(near - far, abs=1e-3)  # the normal decoder also uses w


# --- captions -------------------------------------------------------------------------------------------------------


def test_what_follows_the_end_of_a_caption_never_matters():
    model, (images, text) = tiny(text_length=4), pairs(8)
    text = torch.nn.functional.pad(text, (0, 1))
    other = torch.where((text == 0).cumsum(1) > 1, 5, text)
    assert not torch.equal(text, other)
    with torch.no_grad():
        for a, b in zip(model.posterior(images, text), model.posterior(images, other), strict=True):
            assert torch.equal(a, b)
        assert torch.equal(model.elbo(images, text, seeds(0)[0]), model.elbo(images, other, seeds(0)[0]))


def test_captions_are_a_distribution_and_sampled_from_it():
    model = stirred(tiny(vocab_size=3, text_length=2), 0.5)
    z, w = torch.randn(1, 3), torch.randn(1, 2)
    every = torch.tensor([t for t in product(range(3), repeat=2) if t[0] or not t[1]])  # nothing follows the end token
    with torch.no_grad():
        nats = model._text_nats(every, z.expand(len(every), -1), w.expand(len(every), -1))
        assert nats.exp().sum().item() == pytest.approx(1, abs=1e-5)
        latents = torch.cat([z, w], 1).expand(20_000, -1)
        drawn = model.text_decoder.write(latents, 2, torch.Generator().manual_seed(0))
        likeliest = model.text_decoder.write(latents[:1], 2, greedy=True)
    shares = (drawn[:, None] == every).all(2).float().mean(0)
    assert torch.allclose(shares, nats.exp(), atol=0.015)
    assert likeliest[0, 0] == torch.stack([nats.exp()[every[:, 0] == t].sum() for t in range(3)]).argmax()


# --- bounds and samples ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["mvae", "mopoe"])
def test_more_importance_samples_never_loosen_the_joint_bound_on_average(objective):
    model = trained(tiny(objective=objective), *pairs(16), steps=15)
    images, text = (x.repeat(4, *[1] * (x.ndim - 1)) for x in pairs(16))
    with torch.no_grad():
        one, many = (model.elbo(images, text, seeds(0)[0], k).mean() for k in (1, 12))
    assert one < many


def test_the_loss_is_the_three_bounds():
    """For MVAE with text weight 1: if the modalities are independent of the latents, each term is known."""
    images, text = pairs()
    model = tiny(text_weight=1.0, objective="mvae")
    for layer in (model.image_decoder.first, model.text_decoder.start):
        torch.nn.init.zeros_(layer.weight)
    model.text_decoder.gru.weight_ih_l0.data[:, -5:] = 0
    with torch.no_grad():
        found = model.loss(images, text)
        mean = {name: part.item() for name, part in found.items()}
        assert mean["nats"] == pytest.approx(-model.elbo(images, text).mean().item(), rel=1e-4)
        alone = [kl_to_prior(model.posterior(images)), kl_to_prior(model.posterior(text=text))]
    own = sum(mean[name] for name in ("image", "kl_image", "text", "kl_text"))
    total = 2 * own + mean["kl_shared"] + sum(alone)
    assert found["loss"].item() * 3 * 64 == pytest.approx(total, rel=1e-4)


def kl_to_prior(q: tuple[torch.Tensor, torch.Tensor]) -> float:
    mean, log_std = q
    return torch.distributions.kl_divergence(Normal(mean, log_std.exp()), Normal(0.0, 1.0)).sum(1).mean().item()


def test_a_gradient_reaches_every_parameter_and_the_loss_falls():
    for objective in ("mvae", "mopoe"):
        model = tiny(objective=objective, word_dropout=0.2).train()
        images, text = pairs()
        before = model.loss(images, text)["loss"]
        before.backward()
        assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
        assert trained(model, images, text, 10).loss(images, text)["loss"] < 0.95 * before


def test_captions_are_generated_from_images_and_images_from_captions():
    """Trained on ten digits, it names most of them, generates most close to their class, using z only."""
    images, text = pairs(60)
    sizes = SIZES | {"shared_dim": 8, "image_dim": 4}
    model = trained(MultimodalVAE(12, 3, **VAE_SIZES | sizes), images, text, 100)
    written = model.text_given_image(images, seeds(0)[0])
    assert (written[:, 0] == text[:, 0]).float().mean() > 0.7
    kinds = torch.stack([images[text[:, 0] == k].mean(0) for k in range(1, 11)])
    captions = torch.stack([text[text[:, 0] == k][0] for k in range(1, 11)])
    drawn = model.image_given_text(captions.repeat(10, 1), seeds(0)[0]).view(10, 10, -1).mean(0)
    assert (torch.cdist(drawn, kinds.flatten(1)).argmin(1) == torch.arange(10)).float().mean() > 0.6
    found = model.loss(images, text)
    assert found["kl_text"] < 0.1 < 2 < found["kl_shared"]


def test_samples_follow_from_their_own_generators():
    model, (images, text) = tiny(), pairs(3)
    for draw in (
        lambda n, g: model.sample_both(len(n), g),
        lambda n, g: (model.image_given_text(text[n], g),),
        lambda n, g: (model.text_given_image(images[n], g),),
    ):
        together, again, alone = draw([0, 1, 2], seeds(1, 2, 3)), draw([0, 1, 2], seeds(1, 2, 3)), draw([1], seeds(2))
        for a, b, c in zip(together, again, alone, strict=True):
            assert torch.equal(a, b) and (a[1:2].float() - c.float()).abs().mean() < 0.02
    pictures, captions = model.sample_both(3, seeds(1, 2, 3))
    assert set(pictures.unique().tolist()) <= {-1.0, 1.0} and captions.shape == (3, 3)
    assert not torch.equal(pictures, model.sample_both(3, seeds(4, 5, 6))[0])


def test_saved_and_opened_it_is_the_same(tmp_path):
    model, (images, text) = tiny(), pairs(4)
    model.save_pretrained(tmp_path)
    again = MultimodalVAE.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(*(m.elbo(images, text, seeds(0)[0]) for m in (model, again)))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"vocab_size": 1}, "vocab_size must"),
        ({"image_dim": 0}, "dimensions at least 1"),
        ({"word_dropout": 1.0}, "word_dropout in"),
        ({"objective": "telbo"}, "'mopoe' or 'mvae'"),
        ({"widths": (12,)}, "multiples of 8"),
    ],
)
def test_bad_options_raise(options, says):
    with pytest.raises(ValueError, match=says):
        tiny(**options)


def test_bad_input_raises():
    model, (images, text) = tiny(), pairs(2)
    for bad_images, bad_text, says in (
        (images[:, :, 1:], text, "must have the shape"),
        (images + 3, text, r"must lie in \[-1, 1\]"),
        (images, text[:, 1:], "captions must be integers"),
        (images, text + 11, r"tokens must lie in \[0, 12\)"),
    ):
        with pytest.raises(ValueError, match=says):
            model.loss(bad_images, bad_text)


# --- the recipe -----------------------------------------------------------------------------------------------------


def recipe(folder, data: str = "digits", image_size: int = 8, **model):
    tiny = RECIPES["multimodal-vae"]("tiny")
    loop = {"max_train_steps": 2, "checkpointing_steps": 2, "train_batch_size": 8, "dataloader_num_workers": 0}
    return dataclasses.replace(
        tiny,
        data=dataclasses.replace(tiny.data, data=data, image_size=image_size),
        model=dataclasses.replace(tiny.model, text_width=16, **model),
        loop=dataclasses.replace(tiny.loop, output_dir=str(folder), report_to="none", **loop),
    )


@pytest.mark.parametrize(("data", "size"), [("digits", 8), ("toybox-v1", 16)])
def test_the_recipe_trains_is_scored_and_opens(tmp_path, monkeypatch, data, size):
    monkeypatch.setattr(multimodal, "SCORED", 24)
    monkeypatch.setattr(multimodal, "MANY", 2)
    monkeypatch.setattr(multimodal, "BPE_CAPTIONS", 200)
    folder = run(recipe(tmp_path / "run", data, size))
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["pairs"] == 24 and scores["nats"] > 0 and 0 <= scores["captions_right"] <= 1
    assert ("colours" in scores) == (data == "toybox-v1")
    model, tokenizer = MultimodalVAE.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer)
    assert (tmp_path / "run" / "samples" / "step-000002.png").is_file()


def test_scores_know_right_captions_and_colours():
    scenes = [Scene((Thing(k, a),)) for k, a in (("cat", "red"), ("horse", "wood"), ("apple", "avocado"))]
    assert multimodal.things_named([s.caption() for s in scenes]) == [
        ("cat", "red"),
        ("horse", "wood"),
        ("apple", "avocado"),
    ]
    assert multimodal.things_named(["a cat red", "two red cats"]) == [None, None]
    data = Toybox("train", 32, 7, 150, family="single")
    items = [data[i] for i in range(150)]
    images = to_tensor(torch.stack([torch.from_numpy(item["image"]) for item in items]))
    asked = [item["scene"].things[0].attribute for item in items]
    assert multimodal.colours_right(images, asked) > 0.8  # backgrounds, outlines and details are not the thing's colour
    assert multimodal.colours_right(images, asked[1:] + asked[:1]) < 0.3
    assert multimodal.colours_right(images[:1], ["wood"]) is None
