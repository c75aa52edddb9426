"""Latents: traversals, the mutual information gap, data with known factors, and the command."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from generative_models import MAKERS, VAE_SIZES, digits, pictures, stirred
from PIL import Image
from torch.distributions import Normal, kl_divergence

from t2i.data.factors import FACTORS, ToyboxFactors, held_out
from t2i.data.splits import open_splits
from t2i.data.toybox_v1 import HELD_OUT
from t2i.models.analysis import traversals
from t2i.models.analysis.disentanglement import entropies, mig, mutual_information
from t2i.models.latent_variable.autoencoder import Autoencoder
from t2i.models.latent_variable.vae import VAE

SCRIPT = Path(__file__).parents[1] / "scripts" / "latents.py"


def model_of(name: str):
    model = MAKERS[name]()
    if hasattr(model, "fit"):
        model.fit(digits(17, 60)[0])
        return model
    return stirred(model).eval()


def plane_model() -> VAE:
    return stirred(VAE(**VAE_SIZES, latent_dim=2)).eval()


# --- traversals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vae", "vae-conditional", "autoencoder", "pca", "hvae"])
def test_a_traversal_changes_one_latent_and_passes_through_the_image(name):
    model = model_of(name)
    images, y = pictures(model, 4)
    z = model.encode(images, y).detach()
    values = torch.tensor([-1.0, z[0, 1].item(), 2.0])
    row = traversals.traversal(model, z[0], 1, values, None if y is None else y[0])
    own = model.decode(z, y)[0]
    assert torch.allclose(row[1], own, atol=1e-4) and not torch.allclose(row[2], own, atol=1e-4)
    moved = z[:1].clone()
    moved[0, 1] = 2.0
    assert torch.allclose(row[2:], model.decode(moved, None if y is None else y[:1]), atol=1e-4)
    sheets = {(r, s): traversals.traversals(model, images, y, r, s) for r, s in ((2, 5), (3, 5), (2, 7))}
    cell, gap = 64, 8  # as in contact_sheet: a gap, then each image and a gap
    assert all(sheet.width == gap + steps * (cell + gap) for (_, steps), sheet in sheets.items())
    one, rest = divmod(sheets[2, 5].height - gap, 2)
    assert rest == 0 and one > cell + gap  # with a label below each
    assert sheets[2, 7].height == gap + 2 * one and sheets[3, 5].height == gap + 3 * one


def test_use_is_the_kl_to_the_prior_and_rows_come_by_it():
    model, (images, _) = model_of("vae"), pictures(model_of("vae"), 8)
    model.to_posterior.weight.data[[0, 3]] = 0  # mean and log σ of the first dimension: the prior's
    model.to_posterior.bias.data[[0, 3]] = 0
    model.to_posterior.bias.data[1] = 40
    mean, log_std = model.posterior(images)
    used = traversals.use_of_latents(model, images)
    expected = kl_divergence(Normal(mean, log_std.exp()), Normal(0.0, 1.0)).mean(0)
    assert torch.allclose(used, expected, rtol=1e-4, atol=1e-5)
    assert used[0].abs() < 1e-6 and used.argmax() == 1
    one = traversals.traversals(model, images, rows=1, steps=3)
    first = traversals.traversal(model, mean[0], 1, torch.tensor([-2.0, 0.0, 2.0]))
    cell = np.array(one)[8 : 8 + 64, 8 : 8 + 64][4::8, 4::8, 0]  # the first image of the row, enlarged eight times
    assert np.abs(cell - ((first[0, 0].detach().numpy() + 1) * 127.5)).max() < 1


def test_the_use_of_codes_without_a_prior_is_their_variance():
    model = model_of("pca")
    images = digits(17, 60)[0]
    used = traversals.use_of_latents(model, images)
    assert torch.allclose(used, model.encode(images).var(0, correction=0))
    assert used.argsort(descending=True).tolist() == list(range(6))  # sorted as principal components are


def test_the_plane_is_a_grid_of_equal_shares_of_the_prior():
    model, asked = plane_model(), []
    decode = model.decode
    model.decode = lambda z: asked.append(z) or decode(z)  # record the latents that it decodes
    images = traversals.plane(model, 5)
    shares = Normal(0.0, 1.0).cdf(asked[0]).view(5, 5, 2)
    ramp = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    assert torch.allclose(shares[..., 0], ramp.expand(5, 5), atol=1e-5)
    assert torch.allclose(shares[..., 1], ramp.flip(0)[:, None].expand(5, 5), atol=1e-5)
    whole = np.array(traversals.manifold(model, 5))
    assert whole.shape == (40, 40, 3)
    tile = (images[5 * 1 + 3, 0].detach().numpy() + 1) * 127.5  # second row, fourth column
    assert np.abs(whole[8:16, 24:32, 0] - tile).max() < 1


def test_interpolations_lead_from_one_image_to_the_other():
    model = model_of("vae")
    images, _ = pictures(model, 4)
    first, last = images[:2], images[2:]
    way = traversals.between(model, first, last, 5)
    assert way.shape == (2, 5, 1, 8, 8)
    for k, ends in ((0, first), (4, last)):
        assert torch.allclose(way[:, k], model.decode(model.encode(ends)), atol=1e-5)
    back = traversals.between(model, last, first, 5)
    assert torch.allclose(way, back.flip(1), atol=1e-4)
    assert isinstance(traversals.interpolations(model, first, last), Image.Image)


def test_models_without_such_latents_are_refused():
    with pytest.raises(ValueError, match="has no latents"):
        traversals.use_of_latents(MAKERS["pixelcnn"](), digits(2)[0])
    for name in ("vae", "vae-conditional", "pca"):
        with pytest.raises(ValueError, match="--latent-dim 2"):
            traversals.plane(model_of(name))


# --- the mutual information gap -------------------------------------------------------------------------------------


@pytest.fixture
def factors() -> np.ndarray:
    return np.random.default_rng(0).integers(0, (3, 5, 8), (20_000, 3))


def test_latents_that_are_the_factors_have_gap_one_in_any_order(factors):
    noise = np.random.default_rng(1).normal(size=(len(factors), 2))
    latents = np.concatenate([factors[:, [2, 0, 1]], noise], axis=1)
    assert mig(latents, factors) == pytest.approx(1, abs=0.01)
    shuffled = latents[:, [3, 1, 4, 0, 2]]
    assert mig(shuffled, factors) == pytest.approx(mig(latents, factors), abs=1e-9)


def test_noise_and_rotations_have_no_gap(factors):
    rng = np.random.default_rng(1)
    assert mig(rng.normal(size=(len(factors), 4)), factors) == pytest.approx(0, abs=0.01)
    square = rng.integers(0, 10, (20_000, 2))
    rotated = (square - 4.5) @ np.array([[1.0, 1.0], [-1.0, 1.0]])
    assert mig(square, square) == pytest.approx(1, abs=0.01)
    assert mig(rotated, square) < 0.02
    twice = np.concatenate([factors, factors], axis=1)  # each encoded by two latents
    assert mig(twice, factors) == pytest.approx(0, abs=1e-9)


def test_scales_and_signs_of_latents_do_not_matter(factors):
    latents = factors + np.random.default_rng(1).normal(size=factors.shape)
    before = mig(latents, factors)
    assert 0.1 < before < 0.9
    assert mig(latents * [3.0, -0.01, 1e4] + [5.0, 0.0, -2.0], factors) == pytest.approx(before, abs=1e-3)


def test_information_is_that_of_the_definition():
    factor = np.repeat([0, 1], [300, 100])
    copy, other = factor * 2.0 - 7, np.tile([0.0, 1.0], 200)
    found = mutual_information(np.stack([copy, other], 1), factor[:, None])
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert found[0] == pytest.approx([entropy, 0], abs=1e-9)
    assert entropies(factor[:, None]) == pytest.approx([entropy])


def test_bad_latents_and_factors_are_refused(factors):
    latents = factors.astype(float)
    for bad_latents, bad_factors, says in (
        (latents[:5], factors, "need latents"),
        (latents[:, 0], factors, "need latents"),
        (latents, latents, "must be integers"),
        (latents * np.nan, factors, "NaN"),
        (latents[:, :1], factors, "two latents"),
        (latents, np.zeros_like(factors), "same value"),
    ):
        with pytest.raises(ValueError, match=says):
            mig(bad_latents, bad_factors)
    with pytest.raises(ValueError, match="bins must"):
        mig(latents, factors, bins=1)


# --- data with factors ----------------------------------------------------------------------------------------------


def test_factors_are_independent_and_cover_all_values():
    data = ToyboxFactors(32, 0, 4000)
    factors = np.stack([data.factors(i) for i in range(len(data))])
    for column, values in zip(factors.T, FACTORS.values(), strict=True):
        counts = np.bincount(column, minlength=len(values))
        assert len(counts) == len(values) and counts.min() > 0.6 * len(data) / len(values)
    assert mutual_information(factors[:, :3], factors[:, 3:]).max() < 0.1
    assert not any((c, k) in HELD_OUT for k in FACTORS["kind"] for c in FACTORS["colour"])
    again = ToyboxFactors(32, 0, 10)
    assert (again[3]["image"] == data[3]["image"]).all() and (again[3]["factors"] == data[3]["factors"]).all()


def test_an_image_shows_its_factors():
    """The same thing elsewhere is the shifted image; larger, it covers more; the caption names kind and colour."""
    from t2i.data.factors import render

    base = np.array([0, 0, 4, 4, 1])
    image = render(base, 32)
    for factor, axis in ((2, 1), (3, 0)):
        moved = base.copy()
        moved[factor] += 3
        assert (render(moved, 32) == np.roll(image, 3, axis)).all()  # a step is one pixel at this size
    covered = [(render(np.array([0, 0, 4, 4, s]), 32) < 200).any(2).sum() for s in range(4)]
    assert all(np.diff(covered) > 0)
    for size in (16, 32, 50):  # no cropped objects at any size
        corners = [render(np.array([k, 3, x, y, 3]), size) for k in range(4) for x in (0, 16) for y in (0, 16)]
        covered = np.array([(c < 200).any(2).sum() for c in corners]).reshape(4, 4)
        assert (np.ptp(covered, axis=1) <= 0.15 * covered.mean(1)).all()
    item = ToyboxFactors(32)[0]
    kind, colour = (FACTORS[name][i] for name, i in zip(("kind", "colour"), item["factors"], strict=False))
    assert item["text"] == f"a {colour} {kind}" and item["label"] == item["factors"][0]


def test_toybox_factors_are_data_of_the_blocks():
    splits = open_splits("toybox-factors", 16)
    assert splits.classes == FACTORS["kind"] and (splits.channels, splits.levels) == (3, 256)
    assert splits.train[0]["image"].shape == (16, 16, 3) and len(splits.test) == 10_000
    learned, tested = ({tuple(part.factors(i)) for i in range(2000)} for part in (splits.train, splits.test))
    assert not learned & tested and held_out().sum() == held_out().size // 10
    with pytest.raises(ValueError, match="unknown part 'some'"):
        ToyboxFactors(part="some")
    assert list(splits.train.captions(1)) == [splits.train[0]["text"]]
    with pytest.raises(ValueError, match="at least 16"):
        ToyboxFactors(8)
    with pytest.raises(IndexError):
        splits.test[10_000]


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("latents", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["latents"] = module  # dataclasses look up their module
    spec.loader.exec_module(module)
    return module


def test_the_command_plots_latents_and_scores_known_factors(tmp_path, script, capsys):
    model = stirred(VAE(16, 3, 256, widths=(8, 16), latent_dim=2, pixels="logistic"))
    model.save_pretrained(tmp_path / "best")
    sizes = ["--num-images", "50", "--rows", "3"]
    script.main([str(tmp_path / "best"), "--data", "toybox-factors", "--out", str(tmp_path / "out"), *sizes])
    names = {"traversals.png", "interpolation.png", "manifold.png", "information.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[2 : 2 + len(FACTORS)]] == list(FACTORS)
    assert any(line.startswith("MIG 0.") for line in lines)


def test_the_command_takes_labels_and_models_without_a_prior(tmp_path, script):
    two = Autoencoder(8, 1, 17, widths=(8, 16), latent_dim=2)  # latents without a prior, hence without a manifold plot
    for name, model in {"vae-conditional": model_of("vae-conditional"), "pca": model_of("pca"), "two": two}.items():
        model.save_pretrained(tmp_path / name)
        script.main([str(tmp_path / name), "--out", str(tmp_path / "out" / name), "--rows", "2", "--num-images", "40"])
        assert {path.name for path in (tmp_path / "out" / name).iterdir()} == {"traversals.png", "interpolation.png"}


def test_invalid_arguments_are_one_clear_line(tmp_path, script):
    MAKERS["gated-pixelcnn"]().save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="no latents"):
        script.main([str(tmp_path / "model")])
    with pytest.raises(FileNotFoundError, match="no model in nowhere"):
        script.main(["nowhere"])
    with pytest.raises(ValueError, match="name the folder"):
        script.main([])
