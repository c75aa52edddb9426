"""How near a block's samples come to the data as it trains: `python scripts/plot_fid_curve.py RUN`.

For each checkpoint that the run has kept (see --checkpoints-total-limit) the Fréchet distance of samples, always from
the same seed, to the test pictures, as CSV and as a plot. It is called FID where the features are Inception's.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib.figure

from t2i.blocks import load_block
from t2i.blocks.base import from_levels
from t2i.cli_errors import UsageError, exit_on_bad_input, parse
from t2i.data.digits import open_splits
from t2i.eval.block_measures import draw, features
from t2i.eval.features import measure_name, open_extractor
from t2i.eval.metrics import frechet_distance
from t2i.files import write_whole
from t2i.training.block_stage import PreparePixels, drawn
from t2i.training.checkpoints import RECIPE_FILE


@dataclass(frozen=True)
class PlotCurve:
    out: str = ""
    """Folder of fid.csv and fid.png; by default the run's own."""
    extractor: str = ""
    """As `t2i eval` takes them; by default 'reader' for toybox and 'random' for other data."""
    samples: int = 1000
    """Of each checkpoint, and as many test pictures at most."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise UsageError(f"--samples must be at least 2, not {self.samples}")


def main(args: list[str]) -> None:
    if not args or args[0].startswith("-"):
        raise UsageError("say which run: plot_fid_curve.py RUN")
    run = Path(args[0])
    ask = parse(PlotCurve(), args[1:], prog="plot_fid_curve.py RUN", description=__doc__)
    if not (run / RECIPE_FILE).is_file():
        raise UsageError(f"{run} is no folder of a run: it has no {RECIPE_FILE}")
    recipe = json.loads((run / RECIPE_FILE).read_text())
    if "levels" not in recipe:  # as all have that are trained on BlockDataConfig
        raise UsageError(f"{run} is no run of an unconditional model: there is nothing to sample without a prompt")
    splits = open_splits(recipe["data"], recipe["image_size"], recipe["seed"], **_columns(recipe))
    extractor = open_extractor(ask.extractor or ("reader" if recipe["data"] == "toybox" else "random"), ask.device)
    checkpoints, rows = _checkpoints(run), []
    first = load_block(checkpoints[0][1])
    if not first.samples:
        raise UsageError(f"a {type(first).__name__} has nothing to sample from")
    test, labels = drawn(splits.test, PreparePixels(first.levels, first.shape[0]), ask.samples)
    real = features(extractor, from_levels(test, first.levels))
    for step, folder in checkpoints:
        images, _ = draw(load_block(folder).to(ask.device), ask.samples, labels)
        distance = frechet_distance(features(extractor, images), real)
        rows.append((step, distance))
        print(f"{folder.name}: {distance:.3f}", flush=True)
    out = Path(ask.out or run)
    out.mkdir(parents=True, exist_ok=True)
    name = measure_name("FD", extractor)
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([("step", name), *rows])
    write_whole(out / "fid.csv", table.getvalue())
    plot(rows, f"{name}, {ask.samples} samples").savefig(out / "fid.png", dpi=120)
    print(out / "fid.png")


def plot(rows: list[tuple[int, float]], name: str) -> matplotlib.figure.Figure:
    figure = matplotlib.figure.Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*rows, strict=True), marker="o", markersize=3)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel(name)
    return figure


def _checkpoints(run: Path) -> list[tuple[int, Path]]:
    found = [(int(m[1]), p) for p in run.iterdir() if (m := re.fullmatch(r"checkpoint-(\d+)", p.name))]
    if not found:
        raise UsageError(f"{run} has no checkpoints")
    return sorted(found)


def _columns(recipe: dict) -> dict[str, str]:
    return {name: recipe[name] for name in ("image_column", "caption_column")}


if __name__ == "__main__":
    with exit_on_bad_input():
        main(sys.argv[1:])
