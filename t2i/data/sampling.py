"""The order of samples: a pure function of (seed, sample number), so that resuming needs no state.

A run numbers its samples: step s with global batch G uses the numbers s·G … (s + 1)·G − 1, for any number of processes.
All randomness of a sample (its position in the shuffled epoch, its crop, its caption, whether its text is dropped)
depends only on its number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from torch.utils.data import Dataset

from t2i.data.base import training_sample
from t2i.data.sources import Source
from t2i.data.unreadable import REPLACED

LARGE = 2**22  # number of items from which on their order is computed place by place, and not held in memory
ROUNDS = 6  # of the Feistel network
MASK = 2**64 - 1


class NumberedSamples(Dataset):
    """Sample number n: item π_e(n mod len) of the source in epoch e = n div len, prepared with its own generator.

    `prepare(item, rng)` converts an item of the source to the input of the stage's model.
    """

    def __init__(self, source: Source, prepare: Callable[[dict, np.random.Generator], dict], seed: int):
        if len(source) == 0:
            raise ValueError("there is nothing to train on: the data set is empty")
        self.source, self.prepare, self.seed = source, prepare, seed

    def __getitem__(self, number: int) -> dict:
        epoch, place = divmod(number, len(self.source))
        index = shuffled(place, len(self.source), self.seed, epoch)
        rng = np.random.default_rng((self.seed, number))
        item = training_sample(self.source, index, rng)
        replaced = {REPLACED: item[REPLACED]} if REPLACED in item else {}
        return self.prepare(item, rng) | replaced


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


@lru_cache(maxsize=2)
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
