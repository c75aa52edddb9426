"""Batches that are computed in pieces when memory runs out; the step, and what it learns from, stay the same.

Shapes: a batch is a dict of tensors (B, …)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

T = TypeVar("T")


class MicroBatches:
    """Halves the number of images that are computed at once, until a step fits in memory.

    Losses that compare the images of a batch, as CLIP's does, then compare fewer.

    Args:
        batch: B, --train-batch-size.
        passes: --gradient-accumulation-steps.
    """

    def __init__(self, batch: int, passes: int, accelerator: Accelerator):
        self.batch, self.passes, self.accelerator = batch, passes, accelerator
        self.size = batch

    def fitted(self, work: Callable[[int], T], undo: Callable[[], None]) -> T:
        """The result of `work`, given how many images to compute at once; of several tries if memory runs out.

        Args:
            undo: called after a failed try.

        Raises torch.OutOfMemoryError with several processes, which cannot all be halted at the same point, and if not
        even one image fits.
        """
        while True:
            try:
                return work(self.size)
            except torch.OutOfMemoryError as error:
                self._halve(error)
            undo()  # not within `except`: the error's traceback would keep the activations
            if self.accelerator.device.type == "cuda":
                torch.cuda.empty_cache()

    def _halve(self, error: torch.OutOfMemoryError) -> None:
        if self.size == 1:
            raise torch.OutOfMemoryError(f"not even one image fits: set --gradient-checkpointing ({error})") from error
        self.size = -(-self.size // 2)
        if self.accelerator.num_processes > 1:
            same = f"--train-batch-size {self.size} --gradient-accumulation-steps {self.passes * 2}"
            remedy = f"resume with {same}, the same global batch" if self.batch % 2 == 0 else "give smaller batches"
            raise torch.OutOfMemoryError(f"out of memory: {remedy} ({error})") from error
        print(f"\nwarning: out of memory; {self.size} images at once instead of {self.batch}", file=sys.stderr)


def split(batch: dict[str, Tensor], size: int) -> Iterator[tuple[dict[str, Tensor], float]]:
    """Pieces of at most `size` rows, and each one's share of all rows."""
    rows = len(next(iter(batch.values())))
    for start in range(0, rows, size):
        piece = {name: x[start : start + size] for name, x in batch.items()}
        yield piece, min(size, rows - start) / rows
