"""Data and recipes of the unconditional models: splits, levels, scores on held-out images, early stopping."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

from t2i.data.labelled import Labelled, read_idx
from t2i.data.levels import PreparePixels
from t2i.data.sources import open_source
from t2i.data.splits import Part, open_splits
from t2i.manifest import write_manifest
from t2i.models import load_pretrained
from t2i.training.cli import run
from t2i.training.evaluation import CheckpointEvaluator
from t2i.training.recipes import RECIPES
from t2i.training.unconditional import UnconditionalDataConfig

BLOCKS = ("vae", "gated-pixelcnn", "glow")
OTHERS = ("autoencoder", "hvae", "pixelrnn", "pixelcnn", "pixelcnn-pp", "nice", "realnvp", "ddpm", "score-sde")


def recipe(name: str, folder: Path, data: dict | None = None, conditional: bool = False, **loop):
    """The tiny preset, made even smaller."""
    tiny = RECIPES[name]("tiny")
    sizes = {"max_train_steps": 4, "train_batch_size": 8, "checkpointing_steps": 2, "dataloader_num_workers": 0}
    return dataclasses.replace(
        tiny,
        conditional=conditional,
        data=dataclasses.replace(tiny.data, **{"scored": 20} | (data or {})),
        loop=dataclasses.replace(tiny.loop, output_dir=str(folder), report_to="none", **sizes | loop),
    )


def scores(folder: Path) -> dict:
    return json.loads((folder / "scores.json").read_text())


def idx(path: Path, array: np.ndarray, pack=gzip.compress) -> Path:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(pack(head + array.tobytes()))
    return path


@pytest.fixture
def idx_folder(tmp_path) -> Path:
    """Twenty 8×8 images in MNIST's format, labelled by brightness."""
    folder = tmp_path / "idx"
    folder.mkdir()
    labels = np.arange(20, dtype=np.uint8) % 4
    idx(folder / "t10k-images-idx3-ubyte.gz", np.repeat(labels * 60, 64).reshape(20, 8, 8))
    idx(folder / "t10k-labels-idx1-ubyte.gz", labels)
    return folder


@pytest.mark.parametrize("losses", [[math.nan, 0.9, 0.8], [1.0, math.nan, 0.9, 0.8, 0.7]])
def test_a_nan_loss_neither_is_best_nor_ends_training(losses, tmp_path, monkeypatch):
    task = recipe("vae", tmp_path / "run", {"patience": 3}).task()
    told = iter(losses)
    monkeypatch.setattr(task, "score", lambda pictures: {"loss": next(told)} if pictures is task.validation else {})
    evaluator = CheckpointEvaluator(task, tmp_path / "run")
    for i in range(len(losses)):
        folder = tmp_path / "run" / f"checkpoint-{i}"
        task.save(folder)
        write_manifest(folder)
        evaluator.evaluate(folder)
        assert not evaluator.finished
    assert scores(tmp_path / "run" / "best")["validation"]["loss"] == losses[-1]
    assert not list((tmp_path / "run").glob(".best*"))


# --- recipes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*BLOCKS, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_every_model_trains_is_scored_and_opens(name, tmp_path):
    once = {"max_train_steps": 2, "checkpointing_steps": 2}
    folder = run(recipe(name, tmp_path / "run", conditional=name == "gated-pixelcnn", **once))
    best = load_pretrained(tmp_path / "run" / "best")
    assert best.conditional == (name == "gated-pixelcnn")
    found, kept = scores(folder), scores(tmp_path / "run" / "best")
    assert len(found["history"]) == 1 and kept["validation"]["loss"] == min(found["history"])
    assert kept["test"]["kind"] == best.likelihood and kept["test"]["pictures"] == 20
    if best.likelihood != "none":
        assert kept["test"]["bits"] == pytest.approx(kept["test"]["nats"] / (64 * np.log(2)), rel=1e-5)
    assert (tmp_path / "run" / "samples" / "step-000002.png").is_file()
    assert load_pretrained(folder).config.image_size == 8


