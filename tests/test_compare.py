"""`t2i compare`: the same training time for every family, and one table of results."""

from __future__ import annotations

import csv
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import Chromium
from comparisons import ASK, BUDGET, begun
from generative_models import MAKERS
from PIL import Image

from t2i.checks import UsageError
from t2i.eval.evaluators.unconditional import distances, linear_probe, sample, strip
from t2i.eval.features import open_extractor
from t2i.models import CLASSES
from t2i.training.benchmark import family
from t2i.training.benchmark.compare import REAL, compare, families, main, result_file, seconds
from t2i.training.benchmark.page import page, row, summary, write
from t2i.training.recipes import RECIPES


def table(results: list[dict], out: Path) -> list[dict]:
    write(results, ASK, out)
    return list(csv.DictReader((out / "compare.csv").open()))


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[Path, dict[str, dict]]:
    out = begun(tmp_path_factory.mktemp("compare") / "out")
    return out, {name: family.run(out, name) for name in (REAL, "pca", "autoencoder", "vae")}


# --- what is compared -----------------------------------------------------------------------------------------------


def test_exactly_the_unconditional_models_are_compared():
    found = families()
    assert {block.__name__ for block in found.values()} == set(CLASSES)
    assert {"pca", "vae", "glow"} <= set(found) <= set(RECIPES)
    assert not {"vqvae-toybox", "toybox-v1-classifier", "ldm-toybox"} & set(found)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_all_families_have_the_same_images_and_training_time(levels: int, tmp_path):
    for name in families():
        recipe = family.configured(
            replace(ASK, levels=levels, learning_rate=0.5, mixed_precision="bf16"), name, tmp_path / name
        )
        data = recipe.data
        assert (data.data, data.levels, data.image_size, data.scored, data.patience) == ("digits", levels, None, 50, 0)
        assert getattr(recipe.model, "pixels", "bernoulli" if levels == 2 else "logistic") == (
            "bernoulli" if levels == 2 else "logistic"
        )
        if not hasattr(recipe, "fit"):
            loop = recipe.loop
            assert (loop.max_train_time, loop.learning_rate, loop.resume) == (BUDGET, 0.5, None)
            assert loop.mixed_precision == "bf16"
            assert loop.max_train_steps / loop.checkpointing_steps == family.CHECKPOINTS


@pytest.mark.parametrize(("text", "wanted"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("7", 7), (".5s", 0.5)])
def test_budgets_are_times(text: str, wanted: float):
    assert seconds(text) == wanted


MISTAKES = [
    (["--budget", "soon"], "a time such as 90s"),
    (["--budget", "0s"], "a time such as 90s"),
    (["--families", "vea"], "did you mean vae?"),
    (["--num-images", "1"], "at least 2"),
    (["--levels", "1"], r"\[2, 256\]"),
    (["--learning-rate", "0"], "above 0"),
    (["--data", "./nowhere"], "there is no folder"),
    (["--extractor", "randon"], "did you mean random?"),
]


@pytest.mark.parametrize(("args", "says"), MISTAKES, ids=lambda a: " ".join(a) if isinstance(a, list) else "")
def test_invalid_options_raise_before_anything_is_written(args, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UsageError, FileNotFoundError), match=says):
        main(args)
    assert list(tmp_path.iterdir()) == []


# --- measures -------------------------------------------------------------------------------------------------------


def test_a_trained_family_is_evaluated(measured):
    out, found = measured
    assert [r["error"] for r in found.values()] == [None] * 4
    vae = found["vae"]
    kept = json.loads((out / "runs" / "vae" / "best" / "scores.json").read_text())["test"]
    assert vae["likelihood"] == {"kind": "bound", "continuous": False} | {
        k: kept[k] for k in ("nats", "bits", "pictures")
    }
    training = vae["training"]
    assert training["stable"] and BUDGET <= training["seconds"] < BUDGET + 5
    assert training["images"] == 64 * training["steps"] and 0 < training["seconds_per_step"] <= training["seconds"]
    assert training["loss_increases"] < training["checkpoints"] and training["peak_memory_mb"]["process"] > 100
    assert vae["sampling"]["samples"] == vae["distances"]["samples"] == vae["distances"]["test"] == 60
    assert vae["latents"]["numbers"] == 10 and vae["model"]["levels"] == 17
    x = [x for x, _ in vae["curve"]["points"]]
    assert vae["curve"]["what"] == "bits" and x == sorted(x) and x[-1] <= training["seconds"]
    assert json.loads(result_file(out, "vae").read_text()) == vae


