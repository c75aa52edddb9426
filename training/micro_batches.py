"""Batches that are computed in pieces when memory runs out; the step, and what it learns from, stay the same.

Shapes: a batch is a dict of tensors (B, …)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

T = TypeVar("T")


class DoesNotFit(ValueError):
    """A training step needs more memory than there is; the message has the remedy."""


class MicroBatches:
    """Halves the number of images that are computed at once, until a step fits in memory.

    Losses that compare the images of a batch, as CLIP's does, then compare fewer.

    Args:
        batch: B, --train-batch-size.
        passes: --gradient-accumulation-steps.
        model: is tried again only if a forward pass changes nothing in it: a step must not be counted twice, as it
            would be by a codebook's moving averages.
    """

    def __init__(self, batch: int, passes: int, model: nn.Module, accelerator: Accelerator):
        self.batch, self.passes, self.accelerator = batch, passes, accelerator
        self.size = batch
        parameters = {name for name, _ in model.named_parameters()}
        self.stateless = model.state_dict().keys() <= parameters

    def fitted(self, work: Callable[[int], T], undo: Callable[[], None]) -> T:
        """The result of `work`, given how many images to compute at once; of several tries if memory runs out.

        Args:
            undo: called after a failed try.

        Raises DoesNotFit if not even one image fits, with several processes, which cannot all be halted at the same
        point, and for a model with state that a forward pass changes.
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
            raise DoesNotFit("out of memory: not even one image fits; set --gradient-checkpointing") from error
        self.size = -(-self.size // 2)
        if self.accelerator.num_processes > 1 or not self.stateless:
            options = f"--train-batch-size {self.size} --gradient-accumulation-steps {self.passes * 2}"
            remedy = f"{options}, the same global batch"
            if self.batch % 2:
                remedy = f"a --train-batch-size of at most {self.size}"
            again = "start again (if there is a checkpoint, with --resume latest)"
            raise DoesNotFit(f"out of memory: {again} with {remedy}") from error
        print(f"\nwarning: out of memory; {self.size} images at once instead of {self.batch}", file=sys.stderr)


def split(batch: dict[str, Tensor], size: int) -> Iterator[tuple[dict[str, Tensor], float]]:
    """Pieces of at most `size` rows, and each one's share of all rows."""
    rows = len(next(iter(batch.values())))
    for start in range(0, rows, size):
        piece = {name: x[start : start + size] for name, x in batch.items()}
        yield piece, min(size, rows - start) / rows
