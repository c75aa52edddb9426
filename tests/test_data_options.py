"""Options of training data: random crops and flips, filters, several captions per image, mixtures of sources."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2i.data import open_source
from t2i.data.base import caption_lists, training_sample
from t2i.data.loading import load_batches
from t2i.data.mixture import PERIOD, Mixture, mixture_of
from t2i.data.sampling import NumberedSamples
from t2i.data.shard_writer import write_shards
from t2i.data.splits import Part, Picked
from t2i.data.unreadable import SkipUnreadable
from t2i.training.cli import run
from t2i.training.config import DataConfig
from t2i.training.held_out import split_held_out
from t2i.training.recipes import RECIPES
from t2i.training.recipes.encodings import cached_encodings
from t2i.training.recipes.imagen.task import image_encoding
from t2i.training.recipes.text.base import split_captions


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def photos(folder: Path, captions: list, sizes=((24, 8),)) -> Path:
    """Images whose columns (or rows, of tall ones) are numbered, with captions."""
    folder.mkdir()
    rows = []
    for i, text in enumerate(captions):
        width, height = sizes[i % len(sizes)]
        ramp = np.arange(max(width, height), dtype=np.uint8)
        levels = np.broadcast_to(ramp if width >= height else ramp[:, None], (height, width))
        Image.fromarray(np.ascontiguousarray(levels)).save(folder / f"{i:03}.png")
        rows.append({"file_name": f"{i:03}.png", "text": text})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def keep(item: dict, rng: np.random.Generator) -> dict:
    return {"image": np.array(item["image"]), "text": item["text"], "random": rng.random()}


def samples(source, num: int, workers: int = 0, start: int = 0) -> list[dict]:
    numbered = NumberedSamples(source, keep, seed=0)
    order = [list(range(i, i + 4)) for i in range(start, num, 4)]
    batches = list(load_batches(numbered, batch_sampler=order, num_workers=workers))
    return [
        {"image": image.numpy(), "text": text, "random": float(number)}
        for batch in batches
        for image, text, number in zip(batch["image"], batch["text"], batch["random"], strict=True)
    ]


def same(a: list[dict], b: list[dict]) -> bool:
    return len(a) == len(b) and all(
        x["text"] == y["text"] and x["random"] == y["random"] and np.array_equal(x["image"], y["image"])
        for x, y in zip(a, b, strict=True)
    )


# --- crops and flips ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["folder", "shards", "dataset"])
def test_random_crops_and_flips_are_squares_of_the_image_and_its_mirror_image(tmp_path, form):
    data = photos(tmp_path / "photos", ["x"] * 4, sizes=((24, 8), (8, 24)))
    if form == "shards":
        write_shards(open_source(str(data), 8), tmp_path / "shards")
        data = tmp_path / "shards"
    if form == "dataset":
        from datasets import load_dataset

        load_dataset("imagefolder", data_dir=str(data), split="train", cache_dir=str(tmp_path / "hf")).save_to_disk(
            tmp_path / "saved"
        )
        data = tmp_path / "saved"
    plain = open_source(str(data), 8)
    assert all(np.array_equal(plain[i]["image"], open_source(str(data), 8)[i]["image"]) for i in range(4))
    source = DataConfig(str(data), image_size=8, crop="random", random_flip=True).open(seed=0)
    first = []
    for i in range(200):
        image = training_sample(source, i % 4, np.random.default_rng(i))["image"][..., 0].astype(int)
        line = image[0] if image[0, 0] != image[0, -1] else image[:, 0]
        assert (image == (line if image[0, 0] != image[0, -1] else line[:, None])).all()
        flipped = line[0] > line[-1]
        assert (np.diff(line) == (-1 if flipped else 1)).all()
        first.append((int(line.min()), bool(flipped)))
    assert {left for left, _ in first} == set(range(16)) and 30 < sum(
        flipped for _, flipped in first
    ) < 80  # wide: half
    for i in range(4):  # without a generator, the centre
        assert np.array_equal(source[i]["image"], plain[i]["image"])


def test_samples_without_random_options_are_as_before(tmp_path):
    """The generator that `prepare` gets is fresh."""
    source = open_source(str(photos(tmp_path / "a", [f"n {i}" for i in range(8)])), 8)
    for number, sample in enumerate(samples(source, 8)):
        assert sample["random"] == np.random.default_rng((0, number)).random()


def test_random_samples_do_not_depend_on_workers_or_where_a_run_resumes(tmp_path):
    data = photos(tmp_path / "a", [[f"n {i}", f"no {i}"] for i in range(10)])
    source = DataConfig(str(data), image_size=8, crop="random", random_flip=True).open(seed=0)
    plain = samples(source, 24)
    assert same(samples(source, 24, workers=2), plain) and same(samples(source, 24, 1, start=12), plain[12:])
    assert not same(samples(DataConfig(str(data), image_size=8).open(seed=0), 24), plain)
    for wrap in (lambda s: Part(s, 0, 10), lambda s: Picked(s, range(10)), lambda s: Mixture([s], [1])):
        assert same(samples(wrap(source), 12), plain[:12])


def test_random_options_and_a_cache_exclude_each_other(tmp_path):
    data = DataConfig(str(photos(tmp_path / "a", ["x"] * 4)), image_size=8, random_flip=True)
    with pytest.raises(ValueError, match=r"not for each crop: give --cache none, .* leave out --random-flip$"):
        cached_encodings(image_encoding(8), None, data.open(seed=0), data, 0, 4, parent=tmp_path)
    assert not list(tmp_path.glob("images-*"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"crop": "random"}, "toybox-v1 are not read from files: leave out --crop$"),
        ({"random_flip": True, "min_caption_length": 2}, "leave out --random-flip, --min-caption-length$"),
        ({"image_column": "x", "caption_column": "y"}, "leave out --image-column, --caption-column$"),
        ({"max_unreadable": 0.1}, "leave out --max-unreadable$"),
    ],
)
def test_options_without_effect_on_rendered_images_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        DataConfig(**options).open(seed=0)


def test_options_without_effect_on_a_recipe_are_refused(tmp_path):
    recipe = RECIPES["t5-toybox"]("tiny")
    data = {"data": str(photos(tmp_path / "a", ["x"] * 4)), "crop": "random", "max_unreadable": 0.1}
    with pytest.raises(ValueError, match=r"only captions are used: leave out --crop, --max-unreadable$"):
        run(type(recipe)(data=DataConfig(**data), loop=recipe.loop))


# --- several captions -----------------------------------------------------------------------------------------------


def test_each_caption_of_an_image_is_chosen_as_often(tmp_path):
    data = photos(tmp_path / "a", [["one", "two", "three"], "alone"])
    source = open_source(str(data), 8)
    counts = Counter(training_sample(source, 0, np.random.default_rng(i))["text"] for i in range(600))
    assert set(counts) == {"one", "two", "three"} and min(counts.values()) > 150
    assert training_sample(source, 1, np.random.default_rng(0))["text"] == "alone" and "texts" not in source[1]


def test_captions_from_a_cache_are_those_without(tmp_path):
    captions = [[f"n {i}", f"no {i}"] if i % 2 else f"n {i}" for i in range(10)]
    data = DataConfig(str(photos(tmp_path / "a", captions)), image_size=8)
    source = data.open(seed=0)
    cached = cached_encodings(image_encoding(8), None, source, data, 0, 10, workers=0, parent=tmp_path)
    assert same(samples(cached, 20), samples(source, 20))
    assert list(cached.texts) == [text for texts in caption_lists(source, 10) for text in texts]


def test_models_of_text_learn_all_captions(tmp_path):
    source = open_source(str(photos(tmp_path / "a", [["a", "b"], "c", ["d", "e"]])), 8)
    train, held_out = split_captions(source)
    assert [*train.captions(9), *held_out] == ["a", "b", "c", "d", "e"]


# --- filters --------------------------------------------------------------------------------------------------------


def test_filters_leave_out_small_images_and_captions_out_of_range(tmp_path, capsys):
    captions = ["abc", "ab", ["a", "abcd", "abcdefgh"], "abcdefgh", "abc", "abcd"]
    data = photos(tmp_path / "a", captions, sizes=((24, 8), (24, 10), (30, 12)))
    (data / "004.png").write_bytes(b"")
    found = {}
    limits = {
        "captions": {"min_caption_length": 3, "max_caption_length": 4},
        "images": {"min_image_side": 10},
        "both": {"min_image_side": 10, "min_caption_length": 3},
    }
    for name, options in limits.items():
        source = DataConfig(str(data), image_size=8, max_unreadable=0.5, **options).open(seed=0)
        found[name] = [*caption_lists(source, 9)]
        sent = pickle.loads(pickle.dumps(source))
        assert len(sent) == len(source) == len(found[name])
        assert [source[i]["text"] for i in range(len(source))][:2] == [texts[0] for texts in found[name]][:2]
    assert found["captions"] == [("abc",), ("abcd",), ("abc",), ("abcd",)]
    assert found["images"] == [("ab",), ("a", "abcd", "abcdefgh"), ("abcd",)]
    assert found["both"] == [("abcd", "abcdefgh"), ("abcd",)]
    assert f"4 of 6 images of {data} are left out by the filters" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"no image of .* passes the filters"):
        DataConfig(str(data), min_image_side=99).open(seed=0)
    with pytest.raises(ValueError, match="max_caption_length must be at least 5"):
        DataConfig(min_caption_length=5, max_caption_length=4)


def test_what_passes_is_random_as_before_and_known_by_its_content(tmp_path):
    data = photos(tmp_path / "a", [["x", "long one", "long two"] for _ in range(6)])
    source = DataConfig(str(data), image_size=8, min_caption_length=3, crop="random").open(seed=0)
    texts = {training_sample(source, 0, np.random.default_rng(i))["text"] for i in range(30)}
    assert texts == {"long one", "long two"}
    other = DataConfig(str(data), image_size=8, min_caption_length=2).open(seed=0)
    assert len({s.fingerprint() for s in (source, other, open_source(str(data), 8))}) == 3
    folder = tmp_path / "cache" / "t2i" / "filters"
    before = {path.name for path in folder.iterdir()}
    DataConfig(str(data), image_size=8, min_caption_length=3).open(seed=0)
    assert {path.name for path in folder.iterdir()} == before


# --- mixtures -------------------------------------------------------------------------------------------------------


class Named:
    """Items with a name and their index, without images."""

    def __init__(self, name: str, num: int):
        self.name, self.num = name, num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> dict:
        return {"text": f"{self.name} {index}", "scene": "not kept"}

    def captions(self, limit: int):
        return (f"{self.name} {i}" for i in range(min(limit, self.num)))

    def fingerprint(self) -> str:
        return self.name


@pytest.mark.parametrize("weights", [(0.7, 0.3), (1, 1), (5, 2, 1), (0.001, 0.999), (1 / 3, 1 / 3, 1 / 3), (3,)])
def test_every_part_of_a_mixture_has_sources_in_proportion_to_their_weights(weights):
    sources = [Named(name, num) for name, num in zip("abc", (7, 50, 3), strict=False)][: len(weights)]
    mixture = Mixture(sources, weights)
    items = [mixture[i] for i in range(len(mixture))]
    assert [item["text"] for item in items] == list(mixture.captions(len(mixture)))
    assert all(item.keys() == {"text"} for item in items)
    names = [item["text"][0] for item in items]
    for k, weight in enumerate(weights):
        share = weight / sum(weights)
        counts = np.cumsum([name == "abc"[k] for name in names])
        expected = np.arange(1, len(names) + 1) * share
        assert np.abs(counts - expected).max() < 1 + len(weights) + len(names) / PERIOD
        own = [item["text"] for item in items if item["text"][0] == "abc"[k]]
        assert own == [f"{'abc'[k]} {i % sources[k].num}" for i in range(len(own))] and len(own) >= sources[k].num
    with pytest.raises(IndexError):
        mixture[len(mixture)]


def test_names_of_mixtures(tmp_path):
    assert mixture_of("a=0.7,b=.3") == {"a": 0.7, "b": 0.3}
    assert mixture_of("/x/{0..1,2}.tar=3,hub/name=1") == {"/x/{0..1,2}.tar": 3.0, "hub/name": 1.0}
    for plain in ("toybox", "a=1", "a,b", "a=0.7,b", "s3://x?y=1"):
        assert mixture_of(plain) == {plain: 1.0}
    (tmp_path / "a=1,b=2").mkdir()
    assert mixture_of(f"{tmp_path}/a=1,b=2") == {f"{tmp_path}/a=1,b=2": 1.0}
    for wrong in ("a=1,a=2", "a=0,b=1"):
        with pytest.raises(ValueError, match="name each source once, with a weight above 0"):
            mixture_of(wrong)
    with pytest.raises(ValueError, match=r"a weight of 0\.0001 of 1\.0001 is below a thousandth"):
        Mixture([Named("a", 1), Named("b", 1)], [1, 0.0001])


def test_a_mixture_of_files_and_rendered_images_is_data(tmp_path):
    data = photos(tmp_path / "a", [["n", "no"]] * 30)
    (data / "007.png").write_bytes(b"")
    name = f"{data}=1,toybox-v1=3"
    mixture = DataConfig(name, image_size=16, random_flip=True).open(seed=0)
    texts = [item["text"] for item in samples(mixture, 100)]
    assert 10 < sum(text in ("n", "no") for text in texts) < 40
    assert mixture.fingerprint() != DataConfig(f"{data}=1,toybox-v1=2", image_size=16).open(seed=0).fingerprint()
    assert isinstance(mixture.sources[0], SkipUnreadable)
    train, held_out = split_held_out(mixture, 8)
    assert len(held_out) == 8 and [len(part) for part in train.sources] == [28, 10**6]
    of_files = [held_out[i]["text"] for i in range(8) if held_out[i]["text"] in ("n", "no")]
    assert len(of_files) == 2
