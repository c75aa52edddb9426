"""Train and evaluate one family of `t2i compare`: `python -m t2i.training.benchmark.family OUT NAME`.

Shapes: n images · C channels · S side · Z latent dimensions
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import sys
import time
import traceback
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from t2i.cli_errors import exit_on_bad_input
from t2i.data.levels import PreparePixels, first_levels
from t2i.data.sources import Source
from t2i.data.splits import open_splits
from t2i.eval.evaluators.unconditional import (
    PROBED,
    SHOWN,
    distances,
    encode,
    linear_probe,
    reconstruct,
    sample,
    strip,
)
from t2i.eval.features import Extractor, open_extractor
from t2i.files import read_json, write_json, write_whole
from t2i.models import load_pretrained
from t2i.models.base import GenerativeModel, from_levels
from t2i.processes import most_memory, this_process
from t2i.runs import BEST, SCORES_FILE
from t2i.training.benchmark.compare import REAL, BenchmarkConfig, result_file, seconds, settings, strip_file
from t2i.training.cli import run as train
from t2i.training.config import FittedRecipe
from t2i.training.finite import NonFiniteLoss
from t2i.training.model_options import ModelOptions
from t2i.training.recipes import RECIPES

CHECKPOINTS = 4  # per run; few, because some models are slow to evaluate
POINTS = 40  # number of points on a training curve
LEAST_SAMPLING = 60.0  # minimum seconds allowed for sampling or encoding, however short the training budget


def run(out: Path, name: str) -> dict:
    """Train and evaluate family `name` with the settings in out/settings.json; write its result and return it.

    An exception ends the evaluation and is stored in the result as "error"; Ctrl-C saves a checkpoint and no result.
    """
    config = settings(out)
    result: dict = {"family": name, "error": None}
    try:
        if name == REAL:
            _measure_real(config, out, result)
        else:
            _train(config, out, name, result)
            _measure(config, out, name, result)
    except Exception as error:  # any error: the other families still run
        traceback.print_exc()
        result["error"] = result["error"] or _sentence(error)
    write_whole(result_file(out, name), json.dumps(result, indent=2, allow_nan=False) + "\n")
    return result


def _sentence(error: Exception) -> str:
    """The error message up to the semicolon; the remedy after it applies to single runs only."""
    message = " ".join(str(error).split()) or type(error).__name__
    return message.split(";")[0] if isinstance(error, NonFiniteLoss) else message


# --- training -------------------------------------------------------------------------------------------------------


def configured(config: BenchmarkConfig, name: str, folder: Path):
    """The family's recipe with the shared data and training time."""
    recipe = RECIPES[name](config.preset)
    data = {name: getattr(config, name) for name in ("data", "levels", "image_size", "gray")} | {"patience": 0}
    data |= {} if config.num_test_images is None else {"scored": config.num_test_images}
    parts = {"data": dataclasses.replace(recipe.data, **data), "model": _for_levels(recipe.model, config.levels)}
    if recipe.conditional and not open_splits(config.data, config.image_size, config.seed).classes:
        parts["conditional"] = False  # no labels to condition on
    if isinstance(recipe, FittedRecipe):
        return dataclasses.replace(recipe, output_dir=str(folder), seed=config.seed, **parts)
    loop = {
        "output_dir": str(folder),
        "seed": config.seed,
        "max_train_time": seconds(config.budget),
        "checkpointing_steps": math.ceil(recipe.loop.max_train_steps / CHECKPOINTS),
        "report_to": "none",
        "mixed_precision": config.mixed_precision,
        "resume": "latest" if any(folder.glob("checkpoint-*")) else None,
    }
    loop |= {} if config.learning_rate is None else {"learning_rate": config.learning_rate}
    return dataclasses.replace(recipe, loop=dataclasses.replace(recipe.loop, **loop), **parts)


