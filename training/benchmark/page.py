"""The table of `t2i compare` as a web page, as text and as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from t2i.eval.report import Curve
from t2i.eval.report.html import render
from t2i.eval.report.text import NONE, number
from t2i.files import write_csv, write_whole
from t2i.tables import format_table
from t2i.training.benchmark.compare import BenchmarkConfig, seconds, strip_file
from t2i.training.benchmark.published import TRAINED_ON, UNITS, published


def write(results: Sequence[dict], config: BenchmarkConfig, out: Path) -> Path:
    """Write compare.csv and compare.html to the folder `out`; returns the path of the page.

    Args:
        results: from `family.run`, one per row.
        config: the settings shared by all families.
    """
    write_csv(out / "compare.csv", [row(result) for result in results])
    write_whole(out / "compare.html", page(results, config, out))
    return out / "compare.html"


def row(result: dict) -> dict:
    """One row of compare.csv; None for values that were not measured."""
    training, model = result.get("training", {}), result.get("model", {})
    likelihood, distances = result.get("likelihood", {}), result.get("distances", {})
    memory, latents = training.get("peak_memory_mb", {}), result.get("latents", {})
    names = distances.get("names", [None, None])
    return {
        "family": result["family"],
        "error": result["error"],
        "class": model.get("class"),
        "conditional": model.get("conditional"),
        "stable": training.get("stable"),
        "loss_increases": training.get("loss_increases"),
        "checkpoints": training.get("checkpoints"),
        "likelihood": likelihood.get("kind"),
        "likelihood_of": {True: "density", False: "levels", None: None}[likelihood.get("continuous")],
        "nats": likelihood.get("nats"),
        "bits_per_dim": likelihood.get("bits"),
        "num_test_images": likelihood.get("pictures"),
        "distance": names[0],
        "fd": distances.get("fd"),
        "kid": distances.get("kid"),
        "samples": distances.get("samples"),
        "test_images": distances.get("test"),
        "seconds_per_1000_samples": result.get("sampling", {}).get("seconds_per_1000"),
        "latents": latents.get("numbers"),
        "probe_accuracy": latents.get("accuracy"),
        "train_seconds": training.get("seconds"),
        "train_steps": training.get("steps"),
        "seconds_per_step": training.get("seconds_per_step"),
        "parameters": model.get("parameters"),
        "peak_memory_mb": memory.get("process"),
        "peak_gpu_memory_mb": memory.get("gpu"),
    }


def summary(results: Sequence[dict]) -> str:
    """The table as text."""
    head = ["family", "stable", "likelihood", "nats", "bits/dim", *_names(results), "s/1,000", "latents", "parameters"]
    lines, last = [], ("s/1,000 samples", "Latents", "Parameters")
    for result in results:
        cells = {name: text for name, (_, text) in _cells(result, results).items()}
        picked = [cells[name] for name in ("Likelihood", "Nats", "Bits/dim", *_names(results), *last)]
        lines.append([result["family"], _stable(result)[0] or NONE, *picked])
    failed = [f"{r['family']}: {r['error']}" for r in results if r["error"]]
    return "\n".join([format_table(head, lines, right=range(3, len(head))), *failed])


def page(results: Sequence[dict], config: BenchmarkConfig, out: Path) -> str:
    """The page as HTML."""
    columns = [("Family", "name")]
    columns += [(n, "text" if n in ("Stable", "Likelihood") else "number") for n in _cells(results[0], results)]
    return render(
        "compare.html.jinja",
        "report",
        Path(__file__).parent,
        title=f"Unconditional models of {_data(config)}, trained for {_time(seconds(config.budget))} each",
        notes=_notes(results, config),
        columns=columns,
        rows=[(result, _strip(result, out), _cells(result, results).values()) for result in results],
        curves=[_curve(result) for result in results if result.get("curve", {}).get("points")],
        settings=_settings(results, config),
    )


def _strip(result: dict, out: Path) -> Image.Image | None:
    """The family's samples shown in the table."""
    return Image.open(strip_file(out, result["family"])) if result.get("strip") else None


def _cells(result: dict, results: Sequence[dict]) -> dict[str, tuple[object, str]]:
    """Column name -> sort key and text."""
    flat = row(result)
    bound = flat["likelihood"] == "bound" or flat["likelihood_of"] == "density"
    kind = f"{flat['likelihood']}, of a density" if flat["likelihood_of"] == "density" else flat["likelihood"]
    kind = kind if flat["nats"] is not None or kind == "none" else None
    fewer = _fewer(flat["samples"], max((r["distances"]["samples"] for r in results if r.get("distances")), default=0))
    less = _fewer(flat["num_test_images"], _test_images(results))
    accuracy = flat["probe_accuracy"]
    cells = {
        "Stable": _stable(result),
        "Likelihood": (kind or "", kind or NONE),
        "Nats": _number(flat["nats"], "≤\u00a0" * bound, less),
        "Bits/dim": _number(flat["bits_per_dim"], "≤\u00a0" * bound, less),
    }
    cells |= {column: _number(figures.get(result["family"])) for column, figures in _published(results).items()}
    cells |= dict(zip(_names(results), (_number(flat[key], after=fewer) for key in ("fd", "kid")), strict=True))
    step = flat["seconds_per_step"]
    probed = _fewer(_probed(result), max(map(_probed, results)))
    latents = _number(flat["latents"])
    if accuracy is not None:
        latents = accuracy, f"{flat['latents']:,} · {accuracy:.1%}{probed}"
    if flat["latents"] is None and flat["class"]:
        latents = ("", "none")
    cells |= {
        "s/1,000 samples": _number(flat["seconds_per_1000_samples"]),
        "Latents": latents,
        "ms/step": _number(None if step is None else 1000 * step),
        "Parameters": _count(flat["parameters"]),
        "Peak memory in MB": _count(flat["peak_memory_mb"]),
    }
    on_gpu = any("gpu" in r.get("training", {}).get("peak_memory_mb", {}) for r in results)
    return cells | ({"GPU memory in MB": _count(flat["peak_gpu_memory_mb"])} if on_gpu else {})


