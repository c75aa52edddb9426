"""Unreadable images are replaced, in the same way by any number of workers and in a cache; too many are an error."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2i.data import ImageError, open_source
from t2i.data.base import ItemError, caption_lists
from t2i.data.domains import Unpaired
from t2i.data.loading import LoadingError, load_batches
from t2i.data.sampling import NumberBatches, NumberedSamples
from t2i.data.splits import open_splits
from t2i.data.unreadable import REPLACED, SkipUnreadable, _spread, skip_unreadable
from t2i.notes import note
from t2i.training.config import DataConfig
from t2i.training.held_out import split_held_out
from t2i.training.recipes.encodings import CachedEncodings, cached_encodings
from t2i.training.recipes.imagen.task import image_encoding


@pytest.fixture(autouse=True)
def _notes_are_said_again():
    note.cache_clear()


def photos(folder: Path, num: int, *bad: int, several: bool = False) -> Path:
    """Images whose grey levels are their numbers, with captions."""
    folder.mkdir()
    for i in range(num):
        Image.new("L", (8, 8), i).save(folder / f"{i:03}.png")
    for i in bad:
        (folder / f"{i:03}.png").write_bytes(b"")
    rows = [{"file_name": f"{i:03}.png", "text": [f"n {i}", f"no {i}"] if several else f"n {i}"} for i in range(num)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def numbers(source) -> list[int]:
    """The numbers of the images, whose captions agree."""
    items = [source[i] for i in range(len(source))]
    assert [f"n {item['image'][0, 0, 0]}" for item in items] == [item["text"] for item in items]
    return [int(item["image"][0, 0, 0]) for item in items]


def test_the_next_readable_image_replaces_an_unreadable_one(tmp_path):
    source = DataConfig(str(photos(tmp_path / "a", 60, 3, 10, 59)), image_size=8).open(seed=0)
    expected = list(range(60))
    expected[3], expected[10], expected[59] = 4, 11, 0
    assert numbers(source) == expected
    assert source[3][REPLACED] == (f"{tmp_path}/a/003.png is empty; fetch it again or remove it",)
    assert REPLACED not in source[4]
    assert [item["text"] for item in source] == [f"n {i}" for i in expected]  # it ends
    assert len(source) == 60 and list(source.captions(4)) == ["n 0", "n 1", "n 2", "n 3"]
    assert source.fingerprint() == open_source(str(tmp_path / "a"), 8).fingerprint()


def test_images_of_one_part_do_not_replace_those_of_another(tmp_path):
    source = DataConfig(str(photos(tmp_path / "a", 60, 56, 57, 59)), image_size=8).open(seed=0)
    train, held_out = split_held_out(source, 3)
    assert numbers(train) == [*range(56), 0] and numbers(held_out) == [58, 58, 58]
    splits = open_splits(str(tmp_path / "a"), 8, captions=True, max_unreadable=0.1)
    shown = [numbers(part) for part in (splits.train, splits.test)]
    assert not set(shown[0]) & set(shown[1]) and sorted({*shown[0], *shown[1], 56, 57, 59}) == list(range(60))


def test_captions_are_those_of_unreadable_images_too(tmp_path):
    order = np.random.default_rng(0).permutation(60)  # of the splits
    folder = photos(tmp_path / "a", 60, int(order[1]), several=True)
    train = open_splits(str(folder), 8, captions=True, max_unreadable=0.1).train
    assert [*caption_lists(train, 100)] == [(f"n {i}", f"no {i}") for i in order[:54]]
    assert [*train.captions(3)] == [f"n {i}" for i in order[:3]] and [*train.captions(0)] == []


def test_more_than_a_small_share_is_an_error_that_names_the_first(tmp_path):
    folder = str(photos(tmp_path / "a", 100, *range(6)))
    with pytest.raises(ValueError, match=r"^6 of 100 images cannot be read, more than .* 0\.05; .*a/000\.png is"):
        DataConfig(folder, image_size=8).open(seed=0)
    assert numbers(DataConfig(folder, image_size=8, max_unreadable=0.06).open(seed=0))[:7] == [6] * 7
    with pytest.raises(ValueError, match=r"^4 of 4 images cannot be read"):
        DataConfig(str(photos(tmp_path / "b", 4, *range(4))), image_size=8).open(seed=0)
    with pytest.raises(ValueError, match="max_unreadable must lie in"):
        DataConfig(max_unreadable=1)


def test_of_many_images_a_hundred_are_checked(tmp_path):
    source, checked = open_source(str(photos(tmp_path / "a", 300)), 8), _spread(300, 100)
    assert [i // 3 for i in checked] == list(range(100)) and len({i % 3 for i in checked}) == 3
    for i in set(range(0, 300, 2)) - set(checked):
        (tmp_path / "a" / f"{i:03}.png").write_bytes(b"")
    assert isinstance(skip_unreadable(source), SkipUnreadable)
    for i in checked[:6]:
        (tmp_path / "a" / f"{i:03}.png").write_bytes(b"")
    with pytest.raises(ItemError, match=r"6 of 100 images, spread over the data, cannot be read"):
        skip_unreadable(source)


def test_a_run_of_unreadable_images_is_an_error(tmp_path):
    source = SkipUnreadable(open_source(str(photos(tmp_path / "a", 40, *range(10, 30))), 8))
    assert source[11]["text"] == "n 30"
    with pytest.raises(ItemError, match=r"20 images in a row cannot be read; the first: .*a/010.png"):
        source[10]
    with pytest.raises(ItemError, match="2 images in a row"):
        SkipUnreadable(open_source(str(photos(tmp_path / "b", 2, 0, 1)), 8))[1]


def test_without_replacement_and_in_evaluation_the_image_is_an_error(tmp_path):
    folder = str(photos(tmp_path / "a", 60, 3))
    for source in (open_source(folder, 8), DataConfig(folder, image_size=8, max_unreadable=0).open(seed=0)):
        with pytest.raises(ImageError, match=r"003\.png is empty"):
            source[3]
    with pytest.raises(ImageError, match="is empty"):
        numbers(open_splits(folder, 8, captions=True).train)


def test_rendered_images_are_not_checked():
    assert type(DataConfig("toybox-v1").open(seed=0)).__name__ == "Toybox"


def keep(item: dict, rng: np.random.Generator) -> dict:
    return {"text": item["text"], "level": int(item["image"][0, 0, 0]), "random": rng.random()}


def batches(source, workers: int, start: int = 0, world: int = 1) -> list[list[str]]:
    """The captions of steps `start` to 10 of 12 samples each, those of all processes together."""
    samples, found = NumberedSamples(source, keep, seed=1), []
    for rank in range(world):
        plan = NumberBatches(start, 10, 12 // world, 1, rank, world)
        found.append(list(load_batches(samples, batch_sampler=plan, num_workers=workers)))
    return [[text for batch in step for text in batch["text"]] for step in zip(*found, strict=True)]


def test_samples_do_not_depend_on_workers_processes_or_where_a_run_resumes(tmp_path, capsys):
    source = DataConfig(str(photos(tmp_path / "a", 60, 3, 4, 50)), image_size=8).open(seed=0)
    capsys.readouterr()
    note.cache_clear()
    plain = batches(source, workers=0)
    said = capsys.readouterr().err.splitlines()
    why = [f"note: replaced: {tmp_path}/a/{i:03}.png is empty; fetch it again or remove it" for i in (3, 4, 50)]
    assert sorted(said[:-1]) == why
    assert said[-1] == "note: 6 items of the data replaced 3 images that cannot be read"  # in two epochs
    for workers, start, world in ((2, 0, 1), (1, 4, 1), (0, 0, 2), (2, 7, 3)):
        assert batches(source, workers, start, world) == plain[start:]
    note.cache_clear()
    capsys.readouterr()
    batches(source, workers=2)
    again = capsys.readouterr().err.splitlines()
    assert sorted(again[:-1]) == why and again[-1] == said[-1]


def test_a_source_that_becomes_unreadable_stops_a_run(tmp_path):
    source = DataConfig(str(photos(tmp_path / "a", 30)), image_size=8).open(seed=0)
    for path in (tmp_path / "a").glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(LoadingError, match="20 images in a row cannot be read"):
        batches(source, workers=1)


@pytest.mark.parametrize("several", [False, True])
def test_a_cache_has_what_replaces_unreadable_images(tmp_path, several):
    data = DataConfig(str(photos(tmp_path / "a", 60, 3, 4, 49, several=several)), image_size=8)
    source = data.open(seed=0)
    cached = cached_encodings(image_encoding(8), None, source, data, 0, 50, workers=2, parent=tmp_path)
    again = CachedEncodings(cached.folder, "images", ("image",))
    assert len(cached) == 50 and {path.name for path in cached.folder.iterdir()} == {
        *("images.npy", "captions.jsonl", "cache.json", "manifest.json")
    }
    for i in range(50):
        expected = {name: value for name, value in source[i].items() if name != REPLACED}
        for item in (cached[i], again[i]):
            assert item.keys() == expected.keys() and np.array_equal(item.pop("image"), expected["image"])
            assert item == {name: value for name, value in expected.items() if name != "image"}
    assert cached[49]["text"] == "n 50"


def test_unpaired_domains_skip_unreadable_images(tmp_path):
    domains = Unpaired(str(photos(tmp_path / "a", 30, 2)), str(photos(tmp_path / "b", 30, 5)), 8)
    assert int(domains[2]["image"][0, 0, 0]) == 3 and int(domains.b[5]["image"][0, 0, 0]) == 6
