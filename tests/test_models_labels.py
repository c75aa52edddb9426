"""Uses of labels: Bayes' rule, missing pixels, classifiers on an encoder, and the two experiments."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from generative_models import MAKERS, digits, seeds, stirred
from torch import Tensor

from t2i.checks import UsageError
from t2i.models.analysis.discriminative import (
    bayes_classify,
    fit_bernoulli,
    fit_gaussian,
    fit_logistic,
    impute,
    naive_bayes,
)
from t2i.models.analysis.encoder_classifier import STARTS, Classifier, train_classifier
from t2i.models.autoregressive.causal import Categorical
from t2i.models.base import from_levels
from t2i.models.diffusion.ddpm import DDPM
from t2i.models.latent_variable.autoencoder import Autoencoder
from t2i.models.linear.linear_mixture import LinearMixture

HALVES = ("none", "lower half", "random half")
SCRIPTS = Path(__file__).parents[1] / "scripts"


class Coins(Categorical):
    """Independent Bernoulli pixels for each class: p(x | y), and hence p(y | x), is known."""

    def __init__(self, white: Tensor):
        super().__init__()
        self._declare(white.shape[1], 1, 2, len(white))
        self.white = torch.nn.Parameter(white)  # (K, S, S)

    def forward(self, images: Tensor, y: Tensor | None = None) -> Tensor:
        return torch.stack([1 - self.white[y], self.white[y]], 1).log()


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    images, labels = digits(17, 300)
    return (images.flatten(1).double().numpy() + 1) / 2, labels.numpy()


def upper(side: int, rows: int) -> Tensor:
    """A mask with this number of rows known."""
    return (torch.arange(side) < rows)[:, None].expand(side, side)


# --- Bayes' rule ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [None, 1])
def test_bayes_rule_gives_the_posterior_of_known_class_conditionals(rows):
    known = None if rows is None else upper(2, rows)
    white, prior = torch.rand(3, 2, 2) * 0.9 + 0.05, torch.tensor([0.5, 0.2, 0.3])
    k = torch.tensor(list(itertools.product(range(2), repeat=4))).view(-1, 1, 2, 2)
    found = bayes_classify(Coins(white), from_levels(k, 2), prior, known).exp()
    joint = prior * torch.where(k == 1, white, 1 - white)[:, :, :rows].flatten(2).prod(2)
    assert torch.allclose(found, (joint / joint.sum(1, keepdim=True)).double(), atol=1e-5)


def test_bayes_rule_is_naive_bayes_where_pixels_are_independent(data):
    x, y = data
    model = fit_bernoulli(x, y)
    coins = Coins(torch.from_numpy(np.exp(model.feature_log_prob_)).float().view(10, 8, 8))
    bits = (torch.from_numpy(x).view(-1, 1, 8, 8) > 0.5).float() * 2 - 1
    prior = torch.from_numpy(np.exp(model.class_log_prior_)).float()
    for rows in (None, 3):
        known = np.arange(64) < 8 * (rows or 8)
        found = bayes_classify(coins, bits, prior, upper(8, rows or 8))
        assert np.allclose(found, naive_bayes(model, x, known), atol=1e-3)


@pytest.mark.parametrize("name", ["gated-pixelcnn", "vae-conditional", "glow-conditional"])
def test_probabilities_of_classes_sum_to_one_and_a_prior_shifts_them(name):
    model = stirred(MAKERS[name]()).eval()
    images = digits(model.levels, 3, model.shape[0])[0]
    prior = torch.arange(1, 11) / 55
    seeded = [torch.Generator().manual_seed(0) for _ in range(2)]
    plain = bayes_classify(model, images, None, None, seeded[0])
    assert torch.allclose(plain.exp().sum(1), torch.ones(3, dtype=torch.float64))
    if name == "gated-pixelcnn":
        shifted = bayes_classify(model, images, prior)
        assert torch.allclose(shifted, (plain + prior.double().log()).log_softmax(1), atol=1e-4)


@pytest.mark.parametrize("generator", [None, "one", "each"])
@pytest.mark.parametrize("family", ["vae", "ddpm"])
def test_classes_that_are_alike_get_equal_probabilities(family, generator):
    """A bound is estimated with noise, which must not decide between them."""
    if family == "vae":
        model = stirred(MAKERS["vae-conditional"]()).eval()
        tables = [model.label, model.prior]
    else:
        model = stirred(DDPM(8, 1, 17, num_classes=3, widths=(8, 16), num_train_timesteps=30)).eval()
        tables = [model.unet.class_embedding]
    for table in tables:
        table.weight.data[1] = table.weight.data[0]
    images = digits(model.levels, 3)[0]
    generator = {"one": seeds(0)[0], "each": seeds(0, 1, 2)}.get(generator)
    first, second = (bayes_classify(model, images, generator=generator) for _ in range(2))
    assert torch.equal(first[:, 0], first[:, 1]) and not torch.equal(first[:, 0], first[:, 2])
    assert not torch.equal(first, second)  # the next call uses new random numbers


def test_models_and_questions_that_do_not_fit_raise():
    images = digits(2, 2)[0]
    with pytest.raises(ValueError, match="--conditional"):
        bayes_classify(MAKERS["vae"](), images)
    with pytest.raises(ValueError, match="leave out `known`"):
        bayes_classify(MAKERS["score-sde"](), digits(17, 2)[0], known=upper(8, 4))
    with pytest.raises(ValueError, match="prior must be 10"):
        bayes_classify(MAKERS["gated-pixelcnn"](), images, prior=torch.ones(3) / 3)


# --- missing pixels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", [fit_gaussian, fit_bernoulli])
def test_naive_bayes_with_missing_pixels_is_naive_bayes_trained_without_them(fit, data):
    x, y = data
    known = np.random.default_rng(0).random(64) < 0.5
    known[x.var(0).argmax()] = True  # scikit-learn smooths variances by the largest one
    hidden = np.where(known, x, 7.0)
    found = naive_bayes(fit(x, y), hidden, known)
    assert np.allclose(found, fit(x[:, known], y).predict_log_proba(x[:, known]), atol=1e-6)
    assert np.allclose(naive_bayes(fit(x, y), x), fit(x, y).predict_log_proba(x), atol=1e-6)
    each = np.random.default_rng(1).random(x.shape) < 0.5
    rows = np.concatenate([naive_bayes(fit(x, y), x[i : i + 1], each[i]) for i in range(5)])
    assert np.allclose(naive_bayes(fit(x, y), x[:5], each[:5]), rows)


def test_with_nothing_known_only_the_prior_is_left(data):
    x, y = data
    nothing = np.zeros(64, bool)
    assert np.allclose(np.exp(naive_bayes(fit_gaussian(x, y), x, nothing)), np.bincount(y) / len(y))
    assert np.allclose(impute(x, nothing, x.mean(0)), x.mean(0))
    assert (impute(x, ~nothing, x.mean(0)) == x).all()
    assert fit_logistic(x, y).score(x, y) > 0.95
    with pytest.raises(ValueError, match="known must be bool"):
        naive_bayes(fit_gaussian(x, y), x, nothing[:5])


# --- classifiers ----------------------------------------------------------------------------------------------------


@pytest.fixture
def autoencoder() -> Autoencoder:
    return Autoencoder(8, 1, 17, widths=(8, 16), latent_dim=8).eval()


def test_only_what_should_learn_learns(autoencoder):
    images, labels = digits(17, 64)
    before = {name: x.clone() for name, x in autoencoder.state_dict().items()}
    state = torch.get_rng_state()
    models = {start: train_classifier(autoencoder, images, labels, 10, start, steps=8) for start in STARTS}
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(x, before[name]) for name, x in autoencoder.state_dict().items())
    same = {
        start: [torch.equal(x, autoencoder.encoder.state_dict()[n]) for n, x in model.encoder.state_dict().items()]
        for start, model in models.items()
    }
    assert all(same["frozen"]) and not any(same["tuned"]) and not any(same["scratch"])
    assert {n: x.shape for n, x in models["frozen"].state_dict().items()} == {
        n: x.shape for n, x in models["scratch"].state_dict().items()
    }
    again = train_classifier(autoencoder, images, labels, 10, "scratch", steps=8)
    other = train_classifier(autoencoder, images, labels, 10, "scratch", steps=8, seed=1)
    assert torch.equal(again(images), models["scratch"](images)) and not torch.equal(other(images), again(images))


@pytest.mark.parametrize("start", STARTS)
def test_labels_are_learned_and_the_classifier_comes_back_from_disk(start, autoencoder, tmp_path):
    images, labels = digits(17, 64)
    model = train_classifier(autoencoder, images, labels, 10, start, steps=60, learning_rate=1e-2)
    assert (model.predict(images, batch=10) == labels).double().mean() > 0.8
    model.save_pretrained(tmp_path)
    assert torch.equal(Classifier.from_pretrained(tmp_path).eval()(images), model(images))


def test_bad_labels_raise(autoencoder):
    images, labels = digits(17, 8)
    with pytest.raises(ValueError, match=r"label in \[0, 3\)"):
        train_classifier(autoencoder, images, labels, 3)
    with pytest.raises(ValueError, match="unknown start 'cold'"):
        train_classifier(autoencoder, images, labels, 10, "cold")


# --- the experiments ------------------------------------------------------------------------------------------------


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


def results(folder: Path) -> list[dict]:
    assert {path.name for path in folder.iterdir()} == {"accuracies.csv", "accuracies.png"}
    return list(csv.DictReader((folder / "accuracies.csv").open()))


def test_few_labels_compares_three_starts(scripts, autoencoder, tmp_path, capsys):
    import few_labels

    autoencoder.save_pretrained(tmp_path / "ae")
    options = ["--labels", "2", "5", "--seeds", "2", "--steps", "5", "--train", "300", "--test", "50"]
    few_labels.main(["--autoencoder", str(tmp_path / "ae"), "--out", str(tmp_path / "out"), *options])
    rows = results(tmp_path / "out")
    assert [(r["method"], r["labels"], r["seed"]) for r in rows] == [
        (start, n, seed) for start in STARTS for n in "25" for seed in "01"
    ]
    assert all(0 <= float(r["accuracy"]) <= 1 for r in rows)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:4]] == list(STARTS)
    with pytest.raises(UsageError, match="fewer than 40 images of"):
        few_labels.main(["--autoencoder", str(tmp_path / "ae"), "--train", "300", "--labels", "40"])


def test_discriminative_against_generative(scripts, autoencoder, tmp_path):
    import discriminative_generative as script

    mixture = LinearMixture(8, 1, 17, num_classes=10, rank=12)
    mixture.fit(*digits(17, 600))
    runs = {"ae": autoencoder, "gated": MAKERS["gated-pixelcnn"](), "vae": MAKERS["vae-conditional"](), "gmm": mixture}
    for name, model in runs.items():
        model.save_pretrained(tmp_path / name / "best")
    (tmp_path / "gated" / "recipe.json").write_text('{"levels": 2, "per_class": 7}')
    blocks = [str(tmp_path / name / "best") for name in runs]
    options = ["--labels", "5", "--seeds", "2", "--train", "300", "--test", "20", "--out", str(tmp_path / "out")]
    script.main(["--blocks", *blocks, *options])
    rows = results(tmp_path / "out")
    found = {(r["method"], r["missing"], r["labels"]) for r in rows}
    for method in ("Gaussian naive Bayes, pixels", "logistic regression, ae", "Bernoulli naive Bayes, pixels"):
        assert {(method, m, n) for m in HALVES for n in ("5", "30")} <= found
    assert {m for method, m, _ in found if method == "Bayes' rule, GatedPixelCNN"} == {"none", "lower half"}
    for anywhere in ("VAE", "LinearMixture"):
        assert {m for method, m, _ in found if method == f"Bayes' rule, {anywhere}"} == set(HALVES)
    assert {(method, n) for method, _, n in found if "Bayes' rule" in method} == {
        ("Bayes' rule, GatedPixelCNN", "7"),
        ("Bayes' rule, VAE", "30"),
        ("Bayes' rule, LinearMixture", "30"),
    }
    mixed = {r["missing"]: float(r["accuracy"]) for r in rows if r["method"] == "Bayes' rule, LinearMixture"}
    assert min(mixed.values()) > 0.6
    best = {r["method"]: float(r["accuracy"]) for r in rows if (r["missing"], r["labels"]) == ("none", "30")}
    assert best["logistic regression, pixels"] > 0.6 and best["Gaussian naive Bayes, pixels"] > 0.6
    MAKERS["vae"]().save_pretrained(tmp_path / "plain")
    MAKERS["gated-pixelcnn-colour"]().save_pretrained(tmp_path / "unconditional")
    with pytest.raises(UsageError, match="--conditional"):
        script.main(["--blocks", str(tmp_path / "unconditional")])


def test_half_the_pixels_are_hidden_and_all_channels_of_one(scripts):
    from discriminative_generative import LOWER, RANDOM, masks

    found = {name: mask.reshape(5, 3, 7, 7) for name, mask in masks(torch.zeros(5, 3, 7, 7)).items()}
    assert found["none"].all() and found[LOWER][:, :, :4].all() and not found[LOWER][:, :, 4:].any()
    assert (found[RANDOM].sum((2, 3)) == 24).all() and (found[RANDOM] == found[RANDOM][:, :1]).all()
    assert not (found[RANDOM][0] == found[RANDOM][1]).all()
