"""Training data of unconditional models: image folders, images per class, and files with invalid contents."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2i.data import labelled
from t2i.data.splits import few, open_splits
from t2i.training.benchmark import family
from t2i.training.benchmark.compare import BenchmarkConfig
from t2i.training.recipes import RECIPES
from t2i.training.unconditional import UnconditionalDataConfig


@pytest.fixture
def classes(tmp_path) -> Path:
    """Forty images of 9×7, red and blue, each darker than the previous one."""
    for k, name in enumerate(("red", "blue")):
        (tmp_path / "shown" / name).mkdir(parents=True)
        for i in range(20):
            pixels = np.zeros((7, 9, 3), np.uint8)
            pixels[..., 2 * k] = 250 - i
            Image.fromarray(pixels).save(tmp_path / "shown" / name / f"{i:02d}.png")
    return tmp_path / "shown"


def test_folders_in_a_folder_are_classes_and_both_parts_have_some_of_each(classes):
    (classes / "notes.txt").write_text("no image")
    splits = open_splits(str(classes), 8)
    assert (len(splits.train), len(splits.test), splits.classes) == (36, 4, ("blue", "red"))
    items = [*map(splits.train.__getitem__, range(36)), *map(splits.test.__getitem__, range(4))]
    assert {item["image"][..., [0, 2]].max() for item in items} == set(range(231, 251))
    for item in items:
        assert item["text"] == splits.classes[item["label"]] and item["image"].shape == (8, 8, 3)
        assert bool(item["image"][..., 0].max()) == (item["text"] == "red")
    assert {item["label"] for item in items[:18]} == {0, 1}  # the files are sorted by class
    assert list(splits.train.captions(5)) == [item["text"] for item in items[:5]]


def test_a_folder_of_images_alone_has_no_classes(classes):
    flat = open_splits(str(classes / "red"))
    assert (len(flat.train), len(flat.test), flat.classes, flat.train[0]["text"]) == (18, 2, (), "")
    assert flat.train[0]["image"].shape == (32, 32, 3)
    Image.new("RGB", (8, 8)).save(classes / "loose.png")
    assert open_splits(str(classes)).classes == ()


def test_a_file_that_is_no_image_is_named(classes, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no images in .*empty"):
        open_splits(str(tmp_path / "empty"))
    for path in classes.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"\d\d\.png is damaged"):
        open_splits(str(classes)).train[0]


def test_a_conditional_model_is_compared_without_labels_where_there_are_none(classes, tmp_path):
    for folder, wanted in ((classes, True), (classes / "red", False)):
        ask = BenchmarkConfig(data=str(folder), preset="tiny", levels=2, image_size=8)
        assert family.configured(ask, "sngan", tmp_path / "run").conditional is wanted
        assert not family.configured(ask, "nice", tmp_path / "run").conditional


def test_some_of_each_class_are_chosen_by_the_seed():
    splits = open_splits("digits")
    chosen = [few(splits.train, splits.classes, 7, seed) for seed in (0, 0, 1)]
    for part, count in zip(chosen[0], (6, 1), strict=True):
        labels = Counter(part[i]["label"] for i in range(len(part)))
        assert labels == dict.fromkeys(range(10), count)
    assert not set(chosen[0][0].places) & set(chosen[0][1].places)
    assert chosen[0][0].places == chosen[1][0].places != chosen[2][0].places
    with pytest.raises(ValueError, match="images of 'eight' to learn from, not 150"):
        few(splits.train, splits.classes, 150, 0)


def test_a_model_learns_from_some_of_each_class(tmp_path, classes):
    tiny = RECIPES["vae"]("tiny")
    loop = dataclasses.replace(tiny.loop, output_dir=str(tmp_path / "run"))
    recipe = dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, per_class=3, scored=20), loop=loop)
    task = recipe.task()
    assert len(task.source) == 20  # and no more labels than requested are used
    assert sorted(task.validation[1].tolist()) == list(range(10)) and len(task.test[1]) == 20
    unlabelled = dataclasses.replace(recipe.data, data=str(classes / "red"))
    with pytest.raises(ValueError, match="no --per-class"):
        dataclasses.replace(recipe, data=unlabelled).task()
    with pytest.raises(ValueError, match="per_class must be at least 2"):
        UnconditionalDataConfig(per_class=1)


def test_mnist_is_told_from_what_has_its_labels(tmp_path, monkeypatch):
    labels = np.arange(20, dtype=np.uint8) % 10
    write(tmp_path / "t10k-labels-idx1-ubyte", labels)
    images = tmp_path / "t10k-images-idx3-ubyte"
    write(images, np.full((20, 8, 8), 9, np.uint8))
    assert open_splits(str(tmp_path)).classes[0] == "class 0"
    known = [hashlib.md5(p.read_bytes()).hexdigest() for p in (tmp_path / "t10k-labels-idx1-ubyte", images)]
    monkeypatch.setattr(labelled, "MNIST", {known[0]: known[1]})
    assert open_splits(str(tmp_path)).classes == labelled.DIGITS
    write(images, np.full((20, 8, 8), 0, np.uint8))
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte does not hold MNIST's images"):
        open_splits(str(tmp_path))


def write(path: Path, array: np.ndarray) -> None:
    shape = b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + shape + array.tobytes())
