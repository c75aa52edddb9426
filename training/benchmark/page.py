"""The table of `t2i compare`, for people as a web page and as text, and for programs as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from t2i.eval.report import Curve
from t2i.eval.report.html import render
from t2i.eval.report.text import NONE, number
from t2i.files import write_csv, write_whole
from t2i.tables import format_table
from t2i.training.benchmark.compare import Compare, seconds, strip_file
from t2i.training.benchmark.published import TRAINED_ON, UNITS, published


def write(results: Sequence[dict], ask: Compare, out: Path) -> Path:
    """compare.csv and compare.html in the folder `out`; the path of the page.

    Args:
        results: what `family.run` found, in the order of the rows.
        ask: what all were asked for.
    """
    write_csv(out / "compare.csv", [row(result) for result in results])
    write_whole(out / "compare.html", page(results, ask, out))
    return out / "compare.html"


def row(result: dict) -> dict:
    """One line of compare.csv; None for what was not measured."""
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
        "rises": training.get("rises"),
        "checkpoints": training.get("checkpoints"),
        "likelihood": likelihood.get("kind"),
        "of": {True: "density", False: "levels", None: None}[likelihood.get("continuous")],
        "nats": likelihood.get("nats"),
        "bits_per_dim": likelihood.get("bits"),
        "scored": likelihood.get("pictures"),
        "distance": names[0],
        "fd": distances.get("fd"),
        "kid": distances.get("kid"),
        "samples": distances.get("samples"),
        "test_pictures": distances.get("test"),
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
    lines, last = [], ("s / 1,000 samples", "Latent features", "Parameters")
    for result in results:
        cells = {name: text for name, (_, text) in _cells(result, results).items()}
        picked = [cells[name] for name in ("Likelihood", "Nats", "Bits/dim", *_names(results), *last)]
        lines.append([result["family"], _stable(result)[0] or NONE, *picked])
    failed = [f"{r['family']}: {r['error']}" for r in results if r["error"]]
    return "\n".join([format_table(head, lines, right=range(3, len(head))), *failed])


def page(results: Sequence[dict], ask: Compare, out: Path) -> str:
    """The whole page as text."""
    columns = [("Family", "name")]
    columns += [(n, "text" if n in ("Trains stably", "Likelihood") else "number") for n in _cells(results[0], results)]
    return render(
        "compare.html.jinja",
        "report",
        Path(__file__).parent,
        title=f"Unconditional models of {_data(ask)}, {_time(seconds(ask.budget))} of training each",
        notes=_notes(results, ask),
        columns=columns,
        rows=[(result, _strip(result, out), _cells(result, results).values()) for result in results],
        curves=[_curve(result) for result in results if result.get("curve", {}).get("points")],
        settings=_settings(results, ask),
    )


def _strip(result: dict, out: Path) -> Image.Image | None:
    """The family's images in the table."""
    return Image.open(strip_file(out, result["family"])) if result.get("strip") else None


def _cells(result: dict, results: Sequence[dict]) -> dict[str, tuple[object, str]]:
    """Column to what it is sorted by and its text."""
    flat = row(result)
    bound = flat["likelihood"] == "bound" or flat["of"] == "density"
    kind = f"{flat['likelihood']}, of a density" if flat["of"] == "density" else flat["likelihood"]
    kind = kind if flat["nats"] is not None or kind == "none" else None
    fewer = _fewer(flat["samples"], max((r["distances"]["samples"] for r in results if r.get("distances")), default=0))
    less = _fewer(flat["scored"], _scored(results))
    accuracy = flat["probe_accuracy"]
    found = {
        "Trains stably": _stable(result),
        "Likelihood": (kind or "", kind or NONE),
        "Nats": _number(flat["nats"], "≤\u00a0" * bound, less),
        "Bits/dim": _number(flat["bits_per_dim"], "≤\u00a0" * bound, less),
    }
    found |= {column: _number(figures.get(result["family"])) for column, figures in _published(results).items()}
    found |= dict(zip(_names(results), (_number(flat[key], after=fewer) for key in ("fd", "kid")), strict=True))
    step = flat["seconds_per_step"]
    probed = _fewer(_probed(result), max(map(_probed, results)))
    latents = _number(flat["latents"])
    if accuracy is not None:
        latents = accuracy, f"{flat['latents']:,} · {accuracy:.1%}{probed}"
    if flat["latents"] is None and flat["class"]:
        latents = ("", "none")
    found |= {
        "s / 1,000 samples": _number(flat["seconds_per_1000_samples"]),
        "Latent features": latents,
        "ms / step": _number(None if step is None else 1000 * step),
        "Parameters": _count(flat["parameters"]),
        "Peak memory, MB": _count(flat["peak_memory_mb"]),
    }
    on_gpu = any("gpu" in r.get("training", {}).get("peak_memory_mb", {}) for r in results)
    return found | ({"GPU memory, MB": _count(flat["peak_gpu_memory_mb"])} if on_gpu else {})