def test_metrics_that_do_not_apply_are_omitted(measured):
    _, found = measured
    auto, pca = found["autoencoder"], found["pca"]
    assert auto["likelihood"]["kind"] == "none" and "nats" not in auto["likelihood"]
    assert "sampling" not in auto and "distances" not in auto and auto["curve"]["what"] == "loss"
    assert pca["training"]["fitted"] and "steps" not in pca["training"] and "curve" not in pca
    assert pca["model"]["parameters"] > 20 * 64  # its principal components
    assert pca["likelihood"]["kind"] == "exact" and pca["likelihood"]["continuous"]


def test_no_samples_are_closer_to_real_images_than_real_images(measured):
    _, found = measured
    real = found[REAL]["distances"]
    assert all(real[k] < found[name]["distances"][k] for k in ("fd", "kid") for name in ("pca", "vae"))
    assert abs(real["kid"]) < 0.2 * found["pca"]["distances"]["kid"]


def test_the_probe_separates_informative_latents_from_noise():
    labels = torch.arange(200) % 4
    known = torch.eye(4)[labels] + 0.1 * torch.randn(200, 4)
    assert linear_probe(known[:100], labels[:100], known[100:], labels[100:]) == 1
    assert linear_probe(torch.randn(100, 4), labels[:100], torch.randn(100, 4), labels[100:]) < 0.6


def test_sampling_uses_labels_and_stops_at_its_time_limit():
    model = MAKERS["vae-conditional"]().eval()
    labels = torch.tensor([3, 7])
    images, per_thousand = sample(model, 5, labels, 0, limit=60)
    assert images.shape == (5, *model.shape) and per_thousand > 0
    again, _ = sample(model, 5, labels, 0, limit=60)
    assert torch.equal(images, again)
    few, _ = sample(model, 250, labels, 0, limit=1e-9)
    assert len(few) == 100  # at least one batch is generated


def test_a_set_has_no_distance_to_itself():
    images = torch.rand(40, 1, 8, 8) * 2 - 1
    found = distances(open_extractor("random"), images, images)
    assert found["fd"] == pytest.approx(0, abs=1e-6) and found["names"] == ["FD[random]", "KID[random]"]
    assert distances(open_extractor("random"), images / 2, images)["fd"] > 0.1


def test_strips_enlarge_by_whole_factors():
    assert strip(torch.zeros(20, 1, 8, 8)).size == (8 * 34 - 2, 2 * 34 - 2)
    assert strip(torch.zeros(3, 3, 28, 28)).size == (8 * 30 - 2, 28)
    pixels = np.array(strip(torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)))
    assert len(np.unique(pixels[:32, :32, 0])) == 64


# --- failures -------------------------------------------------------------------------------------------------------


def test_a_diverged_family_has_an_error_in_its_row(tmp_path):
    out = begun(tmp_path / "out", replace(ASK, learning_rate=1e30))
    found = family.run(out, "nice")
    assert "the loss is" in found["error"] and "--" not in found["error"] and not found["training"]["stable"]
    assert "sampling" not in found  # earlier measurements are discarded too
    [line] = table([found], out)
    assert line["stable"] == "False" and line["error"] == found["error"] and line["nats"] == ""
    assert f"nice: {found['error']}" in summary([found])


def test_a_family_without_a_best_checkpoint_has_an_error_in_its_row(tmp_path):
    found = {"error": None}
    family._measure(ASK, tmp_path, "nice", found)
    assert found == {"error": "it has no best checkpoint"}


def test_a_nan_loss_counts_as_an_increase(tmp_path):
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / "scores.json").write_text(json.dumps({"history": [3.0, 2.0, 2.0, math.nan]}))
    told = family._statistics([{"seconds": 1.0, "step": 1, "images": 64}], tmp_path)
    assert told["loss_increases"] == 1 and told["checkpoints"] == 4


