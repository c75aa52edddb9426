"""Images/s and training steps/s on a device, by precision and batch size, eager and compiled.

Each row compares one setting with the simplest of its kind, which the row names; rows are written as they are measured,
so that a time limit does not lose earlier ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from accelerate.utils import send_to_device
from diffusers.training_utils import EMAModel

from benchmarks.recipes import batch_of, task_of
from benchmarks.timing import Benchmark, Row, write
from t2i.pipelines import AutoPipeline
from t2i.pipelines.sampling_options import SamplingOptions
from t2i.training.compilation import compile_blocks
from t2i.training.optimizers import make_optimizer
from t2i.training.recipes import RECIPES

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BATCHES = {"prior-toybox": 256, "ldm-toybox": 512, "vqvae-toybox": 256, "kl-toybox": 128}


@dataclass(frozen=True)
class Generation(SamplingOptions, Benchmark):
    """Throughput of an embedded system on a device.

    Args:
        device: device, such as "cuda" or "cpu".
        system: name of the embedded system.
        batches: batch sizes.
        precisions: precisions of the weights.
        compiled: also measure the denoiser, or the prior's blocks, compiled: in bfloat16, at the last batch size but
            one.
    """

    device: str = "cuda"
    system: str = "toybox/ldm"
    batches: tuple[int, ...] = (1, 16, 64, 256)
    precisions: tuple[str, ...] = ("float32", "bfloat16", "float16")
    compiled: bool = True

    def run(self) -> list[Row]:
        rows, plain = [], {}
        settings = [(p, b, False) for p in self.precisions for b in self.batches]
        if self.compiled:
            settings += [(p, b, True) for p in self.precisions[1:2] for b in self.batches[-2:-1]]
        pipe, now = None, None
        for precision, batch, compiled in settings:
            if pipe is None or now != (precision, compiled):
                pipe, now = self._open(precision, compiled), (precision, compiled)
            seconds, mb = measure(lambda pipe=pipe, batch=batch: self._call(pipe, batch), self.device, self.repeats)
            how = f"{precision}, {'compiled' if compiled else 'eager'}"
            plain.setdefault(batch, (how, seconds, mb))
            peer, peer_s, peer_mb = plain[batch]
            work = f"{self.system}, {batch} images, {how}"
            rows.append(Row(work, seconds, peer, peer_s, peer_s / seconds, mb, peer_mb, batch))
            write(rows[-1:], self.out)
        return rows

    def _open(self, precision: str, compiled: bool):
        pipe = AutoPipeline.from_pretrained(self.system, dtype=PRECISIONS[precision]).to(self.device)
        pipe.set_progress_bar_config(disable=True)
        if compiled and hasattr(pipe, "prior"):
            compile_blocks(pipe.prior)
        elif compiled:
            pipe.unet = torch.compile(pipe.unet)
        return pipe

    def _call(self, pipe, batch: int) -> None:
        generators = [torch.Generator().manual_seed(i) for i in range(batch)]
        pipe(["an avocado armchair"] * batch, generator=generators, output_type="pt", **self.sampling_options())


@dataclass(frozen=True)
class Training(Benchmark):
    """Training steps of recipes on a device in bfloat16, eager and compiled, with batches already on the device.

    Args:
        device: device, such as "cuda" or "cpu".
        recipes: names of the recipes.
        batch: batch size; default: one that saturates a large GPU.
        preset: preset of the recipes.
        compiled: also measure with compiled blocks.
        steps: number of steps per timing.
    """

    device: str = "cuda"
    recipes: tuple[str, ...] = tuple(BATCHES)
    batch: int | None = None
    preset: str = "base"
    compiled: bool = True
    steps: int = 10

    def run(self) -> list[Row]:
        rows, plain = [], {}
        # Eager runs come first: they compile nothing, and what comes after a time limit is lost.
        for compiled in (False, True) if self.compiled else (False,):
            for name in self.recipes:
                work, seconds, mb = self._measure(name, self.batch or BATCHES[name], compiled)
                peer_s, peer_mb = plain.setdefault(name, (seconds, mb))
                rows.append(Row(work, seconds, "bfloat16, eager", peer_s, peer_s / seconds, mb, peer_mb, self.steps))
                write(rows[-1:], self.out)
        return rows

    def _measure(self, name: str, batch: int, compiled: bool) -> tuple[str, float, float | None]:
        step = TrainingStep(name, self.preset, batch, self.device, compiled)

        def steps() -> None:
            for _ in range(self.steps):
                step()

        seconds, mb = measure(steps, self.device, self.repeats)
        return f"train {name}, batch {batch}, bfloat16, {'compiled' if compiled else 'eager'}", seconds, mb


@dataclass
class TrainingStep:
    """One optimizer step of a recipe, as in the training loop, on one batch that is reused."""

    name: str
    preset: str
    batch: int
    device: str
    compiled: bool
    inputs: dict = field(init=False)

    def __post_init__(self) -> None:
        recipe = RECIPES[self.name](self.preset)
        self.task = task_of(recipe)
        self.inputs = send_to_device(batch_of(self.task, self.batch), torch.device(self.device))
        if self.compiled:
            compile_blocks(self.task.model)
        self.model = self.task.model.to(self.device).train()
        self.optimizer = make_optimizer(self.model, recipe.loop)
        self.ema = EMAModel(self.model.parameters(), foreach=True)

    def __call__(self) -> None:
        with torch.autocast(self.device, torch.bfloat16):
            loss = self.task.loss(**self.inputs)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.model.parameters())


def measure(work: Callable[[], object], device: str, repeats: int) -> tuple[float, float | None]:
    """Minimum seconds of the work, after a warm-up for allocation and compilation, and on CUDA the peak MiB."""
    on_cuda = torch.device(device).type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    work()
    seconds = []
    for _ in range(repeats):
        _wait(on_cuda)
        start = time.perf_counter()
        work()
        _wait(on_cuda)
        seconds.append(time.perf_counter() - start)
    return min(seconds), torch.cuda.max_memory_allocated() / 2**20 if on_cuda else None


def _wait(on_cuda: bool) -> None:
    if on_cuda:
        torch.cuda.synchronize()