def _for_levels(options: ModelOptions, levels: int | None) -> ModelOptions:
    """The options with Bernoulli pixels (two levels) replaced by discretised logistic ones for more levels."""
    if getattr(options, "pixels", None) == "bernoulli" and (levels or 2) > 2:
        return dataclasses.replace(options, pixels="logistic")
    return options


def _train(config: BenchmarkConfig, out: Path, name: str, result: dict) -> None:
    """Train or resume the family; sets result["training"] and result["curve"]. A non-finite loss is an error."""
    folder = out / "runs" / name
    recipe = configured(config, name, folder)
    result["about"] = RECIPES[name].about().splitlines()[0]
    fitted = isinstance(recipe, FittedRecipe)
    if fitted:
        shutil.rmtree(folder, ignore_errors=True)  # left by a process that was killed after fitting
    began = time.perf_counter()
    try:
        train(recipe)
    except NonFiniteLoss as error:
        result["error"] = _sentence(error)
    took = time.perf_counter() - began
    training = {"fitted": fitted, "stable": result["error"] is None, "peak_memory_mb": _peak_memory(folder)}
    if fitted:
        result["training"] = training | {"seconds": took, "max_images": recipe.fitted}
        return
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    if result["error"] is None and lines[-1]["seconds"] < seconds(config.budget):
        raise KeyboardInterrupt  # the loop has saved a checkpoint to resume from
    result["training"] = training | _statistics(lines, folder)
    result["curve"] = _curve(lines)


def _peak_memory(folder: Path) -> dict[str, float]:
    """Peak memory of the processes and of the GPU in MB, over all processes of the run."""
    held = most_memory()
    now = {} if held is None else {"process": held}
    if torch.cuda.is_available():
        now["gpu"] = torch.cuda.max_memory_allocated() / 2**20
    file = folder / "memory.json"
    before = read_json(file) if file.is_file() else {}
    most = {where: max(mb, before.get(where, 0.0)) for where, mb in now.items()}
    write_json(file, most)
    return most


def _statistics(lines: list[dict], folder: Path) -> dict:
    """Training statistics from the run's log and latest checkpoint."""
    if not lines:
        return {"seconds": 0.0, "steps": 0}
    scores = folder / "latest" / SCORES_FILE
    history = read_json(scores, "history")["history"] if scores.is_file() else []
    laps = [b["seconds"] - a["seconds"] for a, b in pairwise(lines)] or [lines[0]["seconds"]]
    return {
        "seconds": lines[-1]["seconds"],
        "steps": lines[-1]["step"],
        "images": lines[-1]["images"],
        "seconds_per_step": float(np.median(laps)),
        "checkpoints": len(history),
        "loss_increases": sum(not b <= a for a, b in pairwise(history)),  # NaN counts as one
    }


def _curve(lines: list[dict]) -> dict:
    """Training bits/dim if the model has a likelihood, else the loss, against seconds: medians over POINTS intervals.

    Omits the first twentieth, whose steep drop would compress the rest of the plot.
    """
    late = [line for line in lines if line["seconds"] >= lines[-1]["seconds"] / 20]
    what = "bits" if any("bits" in line for line in late) else "loss"
    late = [line for line in late if what in line]  # a skipped step has none
    parts = np.array_split(np.array([[line["seconds"], line[what]] for line in late]), min(POINTS, len(late) or 1))
    points = [np.median(part, 0).tolist() for part in parts if len(part)]
    return {"what": what, "points": points}


# --- measures -------------------------------------------------------------------------------------------------------


