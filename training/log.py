"""What a run leaves to look at: a line of numbers for each step, the curves, the pictures, TensorBoard."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from PIL import Image
from tqdm import tqdm

from t2i.files import write_whole, writing
from t2i.plots import COLOURS, new_figure, save_png, styled
from t2i.training.config import LoopConfig


class RunLog:
    """Progress bar, `metrics.jsonl`, `curves.png`, `samples/step-N.png`; all by the main process alone.

    A resumed run first drops the lines of steps after the checkpoint it goes on from.
    """

    def __init__(self, config: LoopConfig, done: int, accelerator: Accelerator):
        self.run = Path(config.output_dir)
        self.main = accelerator.is_main_process
        self.batch = config.train_batch_size * config.gradient_accumulation_steps * accelerator.num_processes
        self.history: list[dict] = []
        self.started = time.perf_counter()
        if not self.main:
            return
        by_time = config.max_train_time is not None
        end = f"to {config.max_train_steps}" if not by_time else f"on, for {config.max_train_time:g} s of training"
        accelerator.print(
            f"{self.run}: steps {done + 1} {end}, global batch {self.batch} = "
            f"{config.train_batch_size} images × {accelerator.num_processes} processes × "
            f"{config.gradient_accumulation_steps} accumulated"
        )
        path = self.run / "metrics.jsonl"
        if done and path.exists():
            self.history = [line for line in _whole_lines(path) if line["step"] <= done]
        write_whole(path, "".join(json.dumps(line) + "\n" for line in self.history))
        self.file = path.open("a")
        total = None if by_time else config.max_train_steps * self.batch
        self.bar = tqdm(total=total, initial=done * self.batch, unit=" images", desc=self.run.name)
        self.board = _tensorboard(self.run, done) if config.report_to == "tensorboard" else None

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *exc) -> None:
        if not self.main:
            return
        self.bar.close()
        with contextlib.suppress(Exception):  # on a full disk: the error that ends the run is the one to hear of
            self.file.close()
            if self.board:
                self.board.close()

    def step(self, step: int, scalars: dict[str, float]) -> None:
        if not self.main:
            return
        line = {"step": step, "images": step * self.batch, **scalars}
        self.history.append(line)
        with writing(self.run / "metrics.jsonl"):
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
        self.bar.update(self.batch)
        self.bar.set_postfix(loss=f"{scalars['loss']:.4f}", refresh=False)
        if self.board and (step % 10 == 0 or step == 1):
            for name, value in scalars.items():
                self.board.add_scalar(name, value, step)

    def show(self, step: int, preview: Callable[[], Image.Image]) -> None:
        """Save a preview and the curves so far. What fails costs a warning, and the run goes on."""
        with tolerated(step, "preview"):
            self._picture(step, preview())
        with tolerated(step, "curves"):
            self._curves()

    def _picture(self, step: int, image: Image.Image) -> None:
        folder = self.run / "samples"
        folder.mkdir(exist_ok=True)
        image.save(folder / f"step-{step:06d}.png")
        if self.board:
            self.board.add_image("samples", np.array(image), step, dataformats="HWC")

    def _curves(self) -> None:
        plot_curves(self.history, self.run / "curves.png")


@contextlib.contextmanager
def tolerated(step: int, what: str) -> Iterator[None]:
    """A context in which an error costs step `step` its preview, say, and a warning: the run goes on."""
    try:
        yield
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"\nwarning: step {step} has no {what}, the run goes on ({words})", file=sys.stderr)


@styled
def plot_curves(history: list[dict], path: Path) -> None:
    """One panel for each scalar, raw in grey and smoothed (over a fiftieth of the run) in blue."""
    names = [n for n in history[0] if n not in ("step", "images", "seconds")]
    steps = [line["step"] for line in history]
    width = max(1, len(history) // 50)
    rows = -(-len(names) // 3)
    figure = new_figure(12, 2.8 * rows)
    for i, name in enumerate(names):
        values = np.array([line[name] for line in history])
        sums = np.concatenate([[0.0], values.cumsum()])
        ends = np.arange(1, len(values) + 1)
        starts = np.maximum(0, ends - width)
        means = (sums[ends] - sums[starts]) / (ends - starts)
        axes = figure.add_subplot(rows, 3, i + 1)
        axes.plot(steps, values, color="0.8", linewidth=0.8)
        axes.plot(steps, means, color=COLOURS[0], linewidth=1.4)
        axes.set_title(name)
        axes.set_xlabel("step")
        if name not in ("lr", "codes_used") and values.min() > 0:
            axes.set_yscale("log")
    save_png(figure, path, dpi=90)


def _whole_lines(path: Path) -> list[dict]:
    """The lines up to the first that a crash cut short."""
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def _tensorboard(run: Path, done: int):
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run / "tensorboard"), purge_step=done + 1)
