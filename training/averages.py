"""Exponential moving average of the weights; the averaged weights are saved and evaluated."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from t2i.training.sharding import is_sharded, local, unsharded, whole

POWER = 3 / 4  # after n steps the decay is at most 1 - n^(-3/4)


class AveragedWeights:
    """ā ← ā + (1 - d) (w - ā) after each step, with a decay d that increases towards `decay`.

    Parameters that do not require gradients are not copied. Averages of sharded parameters are sharded alike.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float):
        self.parameters, self.decay, self.steps = list(parameters), decay, 0
        self.averages = [p.detach().clone() if p.requires_grad else p.detach() for p in self.parameters]
        moving = [(a, p) for a, p in zip(self.averages, self.parameters, strict=True) if p.requires_grad]
        self._moving, self._followed = ([pair[i] for pair in moving] for i in (0, 1))

    @torch.no_grad()
    def step(self) -> None:
        """Update the averages with the current weights."""
        decay = min(self.decay, 1 - (1 + self.steps) ** -POWER)
        self.steps += 1
        torch._foreach_lerp_([local(a) for a in self._moving], [local(p) for p in self._followed], 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Context manager under which the parameters, which must not be sharded, are the averages."""
        with torch.no_grad():
            trained = [p.detach().clone() for p in self._followed]
            torch._foreach_copy_(self._followed, self._moving)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._followed, trained)


@contextlib.contextmanager
def averaged(model: nn.Module, averages: AveragedWeights) -> Iterator[None]:
    """Context manager under which the model has the averaged weights; a sharded one is whole, on every process.

    All processes must enter it together. After that, each may use the model alone.
    """
    if not is_sharded(model):
        with averages.applied():
            yield
        return
    pairs = zip(averages.parameters, averages.averages, strict=True)
    with unsharded(model, {p: whole(average) for p, average in pairs}):
        yield
