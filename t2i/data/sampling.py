"""The order of samples: a pure function of (seed, sample number), so that resuming needs no state.

A run numbers its samples: step s with global batch G uses the numbers s·G … (s + 1)·G − 1, for any number of processes.
All randomness of a sample (its position in the shuffled epoch, its crop, its caption, whether its text is dropped)
depends only on its number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from torch.utils.data import Dataset

from t2i.data.base import training_sample
from t2i.data.sources import Source
from t2i.data.unreadable import REPLACED


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
        index = _permutation(len(self.source), self.seed, epoch)[place]
        rng = np.random.default_rng((self.seed, number))
        item = training_sample(self.source, int(index), rng)
        replaced = {REPLACED: item[REPLACED]} if REPLACED in item else {}
        return self.prepare(item, rng) | replaced


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
