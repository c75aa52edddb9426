"""`t2i compare`: train every unconditional model for the same time on the same images and compare them in one table.

Each family is trained and evaluated in a separate process (`family.py`), so that memory is measured separately and a
failure affects one family only. The folder `out` holds settings.json, one result per family in families/, the runs in
runs/, and the table as compare.html and compare.csv, which are rewritten after each family.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from t2i.arguments import parse
from t2i.checks import (
    MAX_SIDE,
    UsageError,
    check_choice,
    check_distinct,
    check_real,
    check_seeds,
    check_whole,
    shortened,
)
from t2i.files import check_folder, read_json, write_json

REAL = "real-images"  # the row with training images in place of samples
SETTINGS_FILE = "settings.json"
UNITS = {"s": 1, "m": 60, "h": 3600}
INTERRUPTED = {-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM}  # exit codes if interrupted


@dataclass(frozen=True)
class BenchmarkConfig:
    """Options of `t2i compare`; all but `out` and `families` are stored in the folder. Raises UsageError."""

    data: str = "digits"
    """Data: digits, mnist, fashion, cifar10, toybox, a folder of IDX files (MNIST's format), a folder of images
    (subfolders are classes), or a dataset on the Hub."""
    budget: str = "10m"
    """Training time per family, such as 90s, 10m or 1h; excludes previews, evaluation and checkpoints."""
    out: str = "reports/compare"
    """Output folder for the table and the runs. Families already in it are not trained again."""
    families: tuple[str, ...] = ()
    """Recipes to compare; default: all recipes of unconditional models."""
    preset: Literal["base", "tiny"] = "base"
    """Model sizes: base for 28×28 images, tiny for 8×8."""
    levels: int | None = None
    """Number of pixel levels; default: the data's. With 2, pixels are binarised by sampling from their intensities."""
    image_size: int | None = None
    """Side of the square images in pixels; default: the data's."""
    gray: bool = False
    """Convert images to grayscale."""
    num_images: int = 1000
    """Number of samples per model, and of test images to compare them with."""
    num_test_images: int | None = None
    """Number of test images for the likelihood; default: the recipe's."""
    extractor: str = "auto"
    """Feature extractor: toybox-v1, random, pixels, inception[:FILE], …; auto: toybox-v1 for toybox, else random."""
    learning_rate: float | None = None
    """Learning rate for all families; default: the recipe's."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Precision of training; sampling and evaluation are in float32."""
    seed: int = 0
    """Seed for data, training and sampling."""

    def __post_init__(self) -> None:
        check_whole("--num-images", self.num_images, least=2)
        if self.num_test_images is not None:
            check_whole("--num-test-images", self.num_test_images)
        check_seeds("--seed", self.seed)
        if self.levels is not None:
            check_real("--levels", self.levels, 2, 256)
        if self.learning_rate is not None:
            check_real("--learning-rate", self.learning_rate, above=True)
        if self.image_size is not None:
            check_whole("--image-size", self.image_size, most=MAX_SIDE)
        check_distinct("--families", self.families)
        check_folder(self.out)
        seconds(self.budget)


def seconds(budget: str) -> float:
    """'90s', '10m', '1.5h' or a number -> seconds. Raises UsageError for any other text, and for 0."""
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)([smh]?)", budget)
    time = float(match[1]) * UNITS[match[2] or "s"] if match else 0.0
    if not time > 0:
        raise UsageError(f"--budget is a time such as 90s, 10m or 1h, not {shortened(budget)}")
    return time


def main(args: Sequence[str]) -> None:
    """Train every unconditional model for the same time and compare them in one table."""
    compare(parse(BenchmarkConfig(), args, prog="t2i compare", description=main.__doc__))


def compare(config: BenchmarkConfig) -> Path:
    """Train and evaluate the families missing from the folder and write the table; returns the path of the page.

    Raises UsageError for unknown families, FileExistsError for a folder with other settings, and as `open_splits` does.
    If a family fails, the error is shown in its row until its result is removed. Ctrl-C saves a checkpoint, from which
    the same call resumes.
    """
    from t2i.eval.features import open_extractor
    from t2i.training.benchmark.page import summary, write  # deferred: --help should not load torch

    known = list(families())
    for name in config.families:
        check_choice("family", name, known)
    names = [REAL, *(name for name in known if name in (config.families or known))]
    config = _resolved(config)
    open_extractor(config.extractor)
    out = Path(config.out)
    _keep(config, out)
    for i, name in enumerate(names, 1):
        if result_file(out, name).is_file():
            print(f"{i}/{len(names)} {name}: already done", flush=True)
        else:
            print(f"{i}/{len(names)} {name} … ({log_file(out, name)})", flush=True)
            _in_its_own_process(out, name, [sys.executable, "-m", "t2i.training.benchmark.family", str(out), name])
        error = read(out, name)["error"]
        if error:
            print(f"{i}/{len(names)} {name} failed: {error}; remove {result_file(out, name)} to try again", flush=True)
        results = [read(out, each) for each in [REAL, *known] if result_file(out, each).is_file()]
        page = write(results, settings(out), out)
    print(summary(results))
    print(f"{page} and {page.with_suffix('.csv')}")
    return page


