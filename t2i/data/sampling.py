"""Which sample comes when: a pure function of (seed, sample number), so that resuming needs no state.

A run counts its samples: step s of a run with global batch G sees the numbers s·G … (s + 1)·G − 1, whatever the number
of processes. Everything random about a sample (its place in the shuffled epoch, its caption, whether its text is
dropped) follows from its number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from torch.utils.data import Dataset

from t2i.data.sources import Source


class NumberedSamples(Dataset):
    """Sample number n: item π_e(n mod len) of the source in epoch e = n div len, prepared with a generator of its own.

    `prepare(item, rng)` turns an item of the source into what the stage's model takes.
    """

    def __init__(self, source: Source, prepare: Callable[[dict, np.random.Generator], dict], seed: int):
        if len(source) == 0:
            raise ValueError("there is nothing to train on: the data set is empty")
        self.source, self.prepare, self.seed = source, prepare, seed

    def __getitem__(self, number: int) -> dict:
        epoch, place = divmod(number, len(self.source))
        index = _permutation(len(self.source), self.seed, epoch)[place]
        rng = np.random.default_rng((self.seed, number))
        return self.prepare(self.source[int(index)], rng)


@lru_cache(maxsize=2)
def _permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, length)).permutation(length)


class NumberBatches:
    """The batches of one process, from `start_step` to the end: lists of sample numbers.

    A step's global batch is `accumulation` passes of `world` consecutive blocks; process `rank` takes block `rank` of
    each. So two processes with half the batch see together just what one sees alone, in the same order.
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
