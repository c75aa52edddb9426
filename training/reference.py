"""Reference curves: the metrics of the runs that made the embedded weights, shown in the plots of new runs.

A recipe's reference is `reference/RECIPE.json`, written by `scripts/make_weights.py`. It is shown where the metrics can
be compared: in runs whose data, model and losses have the same options. Those of the loop may differ, since what they
do to the curves is the question.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from t2i.files import read_json, write_whole
from t2i.training.config import LoopConfig

FOLDER = Path(__file__).parent / "reference"
POINTS = 100  # of a stored curve
OF_RUN = {"step", "images", "seconds", "lr"}  # no metrics
# Options that name other runs, or choose what is cached, scored and shown.
OTHERS = {"recipe", "data_sha256", "tokenizer", "autoencoder", "text_encoder", "clip", "decoder", "base", "pipeline"}
OTHERS |= {"cache", "cached_images", "held_out_images", "validation_prompts"}

Curve = tuple[np.ndarray, np.ndarray]  # numbers of images and values


def moving_average(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of each value and of up to `width` - 1 before it."""
    sums = np.concatenate([[0.0], values.cumsum()])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return (sums[ends] - sums[starts]) / (ends - starts)


def smoothing_width(values: Sequence[float] | np.ndarray) -> int:
    """A fiftieth of the run."""
    return max(1, len(values) // 50)


def compared(recipe: Mapping) -> dict:
    """The options of a run, as in its recipe.json, on which the values of its metrics depend."""
    loop = {field.name for field in dataclasses.fields(LoopConfig)}
    kept = {name: value for name, value in recipe.items() if name not in loop | OTHERS and "sha256" not in name}
    if "init_from" in kept:
        kept["init_from"] = kept["init_from"] is not None
    return json.loads(json.dumps(kept))  # tuples as lists


def reference_curves(recipe: Mapping, defaults: Mapping = MappingProxyType({})) -> dict[str, Curve]:
    """The reference of a run by metric, or nothing if its recipe has none with the same options.

    Args:
        defaults: of options, which a reference that was stored before they existed is taken to have had.
    """
    file = FOLDER / f"{recipe.get('recipe')}.json"
    if not file.is_file():
        return {}
    stored = read_json(file)
    if compared(defaults) | stored["options"] != compared(recipe):
        return {}
    return {name: tuple(np.array(curve).T) for name, curve in stored["curves"].items()}


def store_reference(run: Path, folder: Path = FOLDER, **options: object) -> Path:
    """Write the reference of a run's recipe from its folder; returns the file.

    Args:
        options: what stands for options of the run, such as the name of the world for a folder of its images.
    """
    recipe = read_json(run / "recipe.json") | options
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = [name for name in dict.fromkeys(name for line in lines for name in line) if name not in OF_RUN]
    curves = {}
    for name in names:
        images, values = np.array([(line["images"], line[name]) for line in lines if name in line]).T
        kept = np.unique((np.linspace(0, 1, POINTS) ** 2 * (len(images) - 1)).astype(int))  # dense at the start
        means = moving_average(values, smoothing_width(values))
        curves[name] = [[int(images[i]), float(f"{means[i]:.4g}")] for i in kept]
    file = folder / f"{recipe['recipe']}.json"
    folder.mkdir(exist_ok=True)
    write_whole(file, json.dumps({"options": compared(recipe), "curves": curves}) + "\n")
    return file