def test_a_family_that_does_not_fit_the_images_has_an_error_in_its_row(tmp_path):
    out = begun(tmp_path / "out", replace(ASK, image_size=9))
    found = family.run(out, "glow")
    assert "cannot be halved" in found["error"] and result_file(out, "glow").is_file()
    assert table([found], out)[0]["stable"] == ""


# --- the folder -----------------------------------------------------------------------------------------------------


def test_finished_families_are_not_run_again_and_other_settings_raise(measured, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(measured[0], out)
    ask = replace(ASK, out=str(out), families=("vae", "pca"), levels=None, extractor="auto", budget="0.4")
    written = compare(ask)
    assert capsys.readouterr().out.count("already done") == 3
    assert written.is_file() and "autoencoder" in written.read_text()  # by an earlier call
    file = result_file(out, "vae")
    file.write_text(json.dumps({"family": "vae", "error": "it broke"}))
    compare(ask)
    assert f"vae failed: it broke; remove {file} to try again" in capsys.readouterr().out
    assert "trained again if its result" in written.read_text()
    with pytest.raises(FileExistsError, match=r"num_images: 60 -> 61.*choose another --out"):
        compare(replace(ask, num_images=61))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(FileExistsError, match="something other"):
        compare(replace(ask, out=str(tmp_path / "full")))


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_csv_has_a_line_for_each_family(measured):
    out, found = measured
    lines = table(list(found.values()), out)
    assert [line["family"] for line in lines] == list(found)
    assert list(lines[0]) == list(row({"family": "x", "error": "its process was ended by signal 9"}))
    assert float(lines[3]["nats"]) == found["vae"]["likelihood"]["nats"]
    assert lines[0]["nats"] == lines[2]["nats"] == "" and lines[1]["likelihood_of"] == "density"


def test_values_from_fewer_images_state_their_number(measured):
    out, found = measured
    less = found["vae"] | {"likelihood": found["vae"]["likelihood"] | {"pictures": 7}}
    shown = page([*found.values(), less], ASK, out)
    assert shown.count("(n = 7)") == 2 and "Likelihood: of 50 test images" in shown
    assert "Exceptions: pca, fitted in closed form or by EM to at most 10,000 images" in shown


def test_published_values_are_shown_for_mnist_only(measured):
    out, found = measured
    glow = {"family": "glow", "error": None}
    assert found[REAL]["data"]["shape"] == (1, 8, 8) and "Published" not in page([*found.values(), glow], ASK, out)
    mnist = found[REAL] | {"data": found[REAL]["data"] | {"shape": (1, 28, 28), "levels": 256}}
    shown = page([mnist, glow], ASK, out)
    assert "Published bits/dim" in shown and ">1.05<" in shown and "60,000 images" in shown
    binarised = mnist | {"data": mnist["data"] | {"levels": 2}}
    assert "Published nats" in page([binarised, glow], ASK, out)


def test_the_page_works_in_a_browser(measured, tmp_path):
    out, found = measured
    dead = {"family": "glow", "error": "</script><img src=x onerror=\"document.title='caught'\">"}
    write([*found.values(), dead], ASK, out)
    browser = Chromium(tmp_path / "profile")
    try:
        browser.open(out / "compare.html")
        pictures = "[...document.images].every((i) => i.complete && i.naturalWidth > 0) && document.images.length"
        assert browser.run(pictures) == 4
        names = "[...document.querySelectorAll('.families .what')].map((c) => c.textContent).join(' ')"
        assert browser.run(names) == "real images pca autoencoder vae glow"
        head = "[...document.querySelectorAll('.families th')].find((h) => h.textContent === 'FD[random]')"
        browser.run(f"{head}.querySelector('button').click()")
        shown = browser.run(names).split()
        assert shown[:2] == ["real", "images"] and set(shown[-2:]) == {"autoencoder", "glow"}  # rows without a value
        assert browser.run("document.querySelectorAll('.curve').length") == 2
        browser.screenshot(tmp_path / "phone.png", 390)
        assert browser.run("document.documentElement.scrollWidth") <= 390
        assert "caught" not in browser.run("document.title") and browser.errors == []
    finally:
        browser.close()


def test_the_page_shows_the_samples(measured):
    out, _ = measured
    with Image.open(out / "families" / "vae.png") as image:
        assert len(np.unique(np.array(image))) <= 18  # 17 levels and white in between
