"""Batches of the images that requests wait for. One thread owns the pipeline, since a pipeline serves one at a time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image


class QueueFull(Exception):
    """As many jobs wait as may wait."""


class Closing(Exception):
    """No new jobs are taken: those that wait are finished."""


@dataclass(frozen=True, eq=False)
class Job:
    """Images of one prompt, one for each seed.

    Args:
        options: further arguments of the pipeline's call; jobs with equal ones share a batch.
        images: the images, or what the pipeline raised; a job that is cancelled before it starts costs nothing.
    """

    prompt: str
    seeds: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    images: Future[list[Image.Image]] = field(default_factory=Future)


class Batcher:
    """Generates the images of waiting jobs, in batches.

    A batch begins with the job that has waited longest, and takes others with the same options. Each image has a
    generator of its own, so that it is the one that its seed gives alone, up to the rounding in a batch of this size.

    Args:
        generate: makes the images of prompts, one each, given a list of generators and further options, as a pipeline
            does; only the batcher's thread calls it.
        max_batch_size: maximum number of images in a batch, but for a job that has more.
        max_waiting: maximum number of jobs that wait.
        on_batch: is told the number of images of each batch and the seconds it took.
    """

    def __init__(
        self,
        generate: Callable[..., Sequence[Image.Image]],
        max_batch_size: int = 8,
        max_waiting: int = 64,
        on_batch: Callable[[int, float], None] = lambda images, seconds: None,
    ):
        self.generate, self.on_batch = generate, on_batch
        self.max_batch_size, self.max_waiting = max_batch_size, max_waiting
        self._jobs: deque[Job] = deque()
        self._changed, self._closing = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="pipeline", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of jobs that wait."""
        with self._changed:
            return len(self._wanted())

    def submit(self, job: Job) -> None:
        """Let a job wait for its turn. Raises QueueFull or Closing."""
        with self._changed:
            if self._closing:
                raise Closing
            if len(self._wanted()) >= self.max_waiting:
                raise QueueFull
            self._jobs.append(job)
            self._changed.notify()

    def close(self, timeout: float | None = None) -> None:
        """Take no new jobs, and return when those that wait are finished, or after some seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)

    def _wanted(self) -> deque[Job]:
        """The jobs that wait, without those that were cancelled, which are dropped."""
        self._jobs = deque(job for job in self._jobs if not job.images.cancelled())
        return self._jobs

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            self._generate([job for job in batch if job.images.set_running_or_notify_cancel()])

    def _next(self) -> list[Job] | None:
        """The jobs of the next batch, as soon as there are any; None when all work is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closing)
            if not self._jobs:
                return None
            batch: list[Job] = []
            for job in self._wanted():
                size = sum(len(other.seeds) for other in (*batch, job))
                if not batch or (job.options == batch[0].options and size <= self.max_batch_size):
                    batch.append(job)
            self._jobs = deque(job for job in self._jobs if job not in batch)
        return batch

    def _generate(self, batch: Sequence[Job]) -> None:
        if not batch:
            return
        prompts = [job.prompt for job in batch for _ in job.seeds]
        generators = [torch.Generator().manual_seed(seed) for job in batch for seed in job.seeds]
        started = time.perf_counter()
        try:
            images = self.generate(prompts, generator=generators, **batch[0].options)
        except Exception as error:
            if len(batch) == 1:
                batch[0].images.set_exception(error)
                return
            for job in batch:  # one job's prompt must not fail the others
                self._generate([job])
            return
        self.on_batch(len(images), time.perf_counter() - started)
        for job in batch:
            job.images.set_result(images[: len(job.seeds)])
            images = images[len(job.seeds) :]