@pytest.mark.parametrize("name", ["pca", "gmm"])
def test_fitted_models_are_scored_and_open_too(name, tmp_path):
    tiny = dataclasses.replace(RECIPES[name]("tiny"), output_dir=str(tmp_path / "run"), fitted=200)
    folder = run(tiny)
    best, kept = load_pretrained(tmp_path / "run" / "best"), scores(tmp_path / "run" / "best")
    assert best.config.components == tiny.model.components and kept["test"]["kind"] == "exact"
    assert {p.name for p in (tmp_path / "run" / "samples").iterdir()} == {"step-000001.png", "nearest.png"}
    assert json.loads((folder / "em.json").read_text())
    with pytest.raises(FileExistsError, match="choose another"):
        run(tiny)


def test_training_stops_when_the_validation_score_stops_improving(tmp_path):
    """At such a low learning rate only rounding changes anything; with patience 0 the run continues."""
    stuck = {"max_train_steps": 12, "checkpointing_steps": 1, "learning_rate": 1e-12}
    history = scores(run(recipe("vae", tmp_path / "run", {"patience": 1}, **stuck)))["history"]
    assert len(history) < 12
    assert history.index(min(history)) == len(history) - 2
    stuck["max_train_steps"] = len(history) + 1
    assert len(scores(run(recipe("vae", tmp_path / "on", {"patience": 0}, **stuck)))["history"]) == len(history) + 1


def test_a_resumed_run_keeps_its_best_checkpoint(tmp_path):
    first = recipe("glow", tmp_path / "parts", max_train_steps=1, checkpointing_steps=1)
    run(first)
    before = scores(tmp_path / "parts" / "latest")["history"]
    parts = run(dataclasses.replace(first, loop=dataclasses.replace(first.loop, max_train_steps=2, resume="latest")))
    assert scores(parts)["history"][:1] == before
    assert len(scores(parts)["history"]) == 2


def test_scoring_does_not_change_the_run(tmp_path):
    losses = []
    for every in (2, 4):
        run(recipe("vae", tmp_path / str(every), checkpointing_steps=every))
        losses.append(
            [json.loads(x)["loss"] for x in (tmp_path / str(every) / "metrics.jsonl").read_text().splitlines()]
        )
    assert losses[0] == losses[1]


def test_options_that_do_not_fit_the_data_raise(tmp_path, idx_folder):
    with pytest.raises(ValueError, match="binarise"):
        run(recipe("vae", tmp_path / "run", {"levels": 17}))
    with pytest.raises(ValueError, match=r"levels must lie in \[2, 256\]"):
        UnconditionalDataConfig(levels=1)
    folder = run(recipe("glow", tmp_path / "idx-run", {"data": str(idx_folder)}, True, max_train_steps=1))
    assert load_pretrained(folder).config.num_classes == 4


# --- pixels ---------------------------------------------------------------------------------------------------------


def test_binarised_pixels_are_white_with_their_intensity():
    image = np.tile(np.uint8([0, 51, 128, 255])[None, :, None], (4, 1, 3))
    prepare = PreparePixels(levels=2, channels=1)
    drawn = np.stack([prepare({"image": image}, np.random.default_rng(i))["k"] for i in range(800)])
    assert drawn.shape == (800, 1, 4, 4) and drawn.max() == 1
    assert drawn.mean((0, 1, 2)) == pytest.approx([0, 0.2, 0.502, 1], abs=0.03)
    again = prepare({"image": image}, np.random.default_rng(5))["k"]
    assert (again == drawn[5]).all()


def test_grey_images_keep_their_levels_and_colour_images_their_channels():
    image = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    rng = np.random.default_rng(0)
    assert (PreparePixels(256, 1)({"image": image}, rng)["k"][0] == image[:, :, 0]).all()
    assert (PreparePixels(256, 3)({"image": image}, rng)["k"] == image.transpose(2, 0, 1)).all()
    digits = open_splits("digits").train
    k = np.stack([PreparePixels(17, 1)(digits[i], rng)["k"] for i in range(50)])
    from sklearn.datasets import load_digits

    assert (k[:, 0] == load_digits().images[:50]).all()


