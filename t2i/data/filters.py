"""Filters of training images by their size and the length of their captions.

Which images pass is determined in one pass over captions and image headers, and kept in the user's cache under a key of
the data's content and the limits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from accelerate import PartialState
from tqdm import tqdm

from t2i.data.base import ItemError, captioned
from t2i.data.fingerprint import combine
from t2i.data.image_file import dimensions
from t2i.data.image_source import ImageSource
from t2i.data.splits import Picked
from t2i.disk_cache import open_or_fill
from t2i.folders import user_cache
from t2i.notes import note

if TYPE_CHECKING:
    from t2i.data.buckets import Shape

PLACES = "places.npy"


@dataclass(frozen=True)
class Limits:
    """What passes a filter.

    Args:
        min_image_side: minimum length of an image's shorter side in pixels.
        min_caption_length, max_caption_length: in characters. Of several captions, those out of range are not used; an
            image passes if one is left.
    """

    min_image_side: int = 0
    min_caption_length: int = 0
    max_caption_length: int | None = None

    def texts(self, texts: tuple[str, ...]) -> tuple[str, ...]:
        """The captions that pass."""
        most = float("inf") if self.max_caption_length is None else self.max_caption_length
        return tuple(text for text in texts if self.min_caption_length <= len(text) <= most)


class Filtered(Picked):
    """The items of a source that pass, with the captions that pass. `folder` holds their indices, memory-mapped."""

    reads_files = True

    def __init__(self, source: ImageSource, folder: Path, limits: Limits):
        super().__init__(source, np.load(folder / PLACES, mmap_mode="r"))
        self.source, self.folder, self.limits = source, folder, limits

    def __reduce__(self):
        return Filtered, (self.source, self.folder, self.limits)  # reopened: pickling the array would copy it

    def __getitem__(self, index: int) -> dict:
        return self._limited(super().__getitem__(index))

    def sample(self, index: int, rng: np.random.Generator, shape: Shape | None = None) -> dict:
        return self._limited(super().sample(index, rng, shape))

    def caption_lists(self, limit: int) -> Iterator[tuple[str, ...]]:
        places = (int(self.places[i]) for i in range(min(limit, len(self))))
        return (self.limits.texts(self.source.valid_texts(place)) for place in places)

    def fingerprint(self) -> str:
        return combine(super().fingerprint(), dataclasses.astuple(self.limits))

    def _limited(self, item: dict) -> dict:
        return captioned(item, self.limits.texts(item.pop("texts", (item["text"],))))


def filtered(source: ImageSource, limits: Limits, name: str) -> Filtered:
    """The items of the source called `name` that pass. Raises ValueError if there are none."""
    key = {"data_sha256": source.fingerprint(), **{k: str(v) for k, v in dataclasses.asdict(limits).items()}}
    folder = user_cache() / "filters" / combine(key)[:16]
    open_or_fill(folder, key, partial(_fill, source, limits), "indices of what passes the filters")
    found = Filtered(source, folder, limits)
    if not len(found):
        raise ValueError(f"no image of {name} passes the filters: give other limits of sizes or captions")
    note(f"{len(source) - len(found):,} of {len(source):,} images of {name} are left out by the filters")
    return found


def _fill(source: ImageSource, limits: Limits, part: Path, state: PartialState) -> None:
    if not state.is_main_process:
        return
    texts = tqdm(source.caption_lists(len(source)), total=len(source), desc="filters", disable=len(source) < 10_000)
    passes = (bool(limits.texts(of_image)) and _large(source, i, limits) for i, of_image in enumerate(texts))
    np.save(part / PLACES, np.flatnonzero(np.fromiter(passes, bool, len(source))))


def _large(source: ImageSource, index: int, limits: Limits) -> bool:
    if limits.min_image_side == 0:
        return True
    try:
        return min(dimensions(*source.file(index))) >= limits.min_image_side
    except ItemError:  # an image that cannot be read
        return False
