"""Implementation of `t2i report`, imported when a command runs: --help should not wait for torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from t2i.eval.config import SweepConfig
from t2i.eval.distributed import is_main_process, usable_device
from t2i.eval.evaluate import check, evaluator
from t2i.eval.features import open_extractor
from t2i.eval.generation.images import generate_on_all
from t2i.eval.generation.prompts import open_prompts
from t2i.eval.images.folders import image_files
from t2i.eval.images.references import save_reference
from t2i.eval.images.sets import extract
from t2i.eval.model_cache import ModelCache, open_for_eval
from t2i.eval.report import Curve, Report, Score, human, publish, write
from t2i.eval.report.cli import Human, Statistics
from t2i.eval.run import EvalRun
from t2i.files import read_json, write_json
from t2i.notes import count

SWEPT = ("compositional", "fid")  # metrics of a sweep


def sweep(config: SweepConfig) -> None:
    """Evaluate the pipeline with each value of an option and write one report with curves over the values."""
    models, found, first = ModelCache(config), {}, None
    for value in config.values:
        out = f"{config.out}/{config.over}-{value:g}"
        run = EvalRun(replace(config, out=out, **{config.over: config.number(value)}), models)
        if first is None:
            first = run
            check(run, SWEPT)
        if not is_main_process():
            run.follow()
            continue
        with run.leading():
            found[value] = {name: evaluator(name).evaluate(run) for name in SWEPT}
    if not is_main_process():
        return
    accuracies = {value: of["compositional"].scores for value, of in found.items()}
    distances = {value: of["fid"].scores[:1] for value, of in found.items()}
    curves = [
        _curve(f"Compositional accuracy against {config.over}", config.over, "compositional accuracy", accuracies),
        _curve(f"Fréchet distance against {config.over}", config.over, "Fréchet distance", distances),
    ]
    scores = [
        replace(score, name=f"{score.name}, {config.over} {value:g}")
        for value in found
        for score in accuracies[value] + distances[value]
    ]
    notes = dict.fromkeys(note for of in found.values() for result in of.values() for note in result.notes)
    made = _without(config.over, first.header)
    made["options"] = _without(config.over, made["options"])
    settings = {"prompts": config.prompts, "num_images": config.num_images, "seed": config.seed}
    settings |= {config.over: list(config.values)}
    report = Report(f"{first.target}: {config.over}", made | settings, scores, curves, [], list(notes))
    publish(report, Path(config.out))


def _curve(title: str, x_label: str, y_label: str, found: Mapping[float, Sequence[Score]]) -> Curve:
    """One series per score, over the values."""
    series: dict[str, list] = {}
    for value, scores in found.items():
        for s in scores:
            series.setdefault(s.name, []).append((value, s.value, s.low, s.high))
    return Curve(title, x_label, y_label, series)


def _without(name: str, data: dict) -> dict:
    return {key: value for key, value in data.items() if key != name}


def statistics(ask: Statistics) -> None:
    """Extract the features of a folder and write their statistics."""
    image_files(ask.images, ask.allow_mixed)  # before loading the network, which is slower
    extractor = open_extractor(ask.extractor, usable_device(ask.device))
    features = extract(ask.images, extractor, ask.batch_size, allow_mixed=ask.allow_mixed)
    source = ask.source or Path(ask.images).resolve().name
    save_reference(ask.out, features, source, keep_features=ask.keep_features)
    for image in features.skipped:
        print(f"note: skipped {image}")
    print(f"{ask.out}: {count(features.names, 'image')}, {extractor.name}")


def make_human_page(ask: Human) -> None:
    """Generate the images of each system and write the page for raters and its key."""
    prompts, out = open_prompts(ask.prompts, ask.num_prompts, ask.seed), Path(ask.out)
    images = {}
    for i, name in enumerate(ask.systems):
        pipe = open_for_eval(name, ask.device, ask.dtype)
        folder = out / f"system-{i}"
        manifest = generate_on_all(pipe, prompts, [ask.seed], folder, name=name)
        images[name] = [Image.open(folder / entry["file"]).convert("RGB") for entry in manifest["images"]]
    if is_main_process():
        human.make_page(images, [prompt.text for prompt in prompts], out, ask.seed)
        print(
            f"{out}: human.html for the raters, key.json for you; then: t2i report human --answers FILES --key key.json"
        )


def tally(answers: Sequence[str], key: str, out: Path) -> None:
    """Print win rates and Elo ratings and write them as a report."""
    given = read_json(key, "systems", "prompts", "questions")
    found = human.tally([read_json(path, "page", "rater", "answers") for path in answers], given)
    systems = {"systems": given["systems"], "raters": found["raters"]}
    write(Report("Human evaluation", systems, human.scores(found)), out)
    write_json(out / "tally.json", found)
    print(human.table(found))
    print(f"{out}: report.html and report.json")
