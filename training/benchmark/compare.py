"""`t2i compare`: every unconditional model trained for the same seconds on the same pictures, in one table.

Each family trains and is measured in a process of its own (`family.py`), so that its memory and its failures
are its own. The folder `out` holds settings.json, a result for each family in families/, their runs in runs/, and the
table as compare.html and compare.csv, written anew after each family.
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

REAL = "real-pictures"  # the row of training pictures in place of samples
SETTINGS_FILE = "settings.json"
UNITS = {"s": 1, "m": 60, "h": 3600}
INTERRUPTED = {-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM}  # how a process then ends


@dataclass(frozen=True)
class Compare:
    """What `t2i compare` is told; all but `out` and `families` is kept in the folder. Raises UsageError."""

    data: str = "digits"
    """'digits', a folder of IDX files (MNIST's format), 'mnist', 'fashion', 'cifar10', 'toybox', a folder of pictures
    (folders in it are classes), or a data set of the Hub."""
    budget: str = "10m"
    """Training of each family, as in 90s, 10m or 1h; previews, scores and checkpoints do not count."""
    out: str = "reports/compare"
    """Folder of the table and the runs. Families that are there already are not trained again."""
    families: tuple[str, ...] = ()
    """Names of recipes; by default all of unconditional models."""
    preset: Literal["base", "tiny"] = "base"
    """Sizes of the models: base for 28×28 pictures, tiny for 8×8."""
    levels: int | None = None
    """Values of a pixel, by default all that the data have; 2: each is drawn with its intensity."""
    image_size: int | None = None
    """Side of the square pictures, in pixels; by default their own."""
    gray: bool = False
    """Make colour pictures grey."""
    samples: int = 1000
    """Samples of each model, and at most as many test pictures that they are compared with."""
    scored: int | None = None
    """Test pictures whose likelihood is measured; by default what each recipe says."""
    extractor: str = "auto"
    """Network of the features: reader, random, pixels, inception[:FILE], …; auto: reader for toybox, else random."""
    learning_rate: float | None = None
    """Of all families, by default each recipe's own."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Of training; samples and scores are in float32."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("--samples", self.samples, least=2)
        if self.scored is not None:
            check_whole("--scored", self.scored)
        check_seeds("--seed", self.seed)
        if self.levels is not None and not 2 <= self.levels <= 256:
            raise UsageError(f"--levels must lie in [2, 256], not {self.levels}")
        if self.learning_rate is not None:
            check_real("--learning-rate", self.learning_rate, above=True)
        if self.image_size is not None:
            check_whole("--image-size", self.image_size, most=MAX_SIDE)
        check_distinct("--families", self.families)
        check_folder(self.out)
        seconds(self.budget)


def seconds(budget: str) -> float:
    """'90s', '10m', '1.5h' or a number -> seconds. Raises UsageError for other texts, and for 0."""
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)([smh]?)", budget)
    found = float(match[1]) * UNITS[match[2] or "s"] if match else 0.0
    if not found > 0:
        raise UsageError(f"--budget is a time such as 90s, 10m or 1h, not {shortened(budget)}")
    return found


def main(args: Sequence[str]) -> None:
    """Train every family of unconditional models for the same time, and show them in one table."""
    compare(parse(Compare(), args, prog="t2i compare", description=main.__doc__))