def _stable(result: dict) -> tuple[str, str]:
    training = result.get("training", {})
    if not training:
        return "", NONE
    if not training["stable"]:
        return "no", "no"
    if training["fitted"]:
        return "fitted", "fitted at once"
    return "yes", f"yes, {training['rises']} rises in {max(0, training['checkpoints'] - 1)}"


def _number(value: float | None, before: str = "", after: str = "") -> tuple[object, str]:
    return ("", NONE) if value is None else (value, f"{before}{number(value)}{after}")


def _published(results: Sequence[dict]) -> dict[str, dict[str, float]]:
    """What others report of such pictures, {column: {family: figure}}; no column where nothing is known."""
    data = next((r["data"] for r in results if r.get("data")), None)
    figures = published(**data) if data else {}
    return {f"Published {UNITS[data['levels']]}": figures} if figures else {}


def _fewer(count: int | None, most: int) -> str:
    """The number of pictures, where other rows have more."""
    return f" (n = {count:,})" if count and count < most else ""


def _scored(results: Sequence[dict]) -> int:
    """Of how many test pictures the likelihood is, at most."""
    return max((r["likelihood"]["pictures"] for r in results if "nats" in r.get("likelihood", {})), default=0)


def _probed(result: dict) -> int:
    """Of how many training pictures' latents the class was learned, at most."""
    return result.get("latents", {}).get("pictures", 0)


def _count(value: float | None) -> tuple[object, str]:
    return ("", NONE) if value is None else (value, f"{value:,.0f}")


def _names(results: Sequence[dict]) -> list[str]:
    """What the distances are called."""
    return next((r["distances"]["names"] for r in results if r.get("distances")), ["FD", "KID"])


def _curve(result: dict) -> Curve:
    what, points = result["curve"]["what"], result["curve"]["points"]
    name = {"bits": "bits/dim of training pictures", "loss": "loss"}[what]
    return Curve(result["family"], "seconds of training", name, {name: [(x, y, None, None) for x, y in points]})


def _notes(results: Sequence[dict], ask: Compare) -> list[str]:
    frechet, kernel = _names(results)
    failed = any(result["error"] for result in results)
    counts = next(((r["distances"]["samples"], r["distances"]["test"]) for r in results if r.get("distances")), (0, 0))
    return [
        "Every family trained for the same seconds on the same pictures; previews, scores, checkpoints do not count. "
        "Learning rates rise and fall with the seconds, as by their recipes with the steps." + _at_once(results),
        "Measured on test pictures is the checkpoint that did best on held-out training pictures, by their likelihood "
        "or loss; of GANs, whose losses do not tell it, by a Fréchet distance of random features. This favours them by "
        f"{frechet}.",
        "Trains stably: whether loss and gradients stayed finite, and at how many checkpoints the held-out loss rose.",
        f"Likelihood: of {_scored(results):,} test pictures of {ask.levels} levels. “≤” marks bounds: of the evidence, "
        "or of a density on pictures with uniform noise within their levels.",
        *([f"Published: by papers, of models trained on {TRAINED_ON:,} pictures."] if _published(results) else []),
        f"{frechet} and {kernel}: Fréchet and kernel distance of {counts[0]:,} samples to {counts[1]:,} test pictures. "
        "The first falls as there are more, so it is no FID of a paper; training pictures in place of samples show "
        "how low it can be.",
        "(n = …): of so many pictures only, as the model is slow to score, sample or encode; it compares roughly with "
        "rows of more.",
        "Latent features: how many numbers, and the share of test pictures whose class logistic regression reads off.",
        "Peak memory: of the process in training, libraries included.",
        *(["A family that failed is tried again when its result in the folder families is removed."] if failed else []),
    ]


def _at_once(results: Sequence[dict]) -> str:
    """Which families are not trained by steps, and what they are given."""
    found = {r["family"]: r["training"] for r in results if r.get("training", {}).get("fitted")}
    if not found:
        return ""
    most = max(training["pictures_at_most"] for training in found.values())
    return f" Not so {' and '.join(found)}: fitted at once, to {most:,} of the pictures at most, however long it takes."


def _settings(results: Sequence[dict], ask: Compare) -> dict:
    told = {k: getattr(ask, k) for k in ("budget", "preset", "levels", "image_size", "gray", "samples", "scored")}
    told |= {k: getattr(ask, k) for k in ("learning_rate", "mixed_precision", "seed")}
    extractor = next((r["distances"]["extractor"] for r in results if r.get("distances")), {"name": ask.extractor})
    machine = next((r["environment"] for r in results if r.get("environment")), {})
    return {"data": _data(ask)} | told | {"extractor": extractor} | machine


def _data(ask: Compare) -> str:
    """Its name, without the folders that it lies in."""
    return Path(ask.data).name if Path(ask.data).exists() else ask.data


def _time(of: float) -> str:
    return f"{of / 60:g} minutes" if of >= 120 else f"{of:g} seconds"
