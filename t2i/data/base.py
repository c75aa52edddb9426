"""The interface of all sources of captioned images, and what of it is optional."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from t2i.data.buckets import Buckets, Shape


class Source(Protocol):
    """A map-style dataset of items {"image": uint8 (S, S, 3), "text": str}.

    Images with several captions also have "texts": all of them, the first of which is "text".

    Optional methods are called by the functions below: `sample(index, rng, shape)`, of sources with random
    augmentation, and `caption_lists(limit)`, of sources with several captions per image. Sources of image files have
    `reads_files`, and may have `buckets`.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict: ...

    def captions(self, limit: int) -> Iterator[str]:
        """The first caption of each of the first `limit` items, without loading their images."""
        ...

    def fingerprint(self) -> str:
        """A hash of the content, independent of its name: 64 hexadecimal digits, see `fingerprint.py`."""
        ...


class ItemError(ValueError):
    """An item that cannot be used: one sentence with its name and the remedy."""


def augmented(source: Source, index: int, rng: np.random.Generator, shape: Shape | None = None) -> dict:
    """An item with the random augmentation of its source, if it has any.

    Args:
        shape: height and width of the image, those of its bucket; None for the square.
    """
    sample = getattr(source, "sample", None)
    return source[index] if sample is None else sample(index, rng, shape)


def training_sample(source: Source, index: int, rng: np.random.Generator, shape: Shape | None = None) -> dict:
    """As `augmented`, and if the item has several captions, a random one of them is its "text"."""
    item = augmented(source, index, rng, shape)
    if texts := item.pop("texts", None):
        item["text"] = texts[int(rng.integers(len(texts)))]
    return item


def caption_lists(source: Source, limit: int) -> Iterator[tuple[str, ...]]:
    """All captions of each of the first `limit` items, without loading their images."""
    lists = getattr(source, "caption_lists", None)
    return ((text,) for text in source.captions(limit)) if lists is None else lists(limit)


def buckets_of(source: Source) -> Buckets | None:
    """The aspect-ratio buckets of the images, if they are trained on in buckets."""
    return getattr(source, "buckets", None)


def reads_files(source: Source) -> bool:
    """Whether a source reads image files, so that cropping, filters and unreadable images concern it."""
    return getattr(source, "reads_files", False)


def captioned(item: dict, texts: tuple[str, ...]) -> dict:
    """The item with its captions: "text", and "texts" if there are several."""
    return item | {"text": texts[0]} | ({"texts": texts} if len(texts) > 1 else {})
