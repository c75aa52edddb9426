"""What `t2i eval …` runs, apart from `binding`: the parts of a report, the difference of two, and human evaluation.

Imported when a command runs, not before: torch takes seconds to load, and --help should not.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

from PIL import Image

from t2i.cli_errors import Dtype, UsageError
from t2i.eval import human, sections
from t2i.eval.ask import WHOLE, Ask, Statistics, Sweep
from t2i.eval.diff import diff, table
from t2i.eval.features import open_extractor
from t2i.eval.folders import image_files
from t2i.eval.generation import generate_on_all
from t2i.eval.image_sets import extract
from t2i.eval.processes import is_main_process, usable_device
from t2i.eval.prompts import open_prompts
from t2i.eval.references import save_reference
from t2i.eval.report import Gallery, Report, write
from t2i.eval.sections import SECTIONS, everything
from t2i.eval.subject import PICTURES, Subject
from t2i.eval.text import scores_table
from t2i.eval.tools import open_to_draw
from t2i.files import read_json, write_json

SHOWN = 32  # pictures of the first gallery


def evaluate(part: str, ask: Ask) -> None:
    """Run one of SECTIONS, or "all", and write report.json and report.html to `ask.out`."""
    subject = Subject(ask)
    _check(part, subject)
    Path(ask.out).mkdir(parents=True, exist_ok=True)  # fails now rather than after all the drawing
    sections.draw(part, subject)  # on all processes; the rest is the first one's work
    if not is_main_process():
        return
    found = everything(subject) if part == "all" else SECTIONS[part](subject)
    galleries, notes, num = list(found.galleries), list(found.notes), ask.num
    if PICTURES in sections.drawn(part):
        gallery, num = _first(subject), len(subject.files)
        galleries.append(gallery)
    notes += subject.left_out
    if subject.unused:
        notes.append(
            f"{', '.join(subject.unused)} had no effect: all of the folder's pictures were scored as they are."
        )
    settings = subject.header | {"suite": ask.prompts, "reference": ask.reference, "num": num, "seed": ask.seed}
    _write(Report(f"{ask.pipeline}: {part}", settings, found.scores, found.curves, galleries, notes), ask.out)


def _first(subject: Subject) -> Gallery:
    """The first pictures that can be read, with what is said of them."""
    texts = dict(zip(subject.files, subject.texts, strict=True))
    shown = ((picture, texts[file]) for file, picture in subject.pictures() if not isinstance(picture, str))
    return Gallery("Pictures", list(islice(shown, SHOWN)))


def _check(part: str, subject: Subject) -> None:
    """Raise ValueError or FileNotFoundError for what would fail after all the drawing."""
    ask = subject.ask
    if part == "clip" and (ask.clip is None or ask.variant is None):
        raise UsageError("a CLIP score needs --clip (clip:NAME or open_clip:ARCH/PRETRAINED) and --variant")
    for name in (ask.extractor, ask.clip):
        if name is not None:
            subject.tools.extractor(name)
    for name in (ask.reference, ask.training):
        if name in (None, "toybox"):
            continue
        if not Path(name).exists():
            raise FileNotFoundError(f"there are no pictures {name}; give 'toybox', a folder, or a .npz of statistics")
        if Path(name).is_dir():
            image_files(name, ask.allow_mixed)
    if part == "memorization":
        subject.check_training()


def sweep(ask: Sweep) -> None:
    """Evaluate the pipeline with each value of an option, and write the curves."""
    subjects: dict[float, Subject] = {}
    for value in ask.values:
        own = replace(ask, out=f"{ask.out}/{ask.over}-{value:g}", **{ask.over: _number(ask.over, value)})
        subjects[value] = Subject(own, like=next(iter(subjects.values()), None))
    _check("fid", next(iter(subjects.values())))
    for subject in subjects.values():
        subject.drawn(PICTURES)  # on all processes; the rest is the first one's work
    if not is_main_process():
        return
    found = sections.sweep(subjects, ask.over)
    made = _without(ask.over, next(iter(subjects.values())).header)
    made["options"] = _without(ask.over, made["options"])
    settings = made | {"suite": ask.prompts, "num": ask.num, "seed": ask.seed, ask.over: list(ask.values)}
    _write(Report(f"{ask.pipeline}: {ask.over}", settings, found.scores, found.curves, [], found.notes), ask.out)


def _without(name: str, data: dict) -> dict:
    return {key: value for key, value in data.items() if key != name}


def _number(option: str, value: float) -> int | float:
    return int(value) if option in WHOLE else value


def _write(report: Report, out: str) -> None:
    write(report, Path(out))
    print(scores_table(report.scores))
    for note in report.notes:
        print(f"note: {note}")
    print(f"{out}: report.html and report.json")


def statistics(ask: Statistics) -> None:
    """Extract the features of a folder and write their statistics."""
    image_files(ask.pictures, ask.allow_mixed)  # before the network, which takes longer to open
    extractor = open_extractor(ask.extractor, usable_device(ask.device))
    features = extract(ask.pictures, extractor, ask.batch_size, allow_mixed=ask.allow_mixed)
    source = ask.source or Path(ask.pictures).resolve().name
    save_reference(ask.out, features, source, keep_features=ask.keep_features)
    for picture in features.skipped:
        print(f"note: skipped {picture}")
    print(f"{ask.out}: {len(features)} pictures, {extractor.name}")


def compare(old: str, new: str) -> None:
    """Print what changed between two report.json files."""
    print(table(diff(read_json(old), read_json(new))))


def make_human_page(
    systems: tuple[str, ...], prompts: str, num: int, seed: int, out: Path, device: str, dtype: Dtype
) -> None:
    """Draw the prompts with each system, and write the page for raters and the key."""
    asked = open_prompts(prompts, num, seed)
    drawn = {}
    for i, name in enumerate(systems):
        pipe = open_to_draw(name, device, dtype)
        folder = out / f"system-{i}"
        manifest = generate_on_all(pipe, asked, [seed], folder, name=name)
        drawn[name] = [Image.open(folder / entry["file"]).convert("RGB") for entry in manifest["images"]]
    if is_main_process():
        human.make_page(drawn, [prompt.text for prompt in asked], out, seed)
        print(
            f"{out}: human.html for the raters, key.json for you; then: t2i eval human --answers FILES --key key.json"
        )


def tally(answers: tuple[str, ...], key: str, out: Path) -> None:
    """Print win rates and Elo ratings, and write them as a report."""
    given = read_json(key, "systems", "prompts", "questions")
    found = human.tally([read_json(path, "page", "rater", "answers") for path in answers], given)
    systems = {"systems": given["systems"], "raters": found["raters"]}
    write(Report("Human evaluation", systems, human.scores(found)), out)
    write_json(out / "tally.json", found)
    print(human.table(found))
    print(f"{out}: report.html and report.json")
