"""Progress and end of a run: by number of steps, or by training time."""

from __future__ import annotations

import time
from collections.abc import Iterator

from t2i.training.config import LoopConfig

UNENDING = 2**31  # number of steps when training time is the limit


class Budget:
    """Counts a run's steps and seconds, including those before a resume.

    Seconds cover training steps and waiting for data, not checkpoints, evaluation and previews, so that a model that is
    slow to sample or evaluate trains as long as any other. Processes use the mean of their seconds, and so stop at the
    same step. `skipped` is the number of steps that changed nothing (see `FiniteSteps`).
    """

    def __init__(self, config: LoopConfig, step: int = 0, seconds: float = 0.0, skipped: int = 0):
        self.config, self.step, self.seconds, self.skipped = config, step, seconds, skipped
        self._before = seconds
        self.pause()

    def steps(self) -> Iterator[int]:
        """Yield the numbers of the remaining steps; call `spend` after each."""
        while not self.spent:
            self.step += 1
            yield self.step

    def lap(self) -> float:
        """Seconds since the last call of `lap` or `pause`."""
        before, self._since = self._since, time.perf_counter()
        return self._since - before

    def pause(self) -> None:
        """Exclude the time since the last `lap`."""
        self._since = time.perf_counter()

    def spend(self, seconds: float) -> float:
        """Add a step's seconds; returns the run's total so far."""
        self._before, self.seconds = self.seconds, self.seconds + seconds
        return self.seconds

    @property
    def spent(self) -> bool:
        """Whether the limit is reached."""
        if self.config.max_train_time is None:
            return self.step >= self.config.max_train_steps
        return self.seconds >= self.config.max_train_time

    def __str__(self) -> str:
        if self.config.max_train_time is None:
            done, unit, limit = self.step, "steps", self.config.max_train_steps
        else:
            done, unit, limit = round(self.seconds), "s of training", self.config.max_train_time
        return f"{done} {unit}, more than {self.option} {limit:g}" if done > limit else f"{done} of {limit:g} {unit}"

    @property
    def option(self) -> str:
        """The command-line option that sets the limit."""
        return "--max-train-steps" if self.config.max_train_time is None else "--max-train-time"

    @property
    def done(self) -> float:
        """Fraction of the run completed before the current step, in [0, 1]."""
        if self.config.max_train_time is None:
            return (self.step - 1) / self.config.max_train_steps
        return min(1.0, self.seconds / self.config.max_train_time)

    @property
    def checkpoint_due(self) -> bool:
        """Whether the run ends, or `checkpointing_steps` have passed; runs by time have equally many checkpoints."""
        config = self.config
        if config.max_train_time is None:
            return self.spent or self.step % config.checkpointing_steps == 0
        every = config.max_train_time * config.checkpointing_steps / config.max_train_steps
        return self.spent or self.seconds // every > self._before // every
