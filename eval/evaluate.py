"""Evaluates a target on several metrics."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import ModuleType

from t2i.checks import UsageError
from t2i.data.sources import WORLDS
from t2i.eval.config import EvalConfig
from t2i.eval.distributed import FAILURES
from t2i.eval.evaluators import EVALUATORS, OF_WORLD, UNCONDITIONAL
from t2i.eval.images.folders import image_files
from t2i.eval.report import Gallery, Report, publish
from t2i.eval.run import EvalRun
from t2i.eval.scores import Result
from t2i.processes import this_process

SHOWN = 32  # images in the first gallery


def evaluate(config: EvalConfig) -> Report | None:
    """Compute `config.metrics`, or all metrics defined for the target, and write the report.

    All processes of `accelerate launch` must call this; the main one returns the report.

    If metrics were named, raises the first error; otherwise metrics that fail are omitted, with a note that gives the
    reason.
    """
    run = EvalRun(config)
    metrics = _metrics(config, run)
    check(run, config.metrics)
    Path(config.out).mkdir(parents=True, exist_ok=True)  # fails before generating rather than after
    if not this_process().is_main_process:
        run.follow()
        return None
    with run.leading():
        report = _report(run, _results(run, metrics))
    publish(report, Path(config.out))
    return report


def check(run: EvalRun, metrics: Sequence[str]) -> None:
    """Raise before generating what would otherwise be raised afterwards: missing models, references, bad options."""
    config = run.config
    for metric in metrics:
        module = evaluator(metric)
        if hasattr(module, "check"):
            module.check(run)
    for name in (config.extractor, config.clip):
        if name is not None and set(metrics) != {"likelihood"}:
            run.models.extractor(name)
    for name, known in ((config.reference, ("renders",)), (config.training_data, tuple(WORLDS))):
        if name in (None, *known) or run.kind == UNCONDITIONAL:
            continue
        if not Path(name).exists():
            names = " or ".join(map(repr, known))
            raise FileNotFoundError(f"there is no {name}; give {names}, a folder of images, or a .npz of statistics")
        if Path(name).is_dir():
            image_files(name, config.allow_mixed)


def evaluator(name: str) -> ModuleType:
    """The module of a metric in EVALUATORS, with `evaluate(run)` and perhaps `check(run)`."""
    return import_module(f"t2i.eval.evaluators.{name}")


def _metrics(config: EvalConfig, run: EvalRun) -> list[str]:
    if len(config.targets) > 1:
        if run.kind != UNCONDITIONAL or set(config.metrics) - {"likelihood"}:
            raise UsageError(
                "several targets are allowed only for the likelihood of unconditional models; evaluate others one by "
                "one and compare their reports with: t2i report diff"
            )
        return ["likelihood"]
    of_other_world = OF_WORLD["toybox-v1" if run.world == "toybox" else "toybox"]
    defaults = [name for name, (_, kinds) in EVALUATORS.items() if run.kind in kinds and name not in of_other_world]
    return list(config.metrics) or defaults


def _results(run: EvalRun, metrics: Sequence[str]) -> list[Result]:
    results = []
    for name in metrics:
        try:
            results.append(evaluator(name).evaluate(run))
        except FAILURES as error:
            named = run.config.metrics or len(run.config.targets) > 1
            if named or (run.generation_failed and not isinstance(error, UsageError)):
                raise
            results.append(Result(name, notes=[f"{name} was left out: {error}"]))
    return results


def _report(run: EvalRun, results: Sequence[Result]) -> Report:
    config, notes = run.config, [note for result in results for note in result.notes] + run.notes
    galleries = [gallery for result in results for gallery in result.galleries]
    num = run.num_images
    if run.has_images:
        texts, num = dict(zip(run.files, run.texts, strict=True)), len(run.files)
        shown = [(image, texts[file]) for file, image in islice(run.readable(), SHOWN)]
        galleries.append(Gallery("Images", shown))
    settings = {"prompts": config.prompts, "reference": config.reference, "num_images": num, "seed": config.seed}
    title = f"{' '.join(config.targets)}: {', '.join(result.name for result in results if result.scores)}"
    return Report(
        title,
        run.header | settings,
        [score for result in results for score in result.scores],
        [curve for result in results for curve in result.curves],
        galleries,
        list(dict.fromkeys(notes)),
        [table for result in results for table in result.tables],
    )
