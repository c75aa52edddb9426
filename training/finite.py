"""Losses, gradients and weights that are NaN or infinite: the step is skipped, and in the end the run stops."""

from __future__ import annotations

import math
import sys

import torch
from accelerate import Accelerator
from torch import nn

from t2i.training.budget import Budget
from t2i.training.checkpoints import Checkpoints
from t2i.training.sharding import local


class NonFiniteLoss(FloatingPointError):
    """The loss, its gradient, or the weights became NaN or infinite."""


OVERFLOWS = 40  # in a row, that fp16 is allowed: the gradient scaler halves its scale, at first 2^16, after each


class FiniteSteps:
    """Decides which steps may change the weights.

    Args:
        limit: raise after this many skipped steps in a row; fp16 is allowed at least OVERFLOWS overflowing gradients.
        budget: counts the skipped steps.
    """

    def __init__(self, limit: int, budget: Budget, accelerator: Accelerator, checkpoints: Checkpoints):
        self.limit, self.budget, self.accelerator, self.checkpoints = limit, budget, accelerator, checkpoints
        self.skipped_in_a_row = 0

    def allows(self, scalars: dict[str, float], model: nn.Module) -> bool:
        """Whether the loss and its gradient are finite; all processes must call this, with the same scalars.

        If not, the step is counted, and what is not finite is taken out of the scalars. Raises NonFiniteLoss if the
        step has poisoned the model, as buffers are updated in the forward pass, or if it is one too many.
        """
        finite_loss = math.isfinite(scalars["loss"])
        if finite_loss and math.isfinite(scalars["grad_norm"]):
            self.skipped_in_a_row = 0
            return True
        overflow = finite_loss and self.accelerator.scaler is not None  # expected in fp16, and not worth a warning
        values = f"the loss is {scalars['loss']} and its gradient's norm {scalars['grad_norm']}"
        self.skipped_in_a_row += 1
        self.budget.skipped += 1
        step, broken = self.budget.step, self._broken(model)
        if broken or self.skipped_in_a_row >= (max(self.limit, OVERFLOWS) if overflow else self.limit):
            before = self.skipped_in_a_row - 1
            details = (f", as in the {before} before it" if before else "") + (
                f", and {broken} has non-finite values" if broken else ""
            )
            raise NonFiniteLoss(f"at step {step} {values}{details}; {self._lower_rate()}")
        if self.accelerator.is_main_process and not overflow:
            print(f"\nwarning: step {step} is skipped: {values}", file=sys.stderr)
        finite = {name: value for name, value in scalars.items() if math.isfinite(value)}
        scalars.clear()
        scalars.update(finite, skipped_steps=self.budget.skipped)
        return False

    def check(self, model: nn.Module) -> None:
        """Raise NonFiniteLoss if a weight or buffer is not finite; all processes must call this.

        The loss was finite before a step, but its update may not be.
        """
        if broken := self._broken(model):
            what = f"{broken} has non-finite values; the step was not saved"
            raise NonFiniteLoss(f"after step {self.budget.step} {what}; {self._lower_rate()}")

    def _broken(self, model: nn.Module) -> str | None:
        """The name of a weight or buffer that is not finite on some process."""
        floats = {name: local(x) for name, x in model.state_dict().items() if x.is_floating_point()}
        broken = torch.stack([~x.isfinite().all() for x in floats.values()]).float()
        if self.accelerator.num_processes > 1:
            broken = self.accelerator.reduce(broken, reduction="sum")
        counts = broken.tolist()  # one synchronisation with the device
        return next((name for name, count in zip(floats, counts, strict=True) if count), None)

    def _lower_rate(self) -> str:
        self.checkpoints.wait()  # for one that a thread is writing; raises its error
        kept = self.checkpoints.newest()
        how = f"resume from the last checkpoint, {kept}," if kept else "start again"
        return f"{how} with a lower --learning-rate"
