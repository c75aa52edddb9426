"""Fréchet distance to real images over the course of training: `python scripts/plot_fid_curve.py RUN`.

For each checkpoint kept by the run (see --checkpoints-total-limit), the Fréchet distance to test images of an
unconditional model's samples, always with the same seed, or of a CycleGAN's translations in both directions. Writes a
CSV file and a plot. It is called FID if the features are Inception's.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from t2i.arguments import parse
from t2i.checks import UsageError
from t2i.cli_errors import exit_on_bad_input
from t2i.data.domains import Unpaired
from t2i.data.levels import PreparePixels, first_levels
from t2i.data.splits import TEST_SEED
from t2i.eval.evaluators.unconditional import BATCH, features, sample
from t2i.eval.features import measure_name, open_extractor
from t2i.eval.metrics import frechet_distance
from t2i.files import write_csv
from t2i.images import to_tensor
from t2i.models import load_pretrained
from t2i.models.adversarial.cyclegan import CycleGAN
from t2i.models.base import from_levels
from t2i.plots import new_figure, save_png, styled, use_log_scale
from t2i.runs import RECIPE_FILE, open_training_data

Curve = tuple[Callable[[Path], Tensor], Tensor]  # a checkpoint's images, and real images, (n, C, S, S) each


@dataclass(frozen=True)
class PlotCurve:
    out: str = ""
    """Output folder for fid.csv and fid.png; default: the run's."""
    extractor: str = ""
    """Feature extractor, as for `t2i eval`; default: 'toybox-v1' for toybox and 'random' for other data."""
    samples: int = 1000
    """Number of samples per checkpoint, and maximum number of test images."""
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
    recipe, checkpoints = json.loads((run / RECIPE_FILE).read_text()), _checkpoints(run)
    if "domain_a" in recipe:
        curves = _translations(ask, recipe)
        toybox = all(recipe[name].startswith("toybox-v1:") for name in ("domain_a", "domain_b"))
    elif "levels" in recipe:
        curves = _samples(ask, run, checkpoints[0][1])
        toybox = recipe["data"] in ("toybox-v1", "toybox-factors")
    else:
        raise UsageError(f"{run} is no run of an unconditional model: there is nothing to sample without a prompt")
    extractor = open_extractor(ask.extractor or ("toybox-v1" if toybox else "random"), ask.device)
    reals = {name: features(extractor, real) for name, (_, real) in curves.items()}
    rows = []
    for step, folder in checkpoints:
        made = {name: features(extractor, make(folder)) for name, (make, _) in curves.items()}
        rows.append((step, *(frechet_distance(made[name], reals[name]) for name in curves)))
        print(f"{folder.name}: " + ", ".join(f"{n} {d:.3f}" for n, d in zip(curves, rows[-1][1:], strict=True)))
    out = Path(ask.out or run)
    out.mkdir(parents=True, exist_ok=True)
    measure = measure_name("FD", extractor)
    names = ["step", *(f"{measure} of {name}" for name in curves)]
    write_csv(out / "fid.csv", [dict(zip(names, row, strict=True)) for row in rows])
    save_png(plot(rows, list(curves), measure), out / "fid.png")
    print(out / "fid.png")


@styled
def plot(rows: list[tuple], curves: list[str], measure: str) -> Figure:
    """Plot rows of a step and one distance per curve."""
    figure = new_figure()
    axes = figure.add_subplot()
    steps, *distances = zip(*rows, strict=True)
    for name, values in zip(curves, distances, strict=True):
        axes.plot(steps, values, marker="o", markersize=3, label=name)
    use_log_scale(axes, "y")
    axes.set_xlabel("step")
    axes.set_ylabel(measure)
    axes.legend()
    return figure


def _checkpoints(run: Path) -> list[tuple[int, Path]]:
    checkpoints = [(int(m[1]), p) for p in run.iterdir() if (m := re.fullmatch(r"checkpoint-(\d+)", p.name))]
    if not checkpoints:
        raise UsageError(f"{run} has no checkpoints")
    return sorted(checkpoints)


def _samples(ask: PlotCurve, run: Path, first: Path) -> dict[str, Curve]:
    """Samples, and test images with the same number of levels."""
    model = load_pretrained(first)
    if not model.samples:
        raise UsageError(f"a {type(model).__name__} has nothing to sample from")
    test, labels = first_levels(open_training_data(run).test, PreparePixels(model.levels, model.shape[0]), ask.samples)

    def make(folder: Path) -> Tensor:
        return sample(load_pretrained(folder).to(ask.device), ask.samples, labels)[0]

    return {f"{ask.samples} samples": (make, from_levels(test, model.levels))}


def _translations(ask: PlotCurve, recipe: dict) -> dict[str, Curve]:
    """Translated test images of each domain, and test images of the other: the same scenes, if known."""
    columns = {name: recipe[name] for name in ("image_column", "caption_column")}
    source = Unpaired(recipe["domain_a"], recipe["domain_b"], recipe["image_size"], recipe["seed"], **columns)
    pairs = source.pairs(ask.samples, TEST_SEED + recipe["seed"])
    if pairs is None:
        pairs = [np.stack([s[i]["image"] for i in range(min(ask.samples, len(s)))]) for s in (source.a, source.b)]
    a, b = (to_tensor(torch.from_numpy(side)) for side in pairs)

    @torch.no_grad()
    def translated(folder: Path, images: Tensor, to: str) -> Tensor:
        model = CycleGAN.from_pretrained(folder).to(ask.device).eval()
        return torch.cat([model.translate(part.to(ask.device), to).float().cpu() for part in images.split(BATCH)])

    return {
        f"{recipe['domain_a']} to {recipe['domain_b']}": (lambda folder: translated(folder, a, "b"), b),
        f"{recipe['domain_b']} to {recipe['domain_a']}": (lambda folder: translated(folder, b, "a"), a),
    }


if __name__ == "__main__":
    with exit_on_bad_input():
        main(sys.argv[1:])
