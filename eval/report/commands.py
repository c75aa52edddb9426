"""Implementation of `t2i report`, imported when a command runs: --help should not wait for torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from PIL import Image

from t2i.eval.config import SweepConfig
from t2i.eval.distributed import usable_device
from t2i.eval.evaluate import check, evaluator
from t2i.eval.features import open_extractor
from t2i.eval.generation.images import generate_on_all
from t2i.eval.generation.prompts import open_prompts
from t2i.eval.images.folders import image_files
from t2i.eval.images.references import save_reference
from t2i.eval.images.sets import extract
from t2i.eval.model_cache import ModelCache, open_for_eval
from t2i.eval.report import Curve, Report, Score, human, publish, write
from t2i.eval.report.cli import HumanConfig, StatisticsConfig
from t2i.eval.run import EvalRun
from t2i.files import read_json, write_json
from t2i.notes import count
from t2i.processes import this_process

SWEPT = ("compositional", "fid")  # metrics of a sweep


def sweep(config: SweepConfig) -> None:
    """Evaluate the pipeline with each value of an option and write one report with curves over the values, of each
    reranker.
    """
    models, first = ModelCache(config), None
    points = {(r, value): config.at(value, r) for r, value in product(config.rerankers or (None,), config.values)}
    evaluated = {}  # by folder: points may share one
    for point in {point.out: point for point in points.values()}.values():
        run = EvalRun(point, models)
        if first is None:
            first = run
            check(run, SWEPT)
        if not this_process().is_main_process:
            run.follow()
            continue
        with run.leading():
            evaluated[point.out] = {name: evaluator(name).evaluate(run) for name in SWEPT}
    if not this_process().is_main_process:
        return
    results = {key: evaluated[point.out] for key, point in points.items()}
    accuracies = {key: of["compositional"].scores for key, of in results.items()}
    distances = {key: of["fid"].scores[:1] for key, of in results.items()}
    curves = [
        _curve(f"Compositional accuracy against {config.over}", config.over, "compositional accuracy", accuracies),
        _curve(f"Fréchet distance against {config.over}", config.over, "Fréchet distance", distances),
    ]
    scores = [
        replace(score, name=f"{_series(score, reranker)}, {config.over} {value:g}")
        for reranker, value in results
        for score in accuracies[reranker, value] + distances[reranker, value]
    ]
    notes = dict.fromkeys(note for of in results.values() for result in of.values() for note in result.notes)
    settings = first.header | {"prompts": config.prompts, "num_images": config.num_images, "seed": config.seed}
    varied = (config.over, "reranker")
    settings["options"] = {name: value for name, value in settings["options"].items() if name not in varied}
    if config.rerankers:
        settings["rerankers"] = list(config.rerankers)
    settings.pop(config.over, None)  # of the first run; its place is the end
    settings[config.over] = list(config.values)
    publish(Report(f"{first.target}: {config.over}", settings, scores, curves, notes=list(notes)), Path(config.out))


def _curve(title: str, x_label: str, y_label: str, scores: Mapping[tuple[str | None, float], Sequence[Score]]) -> Curve:
    """One series per score and reranker, over the values."""
    series: dict[str, list] = {}
    for (reranker, value), some in scores.items():
        for s in some:
            series.setdefault(_series(s, reranker), []).append((value, s.value, s.low, s.high))
    return Curve(title, x_label, y_label, series)


def _series(score: Score, reranker: str | None) -> str:
    return f"{score.name}, {reranker}" if reranker else score.name


def statistics(config: StatisticsConfig) -> None:
    """Extract the features of a folder and write their statistics."""
    image_files(config.images, config.allow_mixed)  # before loading the network, which is slower
    extractor = open_extractor(config.extractor, usable_device(config.device))
    features = extract(config.images, extractor, config.batch_size, allow_mixed=config.allow_mixed)
    source = config.source or Path(config.images).resolve().name
    save_reference(config.out, features, source, keep_features=config.keep_features)
    for image in features.skipped:
        print(f"note: skipped {image}")
    print(f"{config.out}: {count(features.names, 'image')}, {extractor.name}")


def make_human_page(config: HumanConfig) -> None:
    """Generate the images of each system and write the page for raters and its key."""
    prompts, out = open_prompts(config.prompts, config.num_prompts, config.seed), Path(config.out)
    images = {}
    for i, name in enumerate(config.systems):
        pipe = open_for_eval(name, config.device, config.dtype)
        folder = out / f"system-{i}"
        manifest = generate_on_all(pipe, prompts, [config.seed], folder, name=name)
        images[name] = [Image.open(folder / entry["file"]).convert("RGB") for entry in manifest["images"]]
    if this_process().is_main_process:
        human.make_page(images, [prompt.text for prompt in prompts], out, config.seed)
        print(
            f"{out}: human.html for the raters, key.json for you; then: t2i report human --answers FILES --key key.json"
        )


def tally(answers: Sequence[str], key: str, out: Path) -> None:
    """Print win rates and Elo ratings and write them as a report."""
    page = read_json(key, "systems", "prompts", "questions")
    result = human.tally([read_json(path, "page", "rater", "answers") for path in answers], page)
    settings = {"systems": page["systems"], "raters": result["raters"]}
    write(Report("Human evaluation", settings, human.scores(result)), out)
    write_json(out / "tally.json", result)
    print(human.table(result))
    print(f"{out}: report.html and report.json")