def families() -> dict[str, type]:
    """Recipes of unconditional models and the class that each trains, in the order of RECIPES."""
    from t2i.training.recipes import RECIPES
    from t2i.training.recipes.unconditional.base import UnconditionalRecipe
    from t2i.training.recipes.unconditional.linear import LinearRecipe

    recipes = {name: recipe("base") for name, recipe in RECIPES.items()}
    return {
        name: recipe.model.constructor
        for name, recipe in recipes.items()
        if isinstance(recipe, UnconditionalRecipe | LinearRecipe)
    }


def result_file(out: Path, name: str) -> Path:
    """The result file of a family, which is written last."""
    return out / "families" / f"{name}.json"


def log_file(out: Path, name: str) -> Path:
    """Log file of the family's process."""
    return out / "families" / f"{name}.log"


def strip_file(out: Path, name: str) -> Path:
    """Image file of the family's samples in the table."""
    return out / "families" / f"{name}.png"


def settings(out: Path) -> BenchmarkConfig:
    """The settings of the folder."""
    return BenchmarkConfig(out=str(out), **read_json(out / SETTINGS_FILE))


def read(out: Path, name: str) -> dict:
    """The family's result; "error" is None on success."""
    return read_json(result_file(out, name))


def _resolved(config: BenchmarkConfig) -> BenchmarkConfig:
    """The config with levels and extractor set from the data. Raises as `open_splits` does."""
    from t2i.data.splits import open_splits

    splits = open_splits(config.data, config.image_size, config.seed)
    extractor = config.extractor
    if extractor == "auto":
        extractor = "toybox-v1" if config.data in ("toybox-v1", "toybox-factors") else "random"
    budget = f"{seconds(config.budget):g}s"  # the same string for 10m and 600s
    return dataclasses.replace(config, levels=config.levels or splits.levels, extractor=extractor, budget=budget)


def _keep(config: BenchmarkConfig, out: Path) -> None:
    """Write settings.json, or raise FileExistsError if the existing one differs."""
    now = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("out", "families")}
    file = out / SETTINGS_FILE
    if file.is_file():
        before = read_json(file)
        changed = [f"{k}: {before.get(k)} -> {now[k]}" for k in now if before.get(k) != now[k]]
        if changed:
            raise FileExistsError(
                f"{out} holds a comparison of other settings ({'; '.join(changed)}): choose another --out"
            )
        return
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} holds something other than a comparison: choose another --out")
    (out / "families").mkdir(parents=True)
    write_json(file, now)


def _in_its_own_process(out: Path, name: str, command: Sequence[str]) -> None:
    """Run the command that writes a family's result; if it exits without one, record the exit code as the result.

    Raises KeyboardInterrupt, without writing a result, if this process or the family's is interrupted or terminated.
    """
    with log_file(out, name).open("ab") as log, _terminated_as_interrupted():
        # In a new session, so that Ctrl-C reaches it once and not also from the terminal.
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            code = process.wait()
        except KeyboardInterrupt:
            print(f"{name}: waiting for a checkpoint; the same command resumes from there", flush=True)
            process.send_signal(signal.SIGINT)
            try:
                process.wait()
            except KeyboardInterrupt:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            raise
    if result_file(out, name).is_file():
        return
    if code in INTERRUPTED:  # interrupted by another process
        raise KeyboardInterrupt
    last = (log_file(out, name).read_text(errors="replace").strip().splitlines() or ["no output"])[-1]
    why = f"its process was ended by signal {-code}" if code < 0 else f"its process ended with {code}: {last}"
    write_json(result_file(out, name), {"family": name, "error": why})


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Context manager under which SIGTERM raises KeyboardInterrupt, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():  # Python allows signal handlers only there
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
