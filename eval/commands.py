"""What `t2i eval …` runs, apart from `binding`: the parts of a report.

Imported when a command runs, not before: torch takes seconds to load, and --help should not.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from t2i.checks import UsageError
from t2i.eval import sections
from t2i.eval.ask import Ask
from t2i.eval.folders import image_files
from t2i.eval.measures import LEAST
from t2i.eval.processes import is_main_process
from t2i.eval.report import Gallery, Report, publish
from t2i.eval.sections import SECTIONS, everything
from t2i.eval.subject import PICTURES, Subject
from t2i.notes import are, count

SHOWN = 32  # pictures of the first gallery


def evaluate(part: str, ask: Ask) -> None:
    """Run one of SECTIONS, or "all", and write report.json and report.html to `ask.out`."""
    subject = Subject(ask)
    check(part, subject)
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
    publish(Report(f"{ask.pipeline}: {part}", settings, found.scores, found.curves, galleries, notes), Path(ask.out))


def _first(subject: Subject) -> Gallery:
    """The first pictures that can be read, with what is said of them."""
    texts = dict(zip(subject.files, subject.texts, strict=True))
    shown = ((picture, texts[file]) for file, picture in subject.pictures() if not isinstance(picture, str))
    return Gallery("Pictures", list(islice(shown, SHOWN)))


def check(part: str, subject: Subject) -> None:
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
    if part in ("fid", "kid"):
        subject.check_reference()
        if (num := len(subject.files if subject.found else subject.prompts)) < LEAST:
            raise UsageError(f"{count(range(num), 'picture')} {are(range(num))} too few to compare sets: give {LEAST}")
        if ask.reference.endswith(".npz"):
            subject.reference(subject.tools.extractor(ask.extractor))  # raises for a damaged one
    if part == "memorization":
        subject.check_training()
