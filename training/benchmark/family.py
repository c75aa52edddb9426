"""One family of `t2i compare`: trained, then measured. `python -m t2i.training.benchmark.family OUT NAME`.

Shapes: n pictures · C channels · S side · Z latent numbers
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
from t2i.eval.evaluators.unconditional import SHOWN, distances, encode, linear_probe, reconstruct, sample, strip
from t2i.eval.features import Extractor, open_extractor
from t2i.files import read_json, write_json, write_whole
from t2i.models import load_pretrained
from t2i.models.base import GenerativeModel, from_levels
from t2i.processes import most_memory, this_process
from t2i.runs import BEST, SCORES_FILE
from t2i.training.benchmark.compare import REAL, Compare, result_file, seconds, settings, strip_file
from t2i.training.cli import run as train
from t2i.training.loop import NonFiniteLoss
from t2i.training.model_options import ModelOptions
from t2i.training.recipes import RECIPES

CHECKPOINTS = 4  # of every run, among which the best is chosen; some models take long to score
PROBED = 2000  # training pictures whose latents a linear classifier is fitted to
POINTS = 40  # of a training curve
LEAST_SAMPLING = 60.0  # seconds that a model may sample or encode for, where the training budget is shorter


def run(out: Path, name: str) -> dict:
    """Train and measure family `name` as out/settings.json says, and write its result; what it says.

    An exception ends the measuring and is told in the result as "error"; Ctrl-C leaves a checkpoint and no result.
    """
    ask = settings(out)
    found: dict = {"family": name, "error": None}
    try:
        if name == REAL:
            _measure_real(ask, out, found)
        else:
            _train(ask, out, name, found)
            _measure(ask, out, name, found)
    except Exception as error:  # whatever it is, the other families go on
        traceback.print_exc()
        found["error"] = found["error"] or _sentence(error)
    write_whole(result_file(out, name), json.dumps(found, indent=2, allow_nan=False) + "\n")
    return found


def _sentence(error: Exception) -> str:
    """What was wrong, without the remedy after the semicolon, which is for a run's own command line."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said.split(";")[0] if isinstance(error, NonFiniteLoss) else said


# --- training -------------------------------------------------------------------------------------------------------


def configured(ask: Compare, name: str, folder: Path):
    """The family's recipe on the data that all share, and for the seconds that all have."""
    recipe = RECIPES[name](ask.preset)
    data = {"data": ask.data, "levels": ask.levels, "image_size": ask.image_size, "gray": ask.gray, "patience": 0}
    data |= {} if ask.scored is None else {"scored": ask.scored}
    parts = {"data": dataclasses.replace(recipe.data, **data), "model": _for_levels(recipe.model, ask.levels)}
    if getattr(recipe, "conditional", False) and not open_splits(ask.data, ask.image_size, ask.seed).classes:
        parts["conditional"] = False  # there are no labels to give
    if hasattr(recipe, "fit"):
        return dataclasses.replace(recipe, output_dir=str(folder), seed=ask.seed, **parts)
    often = math.ceil(recipe.loop.max_train_steps / CHECKPOINTS)
    loop = {"output_dir": str(folder), "seed": ask.seed, "max_train_time": seconds(ask.budget), "report_to": "none"}
    loop |= {"mixed_precision": ask.mixed_precision}
    loop |= {} if ask.learning_rate is None else {"learning_rate": ask.learning_rate}
    resume = "latest" if any(folder.glob("checkpoint-*")) else None
    loop = dataclasses.replace(recipe.loop, checkpointing_steps=often, resume=resume, **loop)
    return dataclasses.replace(recipe, loop=loop, **parts)


def _for_levels(options: ModelOptions, levels: int | None) -> ModelOptions:
    """The options with Bernoulli pixels, which have two levels, replaced by discretised logistic ones for more."""
    if getattr(options, "pixels", None) == "bernoulli" and (levels or 2) > 2:
        return dataclasses.replace(options, pixels="logistic")
    return options


def _train(ask: Compare, out: Path, name: str, found: dict) -> None:
    """Train the family, or go on; `found["training"]` and `found["curve"]`. A loss that is not finite is an error."""
    folder = out / "runs" / name
    recipe = configured(ask, name, folder)
    found["about"] = RECIPES[name].about().splitlines()[0]
    fitted = hasattr(recipe, "fit")
    if fitted:
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was stopped after it
    began = time.perf_counter()
    try:
        train(recipe)
    except NonFiniteLoss as error:
        found["error"] = _sentence(error)
    took = time.perf_counter() - began
    training = {"fitted": fitted, "stable": found["error"] is None, "peak_memory_mb": _peak_memory(folder)}
    if fitted:
        found["training"] = training | {"seconds": took, "pictures_at_most": recipe.fitted}
        return
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    if found["error"] is None and lines[-1]["seconds"] < seconds(ask.budget):
        raise KeyboardInterrupt  # the loop has saved, and left the rest to another time
    found["training"] = training | _told(lines, folder)
    found["curve"] = _curve(lines)


def _peak_memory(folder: Path) -> dict[str, float]:
    """The most that the process has held, and the GPU, in MB; of all processes that have had a part in the run."""
    held = most_memory()
    now = {} if held is None else {"process": held}
    if torch.cuda.is_available():
        now["gpu"] = torch.cuda.max_memory_allocated() / 2**20
    file = folder / "memory.json"
    before = read_json(file) if file.is_file() else {}
    most = {where: max(mb, before.get(where, 0.0)) for where, mb in now.items()}
    write_json(file, most)
    return most