def _measure(config: BenchmarkConfig, out: Path, name: str, result: dict) -> None:
    """Evaluate the run's best checkpoint, adding results to `result` one by one."""
    best = out / "runs" / name / BEST
    if not best.is_dir():
        result["error"] = result["error"] or "it has no best checkpoint"
        return
    scores = read_json(best / SCORES_FILE, "test")["test"]
    if not math.isfinite(scores["loss"]):
        result["error"] = result["error"] or f"its test score is {scores['loss']}"
        return
    model = load_pretrained(best).to(this_process().device)
    result["model"] = {
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()) or sum(b.numel() for b in model.buffers()),  # fitted
        "levels": model.levels,
        "shape": list(model.shape),
        "conditional": model.conditional,
    }
    result["likelihood"] = {"kind": model.likelihood, "continuous": model.continuous} | {
        key: scores[key] for key in ("nats", "bits", "pictures") if key in scores
    }
    data, limit = Data(config), max(LEAST_SAMPLING, seconds(config.budget))
    if model.latents:
        result["latents"] = _latents(model, data, limit)
    if not model.samples:
        images = reconstruct(model, data.test[:SHOWN], data.labels[:SHOWN])
        _show(out, name, images, "reconstructed test images", result)
        return
    images, per_thousand = sample(model, config.num_images, data.labels, config.seed, limit)
    result["sampling"] = {"seconds_per_1000": per_thousand, "samples": len(images)}
    _show(out, name, images, "samples", result)
    result["distances"] = distances(_extractor(config), images, data.test)


def _measure_real(config: BenchmarkConfig, out: Path, result: dict) -> None:
    """Evaluate training images in place of samples, and pixels in place of latents, as the best values to expect."""
    data = Data(config)
    images, labels = data.training(max(config.num_images, PROBED))
    result["about"] = "Training images in place of samples, pixels in place of latents."
    result["environment"] = _environment()
    _show(out, REAL, images, "training images", result)
    result["distances"] = distances(_extractor(config), images[: config.num_images], data.test)
    result["data"] = {"classes": data.splits.classes, "shape": tuple(images[0].shape), "levels": config.levels}
    result["latents"] = {"numbers": images[0].numel(), "accuracy": None}
    if data.splits.classes:
        train, test = (x.flatten(1) for x in (images[:PROBED], data.test))
        result["latents"]["accuracy"] = linear_probe(train, labels[:PROBED], test, data.labels)


class Data:
    """Data shared by all families: `test` images (n, C, S, S) with L levels in [-1, 1] and their `labels` (n,)."""

    def __init__(self, config: BenchmarkConfig):
        self.splits = open_splits(config.data, config.image_size, config.seed)
        self.prepare = PreparePixels(config.levels, 1 if config.gray else self.splits.channels)
        self.test, self.labels = self._first(self.splits.test, config.num_images)

    def training(self, count: int) -> tuple[Tensor, Tensor]:
        """The first training images (n, C, S, S) and labels (n,), at most `count`."""
        return self._first(self.splits.train, count)

    def _first(self, source: Source, count: int) -> tuple[Tensor, Tensor]:
        k, labels = first_levels(source, self.prepare, count)
        return from_levels(k, self.prepare.levels), labels


def _latents(model: GenerativeModel, data: Data, limit: float) -> dict:
    """Number of latent dimensions, and linear-probe accuracy unless the model is class-conditional."""
    result = {"numbers": encode(model, data.test[:1], data.labels[:1]).shape[1], "accuracy": None}
    if data.splits.classes and not model.conditional:
        images, labels = data.training(PROBED)
        train, test = encode(model, images, labels, limit), encode(model, data.test, data.labels, limit)
        result["accuracy"] = linear_probe(train, labels[: len(train)], test, data.labels[: len(test)])
        result["images"] = len(train)
    return result


def _show(out: Path, name: str, images: Tensor, what: str, result: dict) -> None:
    strip(images).save(strip_file(out, name))
    result["strip"] = what


def _extractor(config: BenchmarkConfig) -> Extractor:
    return open_extractor(config.extractor, str(this_process().device))


def _environment() -> dict:
    import t2i

    device = this_process().device
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    versions = {"t2i": t2i.__version__, "torch": torch.__version__}
    return {"device": named, "threads": torch.get_num_threads(), "cores": os.cpu_count(), "versions": versions}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells make background processes ignore SIGINT
    with exit_on_bad_input():
        run(Path(sys.argv[1]), sys.argv[2])
