"""Unreadable images in training data: each is replaced by the next readable one, up to a maximum share.

What replaces an image depends on the data alone. So a resumed run, any number of processes and data workers, and a
cache of encodings see the same items. Each image that was replaced is noted, by `loading.py` those of data workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import get_worker_info

from t2i.data.base import ItemError, Source, augmented, buckets_of, caption_lists, reads_files
from t2i.notes import count, note
from t2i.strings import checked

if TYPE_CHECKING:
    from t2i.data.buckets import Buckets, Shape

REPLACED = "replaced"  # key of an item that replaces others: the sentences that say why these cannot be read
IMAGES_CHECKED = 100  # images that are read when the data are opened, spread over them
IN_A_ROW = 20  # unreadable images after which the search for a readable one ends
MAX_UNREADABLE = 0.05  # default of the maximum share of unreadable images


class SkipUnreadable:
    """A source whose unreadable items are replaced by the next readable ones; items that replace others have REPLACED.

    Raises ItemError where IN_A_ROW are unreadable, or all.
    """

    reads_files = True

    def __init__(self, source: Source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        return self._next(index, lambda i: self.source[i])

    def sample(self, index: int, rng: np.random.Generator, shape: Shape | None = None) -> dict:
        return self._next(index, lambda i: augmented(self.source, i, rng, shape))

    @property
    def buckets(self) -> Buckets | None:
        return buckets_of(self.source)

    def captions(self, limit: int) -> Iterator[str]:
        return self.source.captions(limit)

    def caption_lists(self, limit: int) -> Iterator[tuple[str, ...]]:
        return caption_lists(self.source, limit)

    def fingerprint(self) -> str:
        return self.source.fingerprint()

    def _next(self, index: int, read: Callable[[int], dict]) -> dict:
        why: list[str] = []
        index = checked(index, len(self))
        for i in range(index, index + min(IN_A_ROW, len(self))):
            try:
                item = read(i % len(self))
            except ItemError as error:
                why.append(str(error))
            else:
                if not why:
                    return item
                if get_worker_info() is None:
                    note_replaced(why)
                return item | {REPLACED: tuple(why)}
        raise ItemError(f"{count(why, 'image')} in a row cannot be read; the first: {why[0]}")


def skip_unreadable(source: Source, most: float = MAX_UNREADABLE, option: str = "a share of") -> Source:
    """The source with unreadable images replaced, after a check of IMAGES_CHECKED images; others are unchanged.

    Args:
        most: maximum share of unreadable images among those checked; 0: none is replaced.
        option: the option that sets it, for the message.

    Raises ItemError if there are more.
    """
    if most == 0 or not reads_files(source) or not len(source):
        return source
    places = _spread(len(source), IMAGES_CHECKED)
    why = [reason for i in places if (reason := _why_unreadable(source, i)) is not None]
    if len(why) > most * len(places):
        which = "" if len(places) == len(source) else ", spread over the data,"
        raise ItemError(
            f"{len(why)} of {count(places, 'image')}{which} cannot be read, more than "
            f"{option} {most:g}; the first: {why[0]}"
        )
    note_replaced(why)
    return SkipUnreadable(source)


def beneath(source: Source, wrap: Callable[[Source], Source]) -> Source:
    """`wrap(source)`, where what replaces unreadable images also comes from the wrapped source, such as a part."""
    return SkipUnreadable(wrap(source.source)) if isinstance(source, SkipUnreadable) else wrap(source)


def note_replaced(why: Iterable[str]) -> None:
    """Print a line on each image that was replaced, once per process."""
    for reason in why:
        note(f"replaced: {reason}", every_process=True)


def _spread(length: int, num: int) -> list[int]:
    """One random index of each of `num` parts of equal length, always the same ones; all if there are no more."""
    if length <= num:
        return list(range(length))
    edges = np.linspace(0, length, num + 1).astype(np.int64)
    return np.random.default_rng(0).integers(edges[:-1], edges[1:]).tolist()


def _why_unreadable(source: Source, index: int) -> str | None:
    try:
        source[index]
    except ItemError as error:
        return str(error)
    return None
