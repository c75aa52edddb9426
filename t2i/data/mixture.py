"""Weighted mixtures of sources, such as "photos=0.7,toybox=0.3".

Item i of a mixture is always the same item of the same source, so that order, resuming and caches are those of any
other source. Sources alternate in a pattern of at most PERIOD items, in which each occurs in proportion to its weight;
so do they in every part of the mixture. A source that ends before the others starts again.

Shapes: K sources · P length of the pattern
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np

from t2i.data.base import Source, augmented, buckets_of, caption_lists
from t2i.data.buckets import Buckets, Shape
from t2i.data.fingerprint import combine
from t2i.data.unreadable import REPLACED

PERIOD = 1000  # so weights are in thousandths of their sum
KEPT = ("image", "text", "texts", REPLACED)  # what items of all sources may have
_WEIGHTED = r"(.+?)=(\d+\.?\d*|\.\d+)(?:,|$)"


class Mixture:
    """Items {"image", "text"} of K sources in proportion to their weights; its length covers all items of each source.

    Raises ValueError for a weight of less than a thousandth of the sum.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float]):
        self.sources, self.weights = tuple(sources), tuple(weights)
        self._counts = _counts(weights)  # (K,): how often each source occurs in the pattern
        self._pattern = _pattern(self._counts)  # (P,): the source of each item
        occurs = self._pattern[None] == np.arange(len(self.sources))[:, None]
        self._before = np.cumsum(occurs, 1) - occurs  # (K, P): how often each source occurred before
        periods = max(-(-len(source) // int(n)) for source, n in zip(sources, self._counts, strict=True))
        self._length = len(self._pattern) * periods

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict:
        source, i = self._find(index)
        return _kept(source[i])

    def sample(self, index: int, rng: np.random.Generator, shape: Shape | None = None) -> dict:
        source, i = self._find(index)
        return _kept(augmented(source, i, rng, shape))

    @property
    def buckets(self) -> Buckets | None:
        """Those of all items; sources without buckets have squares."""
        found = [buckets_of(source) for source in self.sources]
        shapes = next((buckets.shapes for buckets in found if buckets is not None), None)
        if shapes is None:
            return None
        of = np.zeros((self._length // len(self._pattern), len(self._pattern)), np.uint8)  # a row for each period
        for k, buckets in enumerate(found):
            if buckets is not None:
                of[:, self._pattern == k] = np.resize(buckets.of, (len(of), self._counts[k]))  # repeated as items are
        return Buckets(shapes, of.ravel())

    def captions(self, limit: int) -> Iterator[str]:
        return (texts[0] for texts in self.caption_lists(limit))

    def caption_lists(self, limit: int) -> Iterator[tuple[str, ...]]:
        texts = [_again_and_again(source) for source in self.sources]
        return (next(texts[k]) for k in islice(chain.from_iterable(repeat(self._pattern)), min(limit, len(self))))

    def fingerprint(self) -> str:
        return combine("mixture", self._counts.tolist(), *(source.fingerprint() for source in self.sources))

    def _find(self, index: int) -> tuple[Source, int]:
        """The source of an item, and the item's index in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} items")
        period, place = divmod(int(index), len(self._pattern))
        k = self._pattern[place]
        return self.sources[k], int(period * self._counts[k] + self._before[k, place]) % len(self.sources[k])


def mixture_of(name: str) -> dict[str, float]:
    """{source: weight} of a mixture "a=0.7,b=0.3"; any other name, or one of a file, has weight 1.

    Raises ValueError for weights of 0, and for a source that is named twice.
    """
    if Path(name).exists() or not re.fullmatch(f"(?:{_WEIGHTED}){{2,}}", name):
        return {name: 1.0}
    found = [(source, float(weight)) for source, weight in re.findall(_WEIGHTED, name)]
    weights = dict(found)
    if len(weights) < len(found) or min(weights.values()) <= 0:
        raise ValueError(f"{name} is no mixture: name each source once, with a weight above 0, as in a=0.7,b=0.3")
    return weights


def _kept(item: dict) -> dict:
    return {name: item[name] for name in KEPT if name in item}


def _again_and_again(source: Source) -> Iterator[tuple[str, ...]]:
    while True:
        yield from caption_lists(source, len(source))


def _counts(weights: Sequence[float]) -> np.ndarray:
    """Numbers of items in proportion to the weights, int64 (K,), with a sum of at most PERIOD and no common divisor."""
    exact = np.asarray(weights, np.float64) / sum(weights) * PERIOD
    counts = exact.astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: PERIOD - counts.sum()]] += 1  # the largest remainders
    if not counts[least := int(counts.argmin())]:
        raise ValueError(f"a weight of {weights[least]:g} of {sum(weights):g} is below a thousandth: leave it out")
    return counts // np.gcd.reduce(counts)


def _pattern(counts: np.ndarray) -> np.ndarray:
    """The indices of K sources, int64 (P,), each as evenly spread as possible: the one that is most behind is next."""
    given, pattern = np.zeros(len(counts)), []
    for place in range(1, int(counts.sum()) + 1):
        k = int(np.argmax(counts * place / counts.sum() - given))
        given[k] += 1
        pattern.append(k)
    return np.array(pattern)
