"""Logging: metrics per step, training curves, previews, and Accelerate's trackers."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from PIL import Image
from tqdm import tqdm

from t2i.files import write_whole, writing
from t2i.plots import COLOURS, new_figure, save_png, styled, use_log_scale
from t2i.training.config import LoopConfig
from t2i.training.reference import Curve, moving_average, smoothing_width


class RunLog:
    """Progress bar, `metrics.jsonl`, `curves.png`, `samples/step-N.png`, and the trackers named by `report_to`.

    Only the main process logs. On resume, lines of steps after the checkpoint are dropped first.

    Args:
        done: steps before this session.
        reference: curves to show with those of this run, by metric.
    """

    def __init__(
        self, config: LoopConfig, done: int, accelerator: Accelerator, reference: Mapping[str, Curve] | None = None
    ):
        self.reference = reference or {}
        self.run, self.accelerator = Path(config.output_dir), accelerator
        self.main = accelerator.is_main_process
        self.batch = config.train_batch_size * config.gradient_accumulation_steps * accelerator.num_processes
        self.history: list[dict] = []
        if config.report_to != "none":
            project = "tensorboard" if config.report_to == "tensorboard" else "t2i"  # TensorBoard's is a folder
            options = {"tensorboard": {"purge_step": done + 1}, "wandb": {"name": self.run.name, "dir": str(self.run)}}
            accelerator.init_trackers(project, init_kwargs=options)
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

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *exc) -> None:
        if not self.main:
            return
        self.bar.close()
        with contextlib.suppress(Exception):  # on a full disk: the error that ended the run is the one to report
            self.file.close()
            for tracker in self.accelerator.trackers:
                tracker.finish()

    def step(self, step: int, scalars: dict[str, float]) -> None:
        """Log the scalars of a step, and advance the progress bar; trackers get every tenth step."""
        if not self.main:
            return
        line = {"step": step, "images": step * self.batch, **scalars}
        self.history.append(line)
        with writing(self.run / "metrics.jsonl"):
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
        self.bar.update(self.batch)
        if "loss" in scalars:  # not in a skipped step
            self.bar.set_postfix(loss=f"{scalars['loss']:.4f}", refresh=False)
        if step % 10 == 0 or step == 1:
            self.accelerator.log(scalars, step)

    def show(self, step: int, preview: Callable[[], Image.Image]) -> None:
        """Save a preview and the curves so far. On failure, warn and continue."""
        with tolerated(step, "preview"):
            self._save(step, preview())
        with tolerated(step, "curves"):
            plot_curves(self.history, self.run / "curves.png", self.reference)

    def _save(self, step: int, image: Image.Image) -> None:
        folder = self.run / "samples"
        folder.mkdir(exist_ok=True)
        image.save(folder / f"step-{step:06d}.png")
        images = {"samples": np.array(image)[None]}
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images(images, step, dataformats="NHWC")
            elif tracker.name == "wandb":
                tracker.log_images(images, step)


def tracker_of(report_to: str) -> str | None:
    """`log_with` for an Accelerator. Raises ValueError, with the remedy, if the tracker is not installed."""
    if report_to == "none":
        return None
    if report_to != "all" and report_to not in map(str, get_available_trackers()):
        package = {"comet_ml": "comet-ml"}.get(report_to, report_to)
        raise ValueError(f"--report-to {report_to} needs a package that is not installed: pip install {package}")
    return report_to


@contextlib.contextmanager
def tolerated(step: int, what: str) -> Iterator[None]:
    """Context manager that turns an error in an optional part of a step, such as the preview, into a warning."""
    try:
        yield
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"\nwarning: step {step} has no {what}; training continues ({words})", file=sys.stderr)


@styled
def plot_curves(history: list[dict], path: Path, reference: Mapping[str, Curve] = MappingProxyType({})) -> None:
    """One panel per metric: raw values in grey, in blue the moving average over a fiftieth of the run, and dashed the
    reference, up to twice the number of steps so far.

    Steps without a metric are left out of its panel: a batch may have nothing that it measures.
    """
    names = [n for n in dict.fromkeys(n for line in history for n in line) if n not in ("step", "images", "seconds")]
    rows = -(-len(names) // 3)
    figure = new_figure(12, 2.8 * rows)
    compared = False
    batch, last = history[-1]["images"] / history[-1]["step"], history[-1]["step"]
    for i, name in enumerate(names):
        steps, values = np.array([(line["step"], line[name]) for line in history if name in line]).T
        means = moving_average(values, smoothing_width(values))
        axes = figure.add_subplot(rows, 3, i + 1)
        axes.plot(steps, values, color="0.8", linewidth=0.8)
        axes.plot(steps, means, color=COLOURS[0], linewidth=1.4)
        if name in reference:
            images, expected = reference[name]
            shown = images / batch <= 2 * last
            compared |= shown.any()
            axes.plot(images[shown] / batch, expected[shown], "--", color=COLOURS[1], linewidth=1.1)
        axes.set_title(name)
        axes.set_xlabel("step")
        if name not in ("lr", "codes_used") and values.min() > 0:
            use_log_scale(axes, "y")
    if compared:
        figure.supxlabel("dashed: the run of the embedded weights", color=COLOURS[1], fontsize="medium")
    save_png(figure, path, dpi=90)


def _whole_lines(path: Path) -> list[dict]:
    """All lines before the first one truncated by a crash."""
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines
