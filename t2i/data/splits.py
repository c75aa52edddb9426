"""Data in two parts, to train on and to test on, with labels where there are any.

Shapes: S side of the images
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from t2i.checks import check_whole
from t2i.data.base import Source
from t2i.data.factors import FACTORS, ToyboxFactors
from t2i.data.fingerprint import combine
from t2i.data.labelled import Splits, is_labelled, open_labelled
from t2i.data.sources import TOYBOX_ITEMS, open_source
from t2i.data.toybox import Toybox
from t2i.data.toybox.kinds import KINDS

TEST_SEED = 2**20  # toybox's test pictures come from another world than the run's, which is seeded from 0 up
TEST_PICTURES = 1000  # of toybox
FACTOR_PICTURES = 10_000  # to test on, of toybox-factors: information is counted, which takes many


class Picked:
    """Items of a source at these places, in their order."""

    def __init__(self, source: Source, places: Sequence[int]):
        self.source, self.places = source, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} items")
        return self.source[int(self.places[index])]

    def captions(self, limit: int) -> Iterator[str]:
        return (self[i]["text"] for i in range(min(limit, len(self))))

    def fingerprint(self) -> str:
        return combine(self.source.fingerprint(), np.asarray(self.places, np.int64).tobytes())


class Part(Picked):
    """Items `start` to `stop` of a source. Raises ValueError where it has not so many."""

    def __init__(self, source: Source, start: int, stop: int):
        if not 0 <= start <= stop <= len(source):
            raise ValueError(f"items {start} to {stop} are not all among the {len(source)} there are")
        super().__init__(source, range(start, stop))


class ToyboxKinds(Toybox):
    """Toybox with one thing or several of a kind, its kind the label."""

    def __init__(self, size: int, seed: int, num: int):
        super().__init__("train", size, seed, num, family="single")

    def __getitem__(self, index: int) -> dict:
        item = super().__getitem__(index)
        return item | {"label": list(KINDS).index(item["scene"].things[0].kind)}


def few(source: Source, classes: Sequence[str], count: int, seed: int) -> tuple[Picked, Picked]:
    """`count` items of each class, which the seed alone chooses: most to learn from, a fifth to choose a checkpoint by.

    Raises ValueError where a class has fewer.
    """
    found: list[list[int]] = [[] for _ in classes]
    for place in np.random.default_rng(seed).permutation(len(source)):
        of_class = found[source[int(place)]["label"]]
        if len(of_class) < count:
            of_class.append(int(place))
            if all(len(places) == count for places in found):
                held = max(1, count // 5)
                parts = [[p for places in found for p in places[part]] for part in (slice(held, None), slice(held))]
                return Picked(source, sorted(parts[0])), Picked(source, sorted(parts[1]))
    least = min(range(len(classes)), key=lambda k: len(found[k]))
    raise ValueError(f"there are {len(found[least])} pictures of {classes[least]!r} to learn from, not {count}")


def open_splits(
    name: str | Path, size: int | None = None, seed: int = 0, captions: bool = False, **columns: str
) -> Splits:
    """The data called `name`, in two parts.

    Args:
        name: "digits" (scikit-learn's, 8×8, the first 1,500 to train on), a folder of IDX files (MNIST's format; with
            test files alone, their last tenth is for the test), "mnist", "fashion" or "cifar10" (from the Hub),
            "toybox" (scenes of one thing), "toybox-factors" (see `factors.py`), a folder of images (see `folder.py`),
            or what `open_source` knows (of both a tenth is for the test, drawn once and for all).
        size: side of the pictures; by default their own, 32 for those that have none.
        seed, captions, columns: as `open_source` takes them.

    Raises ValueError or FileNotFoundError with the remedy, naming the file where one is damaged.
    """
    name = str(name)
    if size is not None:
        check_whole("size", size)
    if is_labelled(name):
        return open_labelled(name, size)
    if name == "toybox":
        train = ToyboxKinds(size or 32, seed, TOYBOX_ITEMS)
        return Splits(train, ToyboxKinds(size or 32, seed + TEST_SEED, TEST_PICTURES), 3, 256, tuple(KINDS))
    if name == "toybox-factors":
        train = ToyboxFactors(size or 32, seed, TOYBOX_ITEMS, "train")
        test = ToyboxFactors(size or 32, seed + TEST_SEED, FACTOR_PICTURES, "test")
        return Splits(train, test, 3, 256, FACTORS["kind"])
    source = open_source(name, size or 32, captions=captions, **columns)
    # A folder may list one class after the other: each part should have some of all.
    order, cut = np.random.default_rng(0).permutation(len(source)), len(source) - len(source) // 10
    return Splits(Picked(source, order[:cut]), Picked(source, order[cut:]), 3, 256, getattr(source, "classes", ()))
