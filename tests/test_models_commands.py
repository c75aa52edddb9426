"""`t2i sample`, `t2i eval RUN` and `plot_fid_curve.py`: commands for trained unconditional models."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import importlib.util
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2i.cli import main
from t2i.data.levels import PreparePixels, first_levels
from t2i.eval.evaluators.likelihood import nats
from t2i.models import load_pretrained
from t2i.models.base import from_levels
from t2i.runs import open_training_data
from t2i.training.cli import run
from t2i.training.recipes import RECIPES

SCRIPTS = Path(__file__).parents[1] / "scripts"
FITTED = ("pca",)


def trained(name: str, folder: Path, **options) -> Path:
    """A run of the tiny preset, made even smaller."""
    tiny = RECIPES[name]("tiny")
    if name in FITTED:
        run(dataclasses.replace(tiny, output_dir=str(folder), fitted=100, **options))
        return folder
    sizes = {"max_train_steps": 4, "train_batch_size": 8, "checkpointing_steps": 2, "dataloader_num_workers": 0}
    data = {"scored": 20}
    run(
        dataclasses.replace(
            tiny,
            data=dataclasses.replace(tiny.data, **data),
            loop=dataclasses.replace(tiny.loop, output_dir=str(folder), report_to="none", **sizes),
            **options,
        )
    )
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    made = {name: trained(name, folder / name) for name in ("pca", "vae", "glow", "autoencoder", "cyclegan")}
    return made | {"pixels": trained("gated-pixelcnn", folder / "pixels", conditional=True)}


# --- t2i sample -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pca", "vae", "glow", "pixels"])
def test_each_image_depends_on_its_seed_only(name, runs, tmp_path):
    main(["sample", str(runs[name]), "--num-images", "3", "--out", f"{tmp_path}/all/", *_label(name)])
    main(["sample", str(runs[name]), "--num-images", "1", "--seed", "2", "--out", f"{tmp_path}/one/", *_label(name)])
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == ["0.png", "1.png", "2.png"]
    alone, among = (np.asarray(Image.open(tmp_path / f / "2.png"), dtype=int) for f in ("one", "all"))
    assert np.abs(alone - among).max() <= 1 and among.shape == (8, 8, 3)
    assert Image.open(tmp_path / "one" / "2.png").text["seed"] == "2"


def _label(name: str) -> list[str]:
    return ["--label", "7"] if name == "pixels" else []


def test_completion_keeps_the_upper_halves_of_test_images(runs, tmp_path):
    main(["sample", str(runs["pixels"]), "--num-images", "5", "--complete", "--out", f"{tmp_path}/"])
    k, _ = first_levels(open_training_data(runs["pixels"]).test, PreparePixels(2, 1), 5)
    drawn_now = np.stack([np.asarray(Image.open(tmp_path / f"{i}.png"))[..., 0] > 127 for i in range(5)])
    assert (drawn_now[:, :4] == k[:, 0, :4].bool().numpy()).all()
    assert (drawn_now[:, 4:] != k[:, 0, 4:].bool().numpy()).any()


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("vae", ["--complete"], "does not generate pixel by pixel"),
        ("vae", ["--label", "3"], "trained without labels"),
        ("vae", ["--temperature", "0.5"], "takes no --temperature"),
        ("vae", ["--method", "ode"], "takes no --method"),
        ("vae", ["--method", "ode", "--steps", "5"], "--method ode takes no --steps"),
        ("glow", ["--temperature", "-1"], "--temperature must be at least 0"),
        ("glow", ["--temperature", "nan"], "--temperature must be at least 0"),
        ("pixels", ["--label", "12"], "unknown label"),
        ("pixels", ["--complete", "--num-images", "5000"], "test images to complete"),
        ("autoencoder", [], "nothing to sample from"),
        ("vae", ["--num-images", "0"], "--num-images must be at least 1"),
        ("vae", ["--out", "x.gif"], r"must end in \.png"),
    ],
)
def test_options_that_do_not_apply_raise(name, options, said, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=said) as error:
        main(["sample", str(runs[name]), *options])
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_lower_temperature_narrows_the_samples_of_a_flow(runs, tmp_path):
    spread = []
    for temperature in ("0.1", "1"):
        options = ["--num-images", "16", "--temperature", temperature, "--out", f"{tmp_path}/{temperature}/"]
        main(["sample", str(runs["glow"]), *options])
    spread = [
        np.stack([np.asarray(Image.open(p)) for p in (tmp_path / t).iterdir()]).std(0).mean() for t in ("0.1", "1")
    ]
    assert spread[0] < 0.5 * spread[1]


def test_a_score_sde_and_a_ddpm_take_their_sampling_options(tmp_path):
    pictures = {}
    for name, options in (
        ("score-sde", ["--method", "sde", "--steps", "5"]),
        ("score-sde", ["--method", "ode"]),
        ("ddpm", ["--eta", "0", "--steps", "5"]),
        ("ddpm", ["--eta", "1", "--steps", "5"]),
    ):
        run = tmp_path / name
        if not run.exists():
            trained(name, run)
        out = tmp_path / f"{name}-{options[1]}.png"
        main(["sample", str(run), "--num-images", "2", *options, "--out", str(out)])
        pictures[out.name] = np.asarray(Image.open(out)).tobytes()
    assert len(set(pictures.values())) == 4


@pytest.mark.parametrize("name", ["cyclegan", "characters"])
def test_models_with_another_interface_name_their_class(name, runs, tmp_path):
    run = runs.get(name) or trained_text(tmp_path / name)
    with pytest.raises(ValueError, match="open it in Python with ") as error:
        load_pretrained(run)
    said = re.search(r"with (?P<module>[\w.]+)\.(?P<name>\w+)\.from_pretrained\('(?P<folder>.+)'\)$", str(error.value))
    opened = getattr(importlib.import_module(said["module"]), said["name"]).from_pretrained(said["folder"])
    assert type(opened).__name__ == said["name"]


def trained_text(folder: Path) -> Path:
    tiny = RECIPES["characters"]("tiny")
    sizes = {"max_train_steps": 2, "train_batch_size": 4, "checkpointing_steps": 2, "dataloader_num_workers": 0}
    run(dataclasses.replace(tiny, loop=dataclasses.replace(tiny.loop, output_dir=str(folder), **sizes)))
    return folder


# --- t2i eval RUN ---------------------------------------------------------------------------------------------------


def evaluated(out: Path, *args: str) -> tuple[dict[str, dict], dict]:
    main(["eval", *args, "--out", str(out)])
    report = json.loads((out / "report.json").read_text())
    return {score["name"]: score for score in report["scores"]}, report


def test_bits_are_those_of_the_run_and_of_the_library(runs, tmp_path):
    names = ("vae", "glow", "pixels", "pca")
    found, report = evaluated(tmp_path, *(str(runs[n]) for n in names), "--num-images", "20")
    of = {name: {key: found[f"{key} of {runs[name]}"] for key in ("nats/image", "bits/dim")} for name in names}
    for name in ("vae", "glow", "pixels"):
        scores = json.loads((runs[name] / "best" / "scores.json").read_text())["test"]
        bits = of[name]["bits/dim"]
        assert of[name]["nats/image"]["value"] == pytest.approx(scores["nats"], rel=1e-5)
        assert bits["low"] < scores["bits"] < bits["high"]
        assert bits["value"] == pytest.approx(scores["nats"] / (64 * math.log(2)), rel=1e-5)
    compared = [name for name in found if " more than " in name]
    assert compared == [f"nats/image more than {runs['vae']}: {runs['pixels']}"]  # the others differ in levels
    more = found[compared[0]]
    k, labels = first_levels(open_training_data(runs["vae"]).test, PreparePixels(2, 1), 20)
    vae, pixels = (nats(load_pretrained(runs[name]), from_levels(k, 2), labels).double() for name in ("vae", "pixels"))
    assert more["value"] == pytest.approx((pixels - vae).mean().item(), rel=1e-4)
    assert more["low"] < more["value"] < more["high"]
    [table] = report["tables"]
    assert [row[:3:2] for row in table["rows"]] == [
        [str(runs[name]), kind]
        for name, kind in zip(names, ("bound", "density, exact", "exact", "density, exact"), strict=True)
    ]


def test_a_run_is_evaluated_as_a_pipeline_is(runs, tmp_path):
    """Sampled with resumption, compared with its own test images, and searched for its own training images."""
    args = [str(runs["vae"]), "--num-images", "60", "--extractor", "random", "--batch-size", "30"]
    found, report = evaluated(tmp_path / "out", *args)
    assert {"FD[random]", "KID[random]", "near copies[random]", "nats/image", "linear probe of the latents"} <= set(
        found
    )
    assert found["FD[random]"]["n"] == 60 and found["FD[random]"]["ceiling"] < found["FD[random]"]["value"]
    assert "600 training images" in " ".join(report["notes"])
    first, files = (tmp_path / "out" / "report.json").read_bytes(), list((tmp_path / "out" / "images").iterdir())
    times = {path: path.stat().st_mtime_ns for path in files}
    evaluated(tmp_path / "out", *args)
    assert (tmp_path / "out" / "report.json").read_bytes() == first and len(files) == 60
    assert times == {path: path.stat().st_mtime_ns for path in files}
    found, report = evaluated(tmp_path / "auto", str(runs["autoencoder"]), "--num-images", "60")
    assert list(found) == ["linear probe of the latents"]  # it can neither sample nor compute likelihoods
    assert any("fid was left out: Autoencoder models cannot sample" in note for note in report["notes"])


@pytest.mark.parametrize("metric", ["lecture", "bias"])
def test_metrics_of_prompts_need_a_pipeline(runs, tmp_path, metric):
    with pytest.raises(SystemExit, match="this metric needs a pipeline with prompts"):
        evaluated(tmp_path, str(runs["vae"]), "--metrics", metric)


def test_more_samples_bring_the_bound_nearer(runs):
    k, labels = first_levels(open_training_data(runs["vae"]).test, PreparePixels(2, 1), 60)
    model, images = load_pretrained(runs["vae"]), from_levels(k, 2)
    once, often = (float(nats(model, images, labels, samples=s).mean()) for s in (1, 30))
    assert often < once


def test_deterministic_bits_do_not_depend_on_the_batch_size(runs):
    k, labels = first_levels(open_training_data(runs["pixels"]).test, PreparePixels(2, 1), 7)
    model, images = load_pretrained(runs["pixels"]), from_levels(k, 2)
    whole, parts = (nats(model, images, labels, batch_size=b) for b in (7, 3))
    torch.testing.assert_close(whole, parts)


def test_bits_of_a_model_without_likelihood_raise(runs, tmp_path):
    for argument, said in ((runs["autoencoder"], "neither a likelihood"), (runs["cyclegan"], "`t2i eval` do not take")):
        with pytest.raises(SystemExit, match=said):
            main(["eval", str(argument), "--metrics", "likelihood", "--out", str(tmp_path / "x")])
    with pytest.raises(ValueError, match="give the folder of such a run"):
        open_training_data(runs["cyclegan"])


# --- the curve of distances -----------------------------------------------------------------------------------------


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("plot_fid_curve", SCRIPTS / "plot_fid_curve.py")
    module = sys.modules["plot_fid_curve"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_translations_have_a_curve_each_way(runs, script, capsys):
    script.main([str(runs["cyclegan"]), "--samples", "20", "--extractor", "random"])
    rows = list(csv.reader((runs["cyclegan"] / "fid.csv").open()))
    ways = ("white to toybox-v1:zebra", "zebra to toybox-v1:white")
    assert rows[0] == ["step", *(f"FD[random] of toybox-v1:{way}" for way in ways)]
    assert [row[0] for row in rows[1:]] == ["2", "4"] and all(float(x) > 0 for row in rows[1:] for x in row[1:])
    assert (runs["cyclegan"] / "fid.png").is_file()


def test_runs_without_samples_have_no_curve(runs, script):
    with pytest.raises(ValueError, match="nothing to sample from"):
        script.main([str(runs["autoencoder"])])
