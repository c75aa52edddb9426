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
import torch
from torch import Tensor

from t2i.blocks import load_block
from t2i.blocks.base import Block, from_levels
from t2i.cli_errors import UsageError, exit_on_bad_input, parse
from t2i.data.digits import Splits, open_splits
from t2i.eval.features import Extractor, as_uint8, measure_name, open_extractor
from t2i.eval.metrics import Moments, frechet_distance
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
    batch: int = 100
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.samples < 2 or self.batch < 1:
            raise UsageError("--samples must be at least 2 and --batch at least 1")


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
    reference, labels = _reference(ask, splits, extractor, load_block(checkpoints[0][1]))
    for step, folder in checkpoints:
        model = load_block(folder).to(ask.device)
        distance = frechet_distance(_sampled(ask, model, labels, extractor), reference)
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


def _reference(ask: PlotCurve, splits: Splits, extractor: Extractor, model: Block) -> tuple[Moments, Tensor]:
    """Moments of the features of the test pictures, of as many levels as the model's, and their labels."""
    k, labels = drawn(splits.test, PreparePixels(model.levels, model.shape[0]), ask.samples)
    moments = Moments()
    for images in from_levels(k, model.levels).split(ask.batch):
        moments.update(_features(extractor, images))
    return moments, labels


def _features(extractor: Extractor, images: Tensor) -> Tensor:
    return extractor(as_uint8(images.float().expand(-1, 3, -1, -1), "-1..1", "NCHW"))


@torch.no_grad()
def _sampled(ask: PlotCurve, model: Block, labels: Tensor, extractor: Extractor) -> Moments:
    if not model.samples:
        raise UsageError(f"a {type(model).__name__} has nothing to sample from")
    generator, moments = torch.Generator().manual_seed(0), Moments()
    for start in range(0, ask.samples, ask.batch):
        n = min(ask.batch, ask.samples - start)
        y = labels[torch.arange(start, start + n) % len(labels)].to(ask.device) if model.conditional else None
        moments.update(_features(extractor, model.sample(n, y, generator)))
    return moments


if __name__ == "__main__":
    with exit_on_bad_input():
        main(sys.argv[1:])
