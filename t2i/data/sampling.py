"""The order of samples: a pure function of (seed, sample number), so that resuming needs no state.

A run numbers its samples: step s with global batch G uses the numbers s·G … (s + 1)·G − 1, for any number of processes.
All randomness of a sample (its position in the shuffled epoch, its crop, its caption, whether its text is dropped)
depends only on its number.

Shapes: N images · K buckets · G global batch
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
from torch.utils.data import Dataset

from t2i.data.base import buckets_of, training_sample
from t2i.data.buckets import Buckets, Shape
from t2i.data.sources import Source
from t2i.data.unreadable import REPLACED

LARGE = 2**22  # number of items from which on their order is computed place by place, and not held in memory
ROUNDS = 6  # of the Feistel network
MASK = 2**64 - 1
BLOCK = 2**12  # number of images among which one is searched for by its bucket


class NumberedSamples(Dataset):
    """Sample number n: item π_e(n mod len) of the source in epoch e = n div len, prepared with its own generator.

    Of a source with aspect-ratio buckets, the order is that of `BucketOrder`, and an image has its bucket's shape.

    Args:
        prepare: `prepare(item, rng)` converts an item of the source to the input of the stage's model.
        global_batch: G, on which the order of a source with buckets depends.
    """

    def __init__(
        self,
        source: Source,
        prepare: Callable[[dict, np.random.Generator], dict],
        seed: int,
        global_batch: int = 1,
    ):
        if len(source) == 0:
            raise ValueError("there is nothing to train on: the data set is empty")
        self.source, self.prepare, self.seed = source, prepare, seed
        buckets = buckets_of(source)
        self._order = None if buckets is None else BucketOrder(buckets, global_batch, seed)

    def __getitem__(self, number: int) -> dict:
        index, shape = self._find(number)
        rng = np.random.default_rng((self.seed, number))
        item = training_sample(self.source, index, rng, shape)
        replaced = {REPLACED: item[REPLACED]} if REPLACED in item else {}
        return self.prepare(item, rng) | replaced

    def _find(self, number: int) -> tuple[int, Shape | None]:
        """The item of a sample, and the shape of its image if there are buckets."""
        if self._order is not None:
            return self._order.find(number)
        epoch, place = divmod(number, len(self.source))
        return shuffled(place, len(self.source), self.seed, epoch), None


class BucketOrder:
    """The order of images in batches of one bucket each, in which every image is used equally often.

    The images of a bucket, shuffled anew each time they have all been used, are an endless sequence that is cut into
    batches. Epoch e has those batches of each bucket that are complete after e + 1 times its images and not after e
    times, which are ⌊(e + 1)·n / G⌋ − ⌊e·n / G⌋ of n images, in random order. So no image is left out: what is over at
    the end of an epoch is in the bucket's next batch. A batch is that of a whole step, so its images do not depend on
    how many processes and passes it is divided among.

    Memory is the buckets' one byte per image, and any sample is found from its number alone.

    Args:
        batch: G.
    """

    def __init__(self, buckets: Buckets, batch: int, seed: int):
        self.shapes, self.of, self.batch, self.seed = buckets.shapes, buckets.of, batch, seed
        starts, K = range(0, len(self.of), BLOCK), len(self.shapes)
        self._before = np.zeros((len(starts) + 1, K), np.int64)  # images of a bucket before a block
        for block, start in enumerate(starts):
            counts = np.bincount(self.of[start : start + BLOCK], minlength=K)
            self._before[block + 1] = self._before[block] + counts
        self._sizes: list[int] = self._before[-1].tolist()  # (K,): n

    def find(self, number: int) -> tuple[int, Shape]:
        """The image of a sample, and the shape of its bucket."""
        step, place = divmod(number, self.batch)
        bucket, batch = self._batch_of(step)
        n = self._sizes[bucket]
        epoch, place = divmod(batch * self.batch + place, n)
        return self._image(bucket, feistel(place, n, _keys(self.seed, epoch, n))), self.shapes[bucket]

    def _batch_of(self, step: int) -> tuple[int, int]:
        """The bucket of a step, and which of the bucket's batches it has."""
        epoch = step * self.batch // len(self.of)  # or a later one
        while sum(after := self._complete(epoch + 1)) <= step:
            epoch += 1
        before = self._complete(epoch)
        num = sum(after) - sum(before)
        place = feistel(step - sum(before), num, _keys(self.seed, epoch, num))
        starts = [0, *accumulate(b - a for a, b in zip(before, after, strict=True))]  # of each bucket's batches
        bucket = bisect_right(starts, place) - 1
        return bucket, before[bucket] + place - starts[bucket]

    def _complete(self, epochs: int) -> list[int]:
        """The number of batches of each bucket that are complete after all its images were used so many times, (K,)."""
        return [epochs * n // self.batch for n in self._sizes]

    def _image(self, bucket: int, rank: int) -> int:
        """The index of a bucket's image, counted from 0."""
        block = int(np.searchsorted(self._before[:, bucket], rank, side="right")) - 1
        start, rest = block * BLOCK, rank - int(self._before[block, bucket])
        return start + int(np.flatnonzero(self.of[start : start + BLOCK] == bucket)[rest])


def shuffled(place: int, length: int, seed: int, epoch: int) -> int:
    """The item at a place of an epoch's random order."""
    if length <= LARGE:
        return int(_permutation(length, seed, epoch)[place])
    return feistel(place, length, _keys(seed, epoch, length))


def feistel(place: int, length: int, keys: Sequence[int]) -> int:
    """π(place) of a random permutation of 0 … length - 1, in constant time and memory.

    A Feistel network (Luby and Rackoff 1988) permutes the numbers of an even number of bits; a result beyond the range
    is permuted again, which ends within it.

    Args:
        keys: random 64-bit integers, one per round.
    """
    half = ((length - 1).bit_length() + 1) // 2
    low = 2**half - 1
    while True:
        left, right = place >> half, place & low
        for key in keys:
            left, right = right, left ^ _mixed(right ^ key) & low
        place = left << half | right
        if place < length:
            return place


def _mixed(x: int) -> int:
    """A hash of a 64-bit integer: the finalizer of SplitMix64 (Steele et al. 2014)."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


@lru_cache(maxsize=256)  # each bucket has its own epoch
def _keys(seed: int, epoch: int, length: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng((seed, epoch, length)).integers(0, MASK, ROUNDS, np.uint64).tolist())


@lru_cache(maxsize=2)
def _permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, length)).permutation(length)


class NumberBatches:
    """The batches of one process, from `start_step` to the end: lists of sample numbers.

    A step's global batch is `accumulation` passes of `world` consecutive blocks; process `rank` takes block `rank` of
    each. So two processes with half the batch each see the same samples in the same order as one process.
    """

    def __init__(self, start_step: int, end_step: int, batch: int, accumulation: int, rank: int, world: int):
        self.start_step, self.end_step = start_step, end_step
        self.batch, self.accumulation, self.rank, self.world = batch, accumulation, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        for forward in range(self.start_step * self.accumulation, self.end_step * self.accumulation):
            first = (forward * self.world + self.rank) * self.batch
            yield list(range(first, first + self.batch))

    def __len__(self) -> int:
        return (self.end_step - self.start_step) * self.accumulation
