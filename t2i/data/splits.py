"""Datasets in two splits, for training and testing, with labels if there are any.

Shapes: S image side
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from t2i.checks import check_whole
from t2i.data.base import Source, augmented, buckets_of, caption_lists
from t2i.data.factors import FACTORS, ToyboxFactors
from t2i.data.fingerprint import combine
from t2i.data.labelled import Splits, is_labelled, open_labelled
from t2i.data.sources import TOYBOX_ITEMS, WORLDS, open_source
from t2i.data.toybox.dataset import SceneDataset
from t2i.data.unreadable import beneath, skip_unreadable

if TYPE_CHECKING:
    from t2i.data.buckets import Buckets, Shape

TEST_SEED = 2**20  # seed of toybox's test images, different from those of training runs
TOYBOX_TEST_IMAGES = 1000  # number of test images of toybox
FACTORS_TEST_IMAGES = 10_000  # number of test images of toybox-factors: estimating mutual information takes many


class Picked:
    """The items of a source at these indices, in this order."""

    def __init__(self, source: Source, places: Sequence[int]):
        self.source, self.places = source, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} items")
        return self.source[int(self.places[index])]

    def sample(self, index: int, rng: np.random.Generator, shape: Shape | None = None) -> dict:
        return augmented(self.source, int(self.places[index]), rng, shape)

    @property
    def buckets(self) -> Buckets | None:
        found = buckets_of(self.source)
        return None if found is None else found.at(self.places)

    def captions(self, limit: int) -> Iterator[str]:
        return (texts[0] for texts in self.caption_lists(limit))

    def caption_lists(self, limit: int) -> Iterator[tuple[str, ...]]:
        places = [int(place) for place in self.places[:limit]]
        wanted, last = set(places), max(places, default=-1)
        lists = enumerate(caption_lists(self.source, last + 1))  # in one pass, without loading the images
        found = {place: texts for place, texts in lists if place in wanted}
        return (found[place] for place in places)

    def fingerprint(self) -> str:
        return combine(self.source.fingerprint(), np.asarray(self.places, np.int64).tobytes())


class Part(Picked):
    """Items `start` to `stop` of a source. Raises ValueError if it has fewer."""

    def __init__(self, source: Source, start: int, stop: int):
        if not 0 <= start <= stop <= len(source):
            raise ValueError(f"items {start} to {stop} are not all among the {len(source)} there are")
        super().__init__(source, range(start, stop))

    def captions(self, limit: int) -> Iterator[str]:
        start, stop = self.places.start, min(self.places.stop, self.places.start + limit)
        return islice(self.source.captions(stop), start, stop)  # without loading the images

    def caption_lists(self, limit: int) -> Iterator[tuple[str, ...]]:
        start, stop = self.places.start, min(self.places.stop, self.places.start + limit)
        return islice(caption_lists(self.source, stop), start, stop)


class ToyboxKinds:
    """Toybox scenes of one thing, labelled with its kind; `world` is a class of scenes, such as `Toybox`."""

    def __init__(self, world: type[SceneDataset], size: int, seed: int, num: int):
        self.scenes = world("train", size, seed, num, "single")

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> dict:
        item = self.scenes[index]
        return item | {"label": self.scenes.kinds.index(item["scene"].things[0].kind)}

    def captions(self, limit: int) -> Iterator[str]:
        return self.scenes.captions(limit)

    def fingerprint(self) -> str:
        return combine(type(self).__name__, self.scenes.fingerprint())


def few(source: Source, classes: Sequence[str], count: int, seed: int) -> tuple[Source, Source]:
    """`count` items of each class, selected by the seed: four fifths for training, a fifth for choosing a checkpoint.

    Raises ValueError if a class has fewer.
    """
    found: list[list[int]] = [[] for _ in classes]
    for place in np.random.default_rng(seed).permutation(len(source)):
        of_class = found[source[int(place)]["label"]]
        if len(of_class) < count:
            of_class.append(int(place))
            if all(len(places) == count for places in found):
                held = max(1, count // 5)
                parts = [[p for places in found for p in places[part]] for part in (slice(held, None), slice(held))]
                train, select = (beneath(source, partial(Picked, places=sorted(part))) for part in parts)
                return train, select
    least = min(range(len(classes)), key=lambda k: len(found[k]))
    raise ValueError(f"there are {len(found[least])} images of {classes[least]!r} to learn from, not {count}")


def open_splits(
    name: str | Path,
    size: int | None = None,
    seed: int = 0,
    captions: bool = False,
    max_unreadable: float = 0.0,
    **columns: str,
) -> Splits:
    """Open the dataset `name` in two splits.

    Args:
        name: "digits" (scikit-learn's, 8×8, the first 1,500 for training), a folder of IDX files (MNIST's format; if
            there are only test files, their last tenth is the test split), "mnist", "fashion" or "cifar10" (from the
            Hub), "toybox" and "toybox-v1" (scenes of one thing), "toybox-factors" (see `factors.py`), a folder of
            images (see `folder.py`) or any source of `open_source` (for both, a fixed random tenth is the test split).
        size: image side; by default that of the dataset, or 32 if it has none.
        seed, captions, columns: as in `open_source`.
        max_unreadable: for training: maximum share of unreadable images, which are replaced (see `unreadable.py`).

    Raises ValueError or FileNotFoundError with the remedy, naming a damaged file.
    """
    name = str(name)
    if size is not None:
        check_whole("size", size)
    if is_labelled(name):
        return open_labelled(name, size)
    if name in WORLDS:
        world, side = WORLDS[name], size or 32
        train, test = (
            ToyboxKinds(world, side, seed + more, num)
            for more, num in ((0, TOYBOX_ITEMS), (TEST_SEED, TOYBOX_TEST_IMAGES))
        )
        return Splits(train, test, 3, 256, world.kinds)
    if name == "toybox-factors":
        train = ToyboxFactors(size or 32, seed, TOYBOX_ITEMS, "train")
        test = ToyboxFactors(size or 32, seed + TEST_SEED, FACTORS_TEST_IMAGES, "test")
        return Splits(train, test, 3, 256, FACTORS["kind"])
    source = open_source(name, size or 32, seed=seed, captions=captions, **columns)
    # A folder may list one class after the other, and both splits should have all classes.
    order, cut = np.random.default_rng(0).permutation(len(source)), len(source) - len(source) // 10
    readable = skip_unreadable(source, max_unreadable)
    train, test = (beneath(readable, partial(Picked, places=places)) for places in (order[:cut], order[cut:]))
    return Splits(train, test, 3, 256, getattr(source, "classes", ()))
