"""How long the weights take on one large GPU, by arithmetic: operations counted, speeds assumed.

A step takes the longest of three: the arithmetic of its batch, the launches of its kernels, and the images that the
CPU's cores prepare for it. FLOPs and launches are counted on the models themselves, on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.recipes import batch_of, task_of
from benchmarks.timing import cores
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from t2i.tables import format_table
from t2i.training.optimizers import make_optimizer

# Of an NVIDIA H200 and the machine around it.
PEAK = 989e12  # FLOP/s, dense, bfloat16: the vendor's number
UTILISATION = 0.05  # of it: matrices a few hundred wide, and norms and activations between them
LAUNCH = 10e-6  # seconds between two kernels that PyTorch launches one by one
COMPILING = 30.0  # seconds of torch.compile, for a recipe's blocks
OVERHEAD = 25.0  # seconds of a recipe beside its steps: imports, vocabulary, previews, scores, checkpoints
RENDERED = 1000.0  # images a second and core: measured from 1,300 to 2,500 on one of an EPYC's
BATCH = 2  # that is counted

__all__ = ["Estimate", "cores", "estimate", "table", "total_seconds"]


@dataclass(frozen=True)
class Estimate:
    """Seconds of one recipe, and what they follow from."""

    recipe: str
    steps: int
    batch: int
    flops: float  # of a sample, forward and backward
    step_flops: float  # of the optimiser, a step
    launches: int  # of kernels, a step
    renders: float  # images a sample that are rendered as it comes
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
    """Counts operations that are no views."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def estimate(name: str, recipe, renders: float, cores: int) -> Estimate:
    """Count a recipe's step on the CPU. `renders`: images a sample that are rendered as it comes."""
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
    """Of images rendered ahead."""
    return images / (RENDERED * cores)


def total_seconds(estimates: list[Estimate], rendered: int, cores: int) -> float:
    """Of all recipes, one after the other, and of the images rendered ahead."""
    return rendering_seconds(rendered, cores) + sum(e.seconds for e in estimates)


def table(estimates: list[Estimate], rendered: int, cores: int) -> str:
    """The estimates, a line each, the assumptions above them and the sum below."""
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