def compare(ask: Compare) -> Path:
    """Run what is not there yet, and write the table; its page.

    Raises UsageError for unknown families, FileExistsError for a folder of other settings, and as the data do. A family
    that fails says so in its row, until its result is removed. Ctrl-C waits for a checkpoint; the same call goes on
    from there.
    """
    from t2i.eval.features import open_extractor
    from t2i.training.benchmark.page import summary, write  # not before: --help should not wait for torch

    known = list(families())
    for name in ask.families:
        check_choice("family", name, known)
    asked = [REAL, *(name for name in known if name in (ask.families or known))]
    ask = _resolved(ask)
    open_extractor(ask.extractor)
    out = Path(ask.out)
    _keep(ask, out)
    for i, name in enumerate(asked, 1):
        if result_file(out, name).is_file():
            print(f"{i}/{len(asked)} {name}: is there", flush=True)
        else:
            print(f"{i}/{len(asked)} {name} … ({log_file(out, name)})", flush=True)
            _in_its_own_process(out, name, [sys.executable, "-m", "t2i.training.benchmark.family", str(out), name])
        error = read(out, name)["error"]
        if error:
            print(f"{i}/{len(asked)} {name} failed: {error}; remove {result_file(out, name)} to try again", flush=True)
        results = [read(out, each) for each in [REAL, *known] if result_file(out, each).is_file()]
        page = write(results, settings(out), out)
    print(summary(results))
    print(f"{page} and {page.with_suffix('.csv')}")
    return page


def families() -> dict[str, type]:
    """The recipes of unconditional models by name, and the class that each trains, in the order of RECIPES."""
    from t2i.models.base import GenerativeModel
    from t2i.training.model_options import ModelOptions
    from t2i.training.recipes import RECIPES

    options = {name: getattr(recipe("base"), "model", None) for name, recipe in RECIPES.items()}
    models = {name: o.model_class for name, o in options.items() if isinstance(o, ModelOptions)}
    return {name: model for name, model in models.items() if issubclass(model, GenerativeModel)}


def result_file(out: Path, name: str) -> Path:
    """What is known of a family; written last."""
    return out / "families" / f"{name}.json"


def log_file(out: Path, name: str) -> Path:
    """What the family's process printed."""
    return out / "families" / f"{name}.log"


def strip_file(out: Path, name: str) -> Path:
    """Its pictures in the table."""
    return out / "families" / f"{name}.png"


def settings(out: Path) -> Compare:
    """What the folder's families were asked for."""
    return Compare(out=str(out), **read_json(out / SETTINGS_FILE))


def read(out: Path, name: str) -> dict:
    """The family's result; its "error" is None where all went well."""
    return read_json(result_file(out, name))


def _resolved(ask: Compare) -> Compare:
    """With the levels and the extractor that the data ask for. Raises as `open_splits` does."""
    from t2i.data.splits import open_splits

    splits = open_splits(ask.data, ask.image_size, ask.seed)
    extractor = ask.extractor
    if extractor == "auto":
        extractor = "reader" if ask.data == "toybox" else "random"
    budget = f"{seconds(ask.budget):g}s"  # the same for 10m and 600s
    return dataclasses.replace(ask, levels=ask.levels or splits.levels, extractor=extractor, budget=budget)


def _keep(ask: Compare, out: Path) -> None:
    """Write settings.json, or compare the one that is there."""
    now = {k: v for k, v in dataclasses.asdict(ask).items() if k not in ("out", "families")}
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
        raise FileExistsError(f"{out} holds something else than a comparison: choose another --out")
    (out / "families").mkdir(parents=True)
    write_json(file, now)


def _in_its_own_process(out: Path, name: str, command: Sequence[str]) -> None:
    """Run the command that writes a family's result; if its process ends without one, that is its result.

    Raises KeyboardInterrupt, without a result, where one of the two is interrupted or terminated.
    """
    with log_file(out, name).open("ab") as log, _terminated_as_interrupted():
        # In a session of its own, so that Ctrl-C reaches it once and not also from the terminal.
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            code = process.wait()
        except KeyboardInterrupt:
            print(f"{name}: waiting for a checkpoint; the same command goes on from there", flush=True)
            process.send_signal(signal.SIGINT)
            try:
                process.wait()
            except KeyboardInterrupt:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            raise
    if result_file(out, name).is_file():
        return
    if code in INTERRUPTED:  # by somebody else
        raise KeyboardInterrupt
    last = (log_file(out, name).read_text(errors="replace").strip().splitlines() or ["nothing said"])[-1]
    why = f"its process was ended by signal {-code}" if code < 0 else f"its process ended with {code}: {last}"
    write_json(result_file(out, name), {"family": name, "error": why})


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Within, SIGTERM is a Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():  # elsewhere Python allows no handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
