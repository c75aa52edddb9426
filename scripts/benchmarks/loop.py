"""The training loop, compared with bare PyTorch loops with the same loss, optimizer and batches."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from benchmarks.timing import Benchmark, Row
from t2i.data.sampling import NumberBatches, NumberedSamples
from t2i.data.sources import Source
from t2i.training.config import LoopConfig
from t2i.training.loop import train
from t2i.training.optimizers import make_optimizer
from t2i.training.recipes import RECIPES
from t2i.training.recipes.dalle.tokenizers import TokenizerTask

COUNTED = 100  # number of steps per row
CLIPPED, BARE = "bare loop with clipping and EMA", "bare loop"


@dataclass(frozen=True)
class Loop(Benchmark):
    """Overhead of the training loop: CPU seconds for 100 steps of `vqvae-toybox --preset tiny`, against bare loops.

    The loops alternate step by step, so that disturbances affect all equally; a step's time is the median over all
    runs. The images are rendered in advance, and all loops read them without workers.

    Args:
        batch: batch size.
        steps: number of steps per run; the first half is not counted.
    """

    batch: int = 8
    steps: int = 160

    def run(self) -> list[Row]:
        seconds: dict[str, list[float]] = {name: [] for name in ("", CLIPPED, BARE)}
        for _ in range(self.repeats):
            for name, taken in self._once().items():
                seconds[name] += taken[self.steps // 2 :]
        medians = {name: COUNTED * statistics.median(taken) for name, taken in seconds.items()}
        work, ours = f"{COUNTED} steps of the tiny VQ-VAE, {self.batch} images, CPU time", medians[""]
        return [Row(work, ours, name, medians[name], medians[name] / ours) for name in (CLIPPED, BARE)]

    def _once(self) -> dict[str, list[float]]:
        """CPU seconds of each step of each loop."""
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            loop = RECIPES["vqvae-toybox"]("tiny").loop
            sizes = {"max_train_steps": self.steps, "train_batch_size": self.batch, "dataloader_num_workers": 0}
            config = dataclasses.replace(loop, output_dir=folder, checkpointing_steps=self.steps, **sizes)
            turns = Turns({CLIPPED: _bare(_task(), config, True), BARE: _bare(_task(), config, False)})
            task = _task()
            loss = task.loss

            def timed(images: Tensor) -> dict[str, Tensor]:
                turns.take()
                return loss(images)

            task.loss = timed
            with contextlib.redirect_stdout(io.StringIO()):
                train(task, config, {})
        return turns.seconds


class Turns:
    """Runs a step of each peer before each of our steps, and records the CPU time of all."""

    def __init__(self, peers: dict[str, Iterator[None]]):
        self.peers = peers
        self.seconds: dict[str, list[float]] = {name: [] for name in ("", *peers)}
        self._since: float | None = None
        self._order = list(peers)

    def take(self) -> None:
        """To be called at the same point of each of our steps."""
        now = time.process_time()
        if self._since is not None:
            self.seconds[""].append(now - self._since)
        self._order = self._order[1:] + self._order[:1]  # rotates the order, so that none always follows the same one
        for name in self._order:
            before = time.process_time()
            next(self.peers[name])
            self.seconds[name].append(time.process_time() - before)
        self._since = time.process_time()


class Rendered:
    """The first images of a source, in memory."""

    def __init__(self, source: Source, num: int = 64):
        self.items = [{name: source[i][name] for name in ("image", "text")} for i in range(num)]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        return self.items[index]

    def captions(self, limit: int) -> Iterator[str]:
        return (item["text"] for item in itertools.islice(self.items, limit))

    def fingerprint(self) -> str:
        return "the first images of toybox"


def _task() -> TokenizerTask:
    task = RECIPES["vqvae-toybox"]("tiny").task()
    task.source = Rendered(task.source)
    return task


def _bare(task: TokenizerTask, config: LoopConfig, clip_and_average: bool) -> Iterator[None]:
    """A minimal hand-written loop, one step at a time."""
    numbers = NumberBatches(0, config.max_train_steps, config.train_batch_size, 1, 0, 1)
    batches = DataLoader(NumberedSamples(task.source, task.prepare, config.seed), batch_sampler=numbers)
    optimizer = make_optimizer(task.model, config)
    averaged = AveragedModel(task.model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    task.model.train()
    for batch in batches:
        loss = task.loss(**batch)["loss"]
        loss.backward()
        if clip_and_average:
            torch.nn.utils.clip_grad_norm_(task.model.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        if clip_and_average:
            averaged.update_parameters(task.model)
        loss.item()  # a loop that displays its loss
        yield