def _told(lines: list[dict], folder: Path) -> dict:
    """What the run's log and its newest checkpoint say."""
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
        "rises": sum(not b <= a for a, b in pairwise(history)),  # NaN is no fall
    }


def _curve(lines: list[dict]) -> dict:
    """Bits a number of training pictures where the model has them, else its loss, against seconds: medians of parts.

    The first twentieth is left out: beside its fall, nothing else would be seen.
    """
    late = [line for line in lines if line["seconds"] >= lines[-1]["seconds"] / 20]
    what = "bits" if late and "bits" in late[0] else "loss"
    late = [line for line in late if math.isfinite(line[what])]
    parts = np.array_split(np.array([[line["seconds"], line[what]] for line in late]), min(POINTS, len(late) or 1))
    points = [np.median(part, 0).tolist() for part in parts if len(part)]
    return {"what": what, "points": points}


# --- measures -------------------------------------------------------------------------------------------------------


def _measure(ask: Compare, out: Path, name: str, found: dict) -> None:
    """What the run's best checkpoint is and can do, part by part into `found`."""
    best = out / "runs" / name / BEST
    if not best.is_dir():
        found["error"] = found["error"] or "it kept no best checkpoint"
        return
    scores = read_json(best / SCORES_FILE, "test")["test"]
    if not math.isfinite(scores["loss"]):
        found["error"] = found["error"] or f"its test score is {scores['loss']}"
        return
    model = load_pretrained(best).to(this_process().device)
    found["model"] = {
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()) or sum(b.numel() for b in model.buffers()),  # fitted
        "levels": model.levels,
        "shape": list(model.shape),
        "conditional": model.conditional,
    }
    found["likelihood"] = {"kind": model.likelihood, "continuous": model.continuous} | {
        key: scores[key] for key in ("nats", "bits", "pictures") if key in scores
    }
    data, limit = Pictures(ask), max(LEAST_SAMPLING, seconds(ask.budget))
    if model.latents:
        found["latents"] = _latents(model, data, limit)
    if not model.samples:
        _show(
            out,
            name,
            reconstruct(model, data.test[:SHOWN], data.labels[:SHOWN]),
            "test pictures through its latents",
            found,
        )
        return
    images, per_thousand = sample(model, ask.samples, data.labels, ask.seed, limit)
    found["sampling"] = {"seconds_per_1000": per_thousand, "samples": len(images)}
    _show(out, name, images, "samples", found)
    found["distances"] = distances(_extractor(ask), images, data.test)


def _measure_real(ask: Compare, out: Path, found: dict) -> None:
    """Training pictures in place of samples, and pixels in place of latents: what is as good as real."""
    data = Pictures(ask)
    images, labels = data.training(max(ask.samples, PROBED))
    found["about"] = "Training pictures in place of samples, pixels in place of latents."
    found["environment"] = _environment()
    _show(out, REAL, images, "training pictures", found)
    found["distances"] = distances(_extractor(ask), images[: ask.samples], data.test)
    found["data"] = {"classes": data.splits.classes, "shape": tuple(images[0].shape), "levels": ask.levels}
    found["latents"] = {"numbers": images[0].numel(), "accuracy": None}
    if data.splits.classes:
        train, test = (x.flatten(1) for x in (images[:PROBED], data.test))
        found["latents"]["accuracy"] = linear_probe(train, labels[:PROBED], test, data.labels)


class Pictures:
    """The data: `test` (n, C, S, S) of L levels in [-1, 1] and their `labels` (n,), the same for all families."""

    def __init__(self, ask: Compare):
        self.splits = open_splits(ask.data, ask.image_size, ask.seed)
        self.prepare = PreparePixels(ask.levels, 1 if ask.gray else self.splits.channels)
        self.test, self.labels = self._first(self.splits.test, ask.samples)

    def training(self, count: int) -> tuple[Tensor, Tensor]:
        """The first training pictures (n, C, S, S) and labels (n,), `count` at most."""
        return self._first(self.splits.train, count)

    def _first(self, source: Source, count: int) -> tuple[Tensor, Tensor]:
        k, labels = first_levels(source, self.prepare, count)
        return from_levels(k, self.prepare.levels), labels


def _latents(model: GenerativeModel, data: Pictures, limit: float) -> dict:
    """How many numbers, and how well a linear classifier reads the class off them, unless the model was told it."""
    found = {"numbers": encode(model, data.test[:1], data.labels[:1]).shape[1], "accuracy": None}
    if data.splits.classes and not model.conditional:
        images, labels = data.training(PROBED)
        known, asked = encode(model, images, labels, limit), encode(model, data.test, data.labels, limit)
        found["accuracy"] = linear_probe(known, labels[: len(known)], asked, data.labels[: len(asked)])
        found["pictures"] = len(known)
    return found


def _show(out: Path, name: str, images: Tensor, what: str, found: dict) -> None:
    strip(images).save(strip_file(out, name))
    found["strip"] = what


def _extractor(ask: Compare) -> Extractor:
    return open_extractor(ask.extractor, str(this_process().device))


def _environment() -> dict:
    import t2i

    device = this_process().device
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    versions = {"t2i": t2i.__version__, "torch": torch.__version__}
    return {"device": named, "threads": torch.get_num_threads(), "cores": os.cpu_count(), "versions": versions}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let programs in the background ignore it
    with exit_on_bad_input():
        run(Path(sys.argv[1]), sys.argv[2])
