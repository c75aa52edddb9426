"""Estimates the training time of the embedded weights on one large GPU, from counted operations and assumed speeds.

A step takes the maximum of three times: the arithmetic of its batch, its kernel launches, and image preparation on the
CPU cores. FLOPs and launches are counted on the actual models, on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.recipes import batch_of, task_of
from benchmarks.timing import cores
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from t2i.tables import format_table
from t2i.training.optimizers import make_optimizer

# For an NVIDIA H200 and its host.
PEAK = 989e12  # FLOP/s, dense, bfloat16: the vendor's figure
UTILISATION = 0.05  # fraction of the peak: matrices a few hundred wide, with norms and activations in between
LAUNCH = 10e-6  # seconds between two kernel launches in eager PyTorch
COMPILING = 30.0  # seconds of torch.compile per recipe
OVERHEAD = 25.0  # seconds per recipe besides its steps: imports, vocabulary, previews, scores, checkpoints
RENDERED = 1000.0  # images/s per core: measured from 1,300 to 2,500 on one core of an EPYC
BATCH = 2  # batch size used for counting

__all__ = ["Estimate", "cores", "estimate", "table", "total_seconds"]


@dataclass(frozen=True)
class Estimate:
    """Estimated seconds of one recipe, and the quantities they are derived from."""

    recipe: str
    steps: int
    batch: int
    flops: float  # per sample, forward and backward
    step_flops: float  # of the optimizer, per step
    launches: int  # kernel launches per step
    renders: float  # images rendered on the fly per sample
    cores: int
    compiled: bool

    @property
    def arithmetic(self) -> float:
        return self.steps * (self.batch * self.flops + self.step_flops) / (PEAK * UTILISATION)

    @property
    def launching(self) -> float:
        return self.steps * self.launches * LAUNCH

    @property
    def data(self) -> float:
        return self.steps * self.batch * self.renders / (RENDERED * self.cores)

    @property
    def seconds(self) -> float:
        return max(self.arithmetic, self.launching, self.data) + COMPILING * self.compiled + OVERHEAD


class _Launches(TorchDispatchMode):
    """Counts operations other than views."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def estimate(name: str, recipe, renders: float, cores: int) -> Estimate:
    """Count a recipe's operations per step on the CPU. `renders`: images rendered on the fly per sample."""
    task, loop = task_of(recipe), recipe.loop
    task.model.train()
    batch = batch_of(task, BATCH)
    optimizer = make_optimizer(task.model, loop)
    flops, launches = FlopCounterMode(display=False), _Launches()
    with launches:
        with flops:
            task.loss(**batch)["loss"].backward()
        with FlopCounterMode(display=False) as step_flops:
            optimizer.step()
    return Estimate(
        name,
        loop.max_train_steps,
        loop.train_batch_size,
        flops.get_total_flops() / BATCH,
        step_flops.get_total_flops(),
        launches.count,
        renders,
        cores,
        loop.compile,
    )


def rendering_seconds(images: int, cores: int) -> float:
    """Seconds to render images in advance."""
    return images / (RENDERED * cores)


def total_seconds(estimates: list[Estimate], rendered: int, cores: int) -> float:
    """Seconds of all recipes, one after the other, and of rendering images in advance."""
    return rendering_seconds(rendered, cores) + sum(e.seconds for e in estimates)


def table(estimates: list[Estimate], rendered: int, cores: int) -> str:
    """The estimates, one row each, with the assumptions above and the sum below."""
    head = [
        "recipe",
        "steps",
        "batch",
        "samples",
        "GFLOP/sample",
        "launches/step",
        "FLOPs",
        "launches",
        "data",
        "total",
    ]
    rows = [
        (
            e.recipe,
            f"{e.steps:,}",
            f"{e.batch:,}",
            f"{e.steps * e.batch:,}",
            f"{e.flops / 1e9:.2f}",
            f"{e.launches:,}",
            *(f"{s:.0f} s" for s in (e.arithmetic, e.launching, e.data, e.seconds)),
        )
        for e in estimates
    ]
    lines = format_table(head, rows, right=range(1, len(head)))
    assumed = (
        f"Assumed: an NVIDIA H200 at {UTILISATION:.0%} of {PEAK / 1e12:.0f} TFLOP/s in bfloat16, "
        f"{LAUNCH * 1e6:.0f} µs for the launch of a kernel, {RENDERED:,.0f} images/s rendered on each of {cores} cores."
        f" A recipe takes the longest of its FLOPs, launches and data, {COMPILING:.0f} s to compile where it is "
        f"compiled, and {OVERHEAD:.0f} s for start, previews and checkpoints."
    )
    ahead, total = rendering_seconds(rendered, cores), total_seconds(estimates, rendered, cores)
    last = f"{rendered:,} images rendered ahead: {ahead:.0f} s. In all {total:.0f} s, {total / 60:.1f} minutes."
    return "\n".join((assumed, "", lines, "", last))