def _stable(result: dict) -> tuple[str, str]:
    training = result.get("training", {})
    if not training:
        return "", NONE
    if not training["stable"]:
        return "no", "no"
    if training["fitted"]:
        return "fitted", "fitted"
    return "yes", f"yes, {training['loss_increases']} increases in {max(0, training['checkpoints'] - 1)}"


def _number(value: float | None, before: str = "", after: str = "") -> tuple[object, str]:
    return ("", NONE) if value is None else (value, f"{before}{number(value)}{after}")


def _published(results: Sequence[dict]) -> dict[str, dict[str, float]]:
    """Published values on this data, {column: {family: value}}; columns without values are omitted."""
    data = next((r["data"] for r in results if r.get("data")), None)
    figures = published(**data) if data else {}
    return {f"Published {UNITS[data['levels']]}": figures} if figures else {}


def _fewer(count: int | None, most: int) -> str:
    """The number of images, if lower than in other rows."""
    return f" (n = {count:,})" if count and count < most else ""


def _test_images(results: Sequence[dict]) -> int:
    """Maximum number of test images used for the likelihood."""
    return max((r["likelihood"]["pictures"] for r in results if "nats" in r.get("likelihood", {})), default=0)


def _probed(result: dict) -> int:
    """Number of training images used to fit the linear probe."""
    return result.get("latents", {}).get("images", 0)


def _count(value: float | None) -> tuple[object, str]:
    return ("", NONE) if value is None else (value, f"{value:,.0f}")


def _names(results: Sequence[dict]) -> list[str]:
    """Names of the distance metrics."""
    return next((r["distances"]["names"] for r in results if r.get("distances")), ["FD", "KID"])


def _curve(result: dict) -> Curve:
    what, points = result["curve"]["what"], result["curve"]["points"]
    name = {"bits": "training bits/dim", "loss": "loss"}[what]
    return Curve(result["family"], "training time in s", name, {name: [(x, y, None, None) for x, y in points]})


def _notes(results: Sequence[dict], config: BenchmarkConfig) -> list[str]:
    """Notes on the columns, one paragraph each."""
    frechet, kernel = _names(results)
    counts = next(((r["distances"]["samples"], r["distances"]["test"]) for r in results if r.get("distances")), (0, 0))
    notes = [
        "All families are trained for the same time on the same images; previews, evaluation and checkpoints do not "
        "count. Learning rate schedules follow the elapsed time." + _fitted(results),
        "Evaluated on test images is the checkpoint with the best likelihood or loss on held-out training images; for "
        "GANs, whose losses do not rank checkpoints, the one with the lowest Fréchet distance in random features, "
        f"which favours them in {frechet}.",
        "Stable: whether loss and gradients stayed finite, and at how many checkpoints the held-out loss rose.",
        f"Likelihood: of {_test_images(results):,} test images with {config.levels} levels. “≤” marks bounds: the "
        "evidence lower bound, or a density of uniformly dequantised images.",
        f"{frechet} and {kernel}: Fréchet and kernel distance of {counts[0]:,} samples to {counts[1]:,} test images. "
        "The former depends on the number of images, so it does not compare with a paper's FID; the row of real images "
        "shows how low it can be.",
        "(n = …): of fewer images, because the model is slow to evaluate, sample or encode; compares only roughly.",
        "Latents: number of dimensions, and test accuracy of a linear probe for the class.",
        "Peak memory: of the training process, libraries included.",
    ]
    if _published(results):
        notes.append(f"Published: values from papers, of models trained on {TRAINED_ON:,} images.")
    if any(result["error"] for result in results):
        notes.append("A family that failed is trained again if its result in the folder families is removed.")
    return notes


def _fitted(results: Sequence[dict]) -> str:
    """Which families are fitted rather than trained in steps."""
    fitted = {r["family"]: r["training"] for r in results if r.get("training", {}).get("fitted")}
    if not fitted:
        return ""
    most = max(training["max_images"] for training in fitted.values())
    return f" Exceptions: {' and '.join(fitted)}, fitted in closed form or by EM to at most {most:,} images."


def _settings(results: Sequence[dict], config: BenchmarkConfig) -> dict:
    names = ("budget", "preset", "levels", "image_size", "gray", "num_images", "num_test_images")
    names += ("learning_rate", "mixed_precision", "seed")
    extractor = next((r["distances"]["extractor"] for r in results if r.get("distances")), {"name": config.extractor})
    environment = next((r["environment"] for r in results if r.get("environment")), {})
    options = {name: getattr(config, name) for name in names}
    return {"data": _data(config)} | options | {"extractor": extractor} | environment


def _data(config: BenchmarkConfig) -> str:
    """Name of the data without parent folders."""
    return Path(config.data).name if Path(config.data).exists() else config.data


def _time(s: float) -> str:
    return f"{s / 60:g} minutes" if s >= 120 else f"{s:g} s"
