"""Fingerprints of data: they change with the content, and do not depend on the name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2i.data.domains import OneAttribute, Unpaired
from t2i.data.factors import ToyboxFactors
from t2i.data.labelled import Labelled
from t2i.data.layouts import WithLayouts
from t2i.data.sources import ImageDataset, open_source
from t2i.data.splits import Part, few, open_splits
from t2i.data.toybox_v1 import LABELS, Toybox, export


def fill(folder: Path, n: int = 4) -> Path:
    """n images that Pillow cannot compress, with captions."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)).save(folder / f"{i}.png")  # 120 KB
    lines = [{"file_name": f"{i}.png", "text": f"thing {i}"} for i in range(n)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def change_pixel(folder: Path) -> None:
    pixels = np.array(Image.open(folder / "2.png"))
    pixels[100, 100, 1] ^= 1
    Image.fromarray(pixels).save(folder / "2.png")


def change_caption(folder: Path) -> None:
    file = folder / "metadata.jsonl"
    file.write_text(file.read_text().replace("thing 3", "thing 4"))


@pytest.mark.parametrize("change", [change_pixel, change_caption])
def test_a_changed_folder_has_another_fingerprint(tmp_path, change):
    first = open_source(str(fill(tmp_path / "a")), 16).fingerprint()
    assert len(first) == 64
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for file in (tmp_path / "b").iterdir():
        file.touch()
    assert open_source(str(tmp_path / "b"), 16).fingerprint() == first
    assert open_source(str(tmp_path / "b"), 17).fingerprint() != first
    change(tmp_path / "b")
    assert open_source(str(tmp_path / "b"), 16).fingerprint() != first


def test_a_changed_image_changes_the_fingerprint_of_a_folder_without_captions(tmp_path):
    (fill(tmp_path / "a") / "metadata.jsonl").unlink()
    splits = open_splits(str(tmp_path / "a"), 16)
    first = splits.train.fingerprint()
    assert splits.test.fingerprint() != first
    change_pixel(tmp_path / "a")
    assert open_splits(str(tmp_path / "a"), 16).train.fingerprint() != first


def test_a_data_set_of_hugging_face_is_known_by_its_content(tmp_path):
    from datasets import Dataset, Features, Image, Value

    features = Features({"image": Image(), "text": Value("string")})

    def made(level: int, text: str) -> ImageDataset:
        images = [np.full((8, 8, 3), i, np.uint8) for i in (1, 2, level)]
        return ImageDataset(Dataset.from_dict({"image": images, "text": ["a", "b", text]}, features=features), 8)

    first = made(3, "c").fingerprint()
    assert made(3, "c").fingerprint() == first
    assert len({first, made(4, "c").fingerprint(), made(3, "d").fingerprint()}) == 3
    turned = made(3, "c").dataset.select([2, 1, 0])
    assert ImageDataset(turned, 8).fingerprint() != first


def test_every_source_knows_what_it_is_made_from():
    pixels, labels = np.zeros((20, 4, 4), np.uint8), np.arange(20) % 2
    other = pixels.copy()
    other[7, 1, 2] = 1
    names = ("one", "two")
    digits = Labelled(pixels, labels, names)
    sources = [
        digits,
        Labelled(other, labels, names),
        Labelled(pixels, 1 - labels, names),
        Labelled(pixels, labels, ("one", "three")),
        Labelled(pixels, labels, names, 8),
        Part(digits, 0, 9),
        Part(digits, 1, 10),
        *few(digits, names, 5, 0),
        *(Toybox(split, 16, seed, num) for split in ("train", "all") for seed in (0, 1) for num in (5, 6)),
        Toybox(size=32, num=5),
        Toybox(size=16, num=5, family="count"),
        OneAttribute("white", 16, 0, 5),
        OneAttribute("zebra", 16, 0, 5),
        *(ToyboxFactors(16, 0, 5, part) for part in ("all", "train", "test")),
        Unpaired("toybox-v1:white", "toybox-v1:zebra", 16),
        Unpaired("toybox-v1:zebra", "toybox-v1:white", 16),
        WithLayouts(Toybox(num=5), "layout", LABELS),
        open_splits("digits").train,
        open_splits("digits").test,
    ]
    prints = [source.fingerprint() for source in sources]
    assert prints == [source.fingerprint() for source in sources]
    assert len(set(prints)) == len(sources)


def test_changed_maps_show(tmp_path):
    folder = export(tmp_path / "boxes", 2, size=16, layouts=True)

    def found() -> str:
        return WithLayouts(open_source(str(folder), 16), "layout", LABELS, folder).fingerprint()

    first, name = found(), folder / "0000001.layout.png"
    labels = np.array(Image.open(name))
    labels[0, 0] ^= 1
    shown = Image.open(name)
    shown.putdata(labels.ravel())
    shown.save(name)
    assert found() != first
