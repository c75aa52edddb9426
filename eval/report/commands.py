"""What `t2i report` runs. Imported by the command, not before: torch takes seconds to load, and --help should not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from t2i.eval import sections
from t2i.eval.ask import WHOLE, Sweep
from t2i.eval.commands import check
from t2i.eval.features import open_extractor
from t2i.eval.folders import image_files
from t2i.eval.generation import generate_on_all
from t2i.eval.image_sets import extract
from t2i.eval.processes import is_main_process, usable_device
from t2i.eval.prompts import open_prompts
from t2i.eval.references import save_reference
from t2i.eval.report import Curve, Report, Score, human, publish, write
from t2i.eval.report.cli import Human, Statistics
from t2i.eval.subject import PICTURES, Subject
from t2i.eval.tools import open_to_draw
from t2i.files import read_json, write_json
from t2i.notes import count


def sweep(ask: Sweep) -> None:
    """Evaluate the pipeline with each value of an option and write one report with curves over the values."""
    subjects: dict[float, Subject] = {}
    for value in ask.values:
        given = int(value) if ask.over in WHOLE else value
        config = replace(ask, out=f"{ask.out}/{ask.over}-{value:g}", **{ask.over: given})
        subjects[value] = Subject(config, like=next(iter(subjects.values()), None))
    first = next(iter(subjects.values()))
    check("fid", first)
    for subject in subjects.values():
        subject.drawn(PICTURES)  # by all processes; scoring is the main process's work
    if not is_main_process():
        return
    composition = {value: sections.composition(subject) for value, subject in subjects.items()}
    fid = {value: sections.fid(subject) for value, subject in subjects.items()}
    accuracies = {value: found.scores for value, found in composition.items()}
    distances = {value: found.scores[:1] for value, found in fid.items()}
    curves = [
        _curve(f"Compositional accuracy against {ask.over}", ask.over, "compositional accuracy", accuracies),
        _curve(f"Fréchet distance against {ask.over}", ask.over, "Fréchet distance", distances),
    ]
    scores = [
        replace(score, name=f"{score.name}, {ask.over} {value:g}")
        for value in subjects
        for score in accuracies[value] + distances[value]
    ]
    notes = dict.fromkeys(note for value in subjects for note in composition[value].notes + fid[value].notes)
    made = _without(ask.over, first.header)
    made["options"] = _without(ask.over, made["options"])
    settings = made | {"suite": ask.prompts, "num": ask.num, "seed": ask.seed, ask.over: list(ask.values)}
    publish(Report(f"{ask.pipeline}: {ask.over}", settings, scores, curves, [], list(notes)), Path(ask.out))


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
    image_files(ask.images, ask.allow_mixed)  # before the network, which takes longer to open
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
        pipe = open_to_draw(name, ask.device, ask.dtype)
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