def test_shifted_images_are_translations():
    image = np.zeros((8, 8, 3), np.uint8)
    image[4, 4] = 255
    places = set()
    for i in range(60):
        k = PreparePixels(256, 1, shift=1)({"image": image}, np.random.default_rng(i))["k"]
        assert k.sum() == 255
        places.add(tuple(int(x) for x in np.argwhere(k[0])[0]))
    assert places == {(i, j) for i in (3, 4, 5) for j in (3, 4, 5)}


def test_a_bound_of_several_samples_is_scored_as_it_is_trained(tmp_path):
    tiny = recipe("vae", tmp_path)
    losses = {}
    for samples in (1, 20):
        task = dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, train_samples=samples)).task()
        losses[samples] = task.score(task.validation)["loss"]  # with the same weights
    assert losses[20] < losses[1] - 0.5


# --- data -----------------------------------------------------------------------------------------------------------


def test_digits_come_in_two_parts_with_labels():
    splits = open_splits("digits")
    assert (len(splits.train), len(splits.test), splits.channels, splits.levels) == (1500, 297, 1, 17)
    item = splits.train[3]
    assert item["image"].shape == (8, 8, 3) and item["text"] == "three" and item["label"] == 3
    assert list(splits.train.captions(2)) == ["zero", "one"]
    assert open_splits("digits", 16).test[0]["image"].shape == (16, 16, 3)
    assert len(open_source("digits", 16)) == 1500


def test_idx_files_are_read_zipped_or_not(idx_folder):
    splits = open_splits(str(idx_folder))
    assert (len(splits.train), len(splits.test)) == (18, 2)
    assert splits.classes == ("class 0", "class 1", "class 2", "class 3")
    assert (splits.train[3]["image"] == 180).all() and splits.train[3]["label"] == 3
    images = read_idx(idx_folder / "t10k-images-idx3-ubyte.gz")
    for name, array in (
        ("train-images-idx3-ubyte", images),
        ("train-labels-idx1-ubyte", np.arange(20, dtype=np.uint8) % 4),
    ):
        idx(idx_folder / name, array, pack=bytes)
    splits = open_splits(str(idx_folder))
    assert (len(splits.train), len(splits.test)) == (20, 20)


def test_damaged_files_say_which(idx_folder):
    file = idx_folder / "t10k-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    for broken in (whole[:-9], whole[:40] + bytes([whole[40] ^ 255]) + whole[41:], b""):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte.gz"):
            open_splits(str(idx_folder))
    file.write_bytes(gzip.compress(gzip.decompress(whole)[:-5]))
    with pytest.raises(ValueError, match="should hold"):
        open_splits(str(idx_folder))
    file.write_bytes(gzip.compress(b"something else"))
    with pytest.raises(ValueError, match="not an IDX file"):
        open_splits(str(idx_folder))
    (idx_folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="no labels"):
        open_splits(str(idx_folder))


def test_real_mnist_is_nine_thousand_and_one_thousand(shared_data):
    splits = open_splits(str(shared_data / "mnist-10k"))
    assert (len(splits.train), len(splits.test), splits.levels) == (9000, 1000, 256)
    assert splits.train[0]["text"] == "seven" and splits.train[0]["image"].shape == (28, 28, 3)
    counts = np.bincount(splits.train.labels)
    assert len(counts) == 10 and counts.min() > 700


def test_toybox_is_labelled_by_its_kinds():
    splits = open_splits("toybox-v1", 16)
    items = [splits.train[i] for i in range(6)]
    assert all(item["scene"].things[0].kind == splits.classes[item["label"]] for item in items)
    assert items[0]["image"].shape == (16, 16, 3) and len(splits.classes) == 24
    assert not (splits.test[0]["image"] == items[0]["image"]).all()


def test_parts_and_labels_are_checked():
    data = Labelled(np.zeros((4, 8, 8), np.uint8), np.arange(4), "abcd")
    part = Part(data, 1, 3)
    assert [item["text"] for item in part] == list(part.captions(9)) == ["b", "c"]
    with pytest.raises(ValueError, match="are not all among"):
        Part(data, 1, 5)
    with pytest.raises(ValueError, match="labels must lie"):
        Labelled(np.zeros((4, 8, 8), np.uint8), np.arange(4), "abc")
