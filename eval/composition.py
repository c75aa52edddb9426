"""Which kinds of composition does a pipeline master? Per category, after GenEval (Ghosh et al. 2023, arXiv 2310.11513).

Each category asks about what it is named after, and the kinds must always be right:

    colour, skin                kind and attribute of one thing
    counting                    number and kind, whatever the attribute
    position                    both kinds in the right places, whatever their attributes
    two objects                 both kinds, wherever they are
    attribute binding           both kinds, each with its own attribute, wherever they are
    paraphrase                  a scene of one thing in several wordings: kind and attribute under all of them
    unseen combination          as colour and skin, on pairs that were held out of the training data
    unseen combination of two   as attribute binding, both pairs held out
    relation                    everything (only in the suite "lecture")

Where two things are asked for, the picture must also be read as one of two things. Beside every score stands the
ceiling, the reader's own score on real pictures of the same scenes.

Shapes: B pictures in a batch · K kinds, A attributes
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from t2i.checks import UsageError
from t2i.data.toybox import ATTRIBUTES, KINDS
from t2i.data.toybox.reader import Reader, Reading
from t2i.eval.binding import SHOWN, readings, rendered, share, squares
from t2i.eval.prompts import Prompt
from t2i.weights import digest

NAMES = {"kinds": tuple(KINDS), "attributes": ATTRIBUTES}
OF_TWO = ("stacked", "side by side")  # layouts


@dataclass(frozen=True)
class Answer:
    """One picture: its prompt, and what the reader says is on it."""

    prompt: Prompt
    reading: Reading

    @property
    def truth(self) -> Reading:
        return Reading.of(self.prompt.scene)

    @property
    def right(self) -> bool:
        """Whether the picture shows what its category asks about (see the module)."""
        return RULES[self.prompt.category](self.truth, self.reading)

    @property
    def slots(self) -> list[tuple[tuple[str, str], tuple[str, str]]]:
        """(asked, read) for each thing that the prompt names, by place, both as (kind, attribute)."""
        pairs = list(zip(self.truth.things, self.reading.things, strict=True))
        return pairs if self.truth.layout in OF_TWO else pairs[:1]

    @property
    def errors(self) -> int:
        """How many facts are wrong: the layout, and kind and attribute of each thing that the prompt names."""
        wrong = [a != b for asked, read in self.slots for a, b in zip(asked, read, strict=True)]
        return sum(wrong) + (self.reading.layout != self.truth.layout)


@dataclass(frozen=True)
class Composition:
    """What `judge` found.

    Attributes:
        report: plain data for JSON: "scores" and "ceilings" {category: {"value", "low", "high", "n"}} with 95 %
            intervals (Wilson 1927; for paraphrases n counts scenes); "paraphrase" (where asked for); "confusion" and
            "confusion_of_reader" as `confusion` gives them; "worst" {category: [{"prompt", "key", "asked", "read",
            "errors"}]}; "undecided", the number of prompts that nothing scores; and "settings".
        failures: for each category the worst pictures, those with most facts wrong first, with their answers.
        successes: for each category the first right ones.
        undecided: pictures of prompts without a scene, which nothing scores.
    """

    report: dict
    failures: dict[str, list[tuple[Image.Image, Answer]]] = field(repr=False)
    successes: dict[str, list[tuple[Image.Image, Answer]]] = field(repr=False)
    undecided: list[tuple[Image.Image, Prompt]] = field(repr=False)


# --- what counts as right -------------------------------------------------------------------------------------------


def _thing(truth: Reading, reading: Reading) -> bool:
    return reading.things[0] == truth.things[0]


def _number(truth: Reading, reading: Reading) -> bool:
    return reading.layout == truth.layout and reading.things[0][0] == truth.things[0][0]


def _kinds_in_place(truth: Reading, reading: Reading) -> bool:
    return reading.layout == truth.layout and _kinds(reading) == _kinds(truth)


def _both_kinds(truth: Reading, reading: Reading) -> bool:
    return reading.layout in OF_TWO and sorted(_kinds(reading)) == sorted(_kinds(truth))


def _both_things(truth: Reading, reading: Reading) -> bool:
    return reading.layout in OF_TWO and sorted(reading.things) == sorted(truth.things)


def _everything(truth: Reading, reading: Reading) -> bool:
    return reading == truth


def _kinds(reading: Reading) -> list[str]:
    return [kind for kind, _ in reading.things]


RULES: dict[str, Callable[[Reading, Reading], bool]] = {
    "colour": _thing,
    "skin": _thing,
    "counting": _number,
    "position": _kinds_in_place,
    "two objects": _both_kinds,
    "attribute binding": _both_things,
    "paraphrase": _thing,
    "unseen combination": _thing,
    "unseen combination of two": _both_things,
    "relation": _everything,
}


# --- the evaluation -------------------------------------------------------------------------------------------------


def judge(
    reader: Reader,
    prompts: Sequence[Prompt],
    images: Sequence[Image.Image],
    batch_size: int = 32,
    settings: dict | None = None,
) -> Composition:
    """Read the pictures of `prompts`, one for each, and real ones of the same scenes.

    Args:
        images: of any size.
        settings: that they were drawn with, for the report.

    Raises ValueError where no prompt has a scene to judge its picture by.
    """
    _check_scenes(prompts)
    reader = reader.eval()
    drawn, undecided = _read_drawn(reader, prompts, images, batch_size)
    real = _read_real(reader, [answer.prompt for _, answer in drawn], batch_size)
    by_category = {c: [pair for pair in drawn if pair[1].prompt.category == c] for c in RULES}
    by_category = {c: pairs for c, pairs in by_category.items() if pairs}
    wrong = {c: sorted((p for p in pairs if not p[1].right), key=_most_errors) for c, pairs in by_category.items()}
    worst = {c: pairs[:SHOWN] for c, pairs in wrong.items()}
    best = {c: [p for p in pairs if p[1].right][:SHOWN] for c, pairs in by_category.items()}
    report = _report([answer for _, answer in drawn], real) | {
        "worst": {c: [_row(answer) for _, answer in pairs] for c, pairs in worst.items()},
        "undecided": len(undecided),
        "settings": (settings or {}) | {"reader_sha256": digest(reader)},
    }
    return Composition(report, worst, best, undecided)


def scores(answers: Sequence[Answer]) -> dict[str, dict]:
    """The share that is right in each category that occurs; of paraphrases, scenes that are right in all wordings."""
    found = {category: [a for a in answers if a.prompt.category == category] for category in RULES}
    shares = {category: share([a.right for a in own]) for category, own in found.items() if own}
    if "paraphrase" in shares:
        shares["paraphrase"] = paraphrase(found["paraphrase"])["all"]
    return shares


def paraphrase(answers: Sequence[Answer]) -> dict[str, dict]:
    """Shares with intervals, of scenes drawn in several wordings, whose answers share the key up to its last part.

    "all": scenes right in all wordings; "each": single pictures that are right; "agreement": scenes whose pictures
    show all the same kind and attribute, right or wrong. Every picture has its own noise, so chance lowers agreement
    too, and a system that ignores wording altogether does not reach 1.
    """
    scenes: dict[str, list[Answer]] = {}
    for answer in answers:
        scenes.setdefault(answer.prompt.key.rsplit("/", 1)[0], []).append(answer)
    return {
        "all": share([all(a.right for a in own) for own in scenes.values()]),
        "each": share([a.right for a in answers]),
        "agreement": share([len({a.reading.things[0] for a in own}) == 1 for own in scenes.values()]),
    }


def confusion(answers: Sequence[Answer]) -> dict[str, dict]:
    """What was read for what was asked: {"kinds": {"names", "counts" K × K}, "attributes": {"names", "counts" A × A}}.

    counts[i][j]: how often names[i] was asked for and names[j] read. Only of pictures of one kind: with two things, a
    wrong place would pass for a wrong kind.
    """
    tables = {what: np.zeros((len(names), len(names)), int) for what, names in NAMES.items()}
    for answer in answers:
        if len(answer.slots) == 1:
            for (what, names), asked, read in zip(NAMES.items(), *answer.slots[0], strict=True):
                tables[what][names.index(asked), names.index(read)] += 1
    return {what: {"names": list(NAMES[what]), "counts": counts.tolist()} for what, counts in tables.items()}


def _check_scenes(prompts: Sequence[Prompt]) -> None:
    if all(prompt.scene is None for prompt in prompts):
        raise UsageError("none of these prompts has a scene to judge it by; give the suite toybox or lecture")


def _read_drawn(
    reader: Reader, prompts: Sequence[Prompt], images: Sequence[Image.Image], batch_size: int
) -> tuple[list[tuple[Image.Image, Answer]], list[tuple[Image.Image, Prompt]]]:
    """Pictures with answers, and those of prompts without a scene; all (64, 64)."""
    decided: list[tuple[Image.Image, Answer]] = []
    undecided: list[tuple[Image.Image, Prompt]] = []
    batches = (squares(images[i : i + batch_size]) for i in range(0, len(images), batch_size))
    read = (pair for batch in batches for pair in readings(reader, batch))
    for prompt, (image, reading) in zip(prompts, read, strict=True):
        picture = Image.fromarray(image)
        if prompt.scene is None:
            undecided.append((picture, prompt))
        else:
            decided.append((picture, Answer(prompt, reading)))
    return decided, undecided


def _read_real(reader: Reader, prompts: Sequence[Prompt], batch_size: int) -> list[Answer]:
    batches = rendered([prompt.scene for prompt in prompts], batch_size)
    found = [reading for images in batches for _, reading in readings(reader, images)]
    return [Answer(prompt, reading) for prompt, reading in zip(prompts, found, strict=True)]


def _report(drawn: Sequence[Answer], real: Sequence[Answer]) -> dict:
    report = {"scores": scores(drawn), "ceilings": scores(real)}
    if own := [a for a in drawn if a.prompt.category == "paraphrase"]:
        report["paraphrase"] = paraphrase(own)
    return report | {"confusion": confusion(drawn), "confusion_of_reader": confusion(real)}


def _most_errors(pair: tuple[Image.Image, Answer]) -> int:
    return -pair[1].errors


def _row(answer: Answer) -> dict:
    return {
        "prompt": answer.prompt.text,
        "key": answer.prompt.key,
        "asked": str(answer.truth),
        "read": str(answer.reading),
        "errors": answer.errors,
    }


def confusion_picture(report: dict) -> Image.Image:
    """The confusion matrices, drawn pictures above and the reader on real ones below, as shares of each row."""
    figure = Figure(figsize=(15, 15), layout="constrained")
    titles = {"confusion": "drawn", "confusion_of_reader": "real pictures: the reader alone"}
    for i, (key, title) in enumerate(titles.items()):
        for j, what in enumerate(NAMES):
            names, counts = report[key][what]["names"], np.array(report[key][what]["counts"], float)
            shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
            axes = figure.add_subplot(2, 2, 2 * i + j + 1)
            picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
            axes.set_xticks(range(len(names)), names, rotation=90)
            axes.set_yticks(range(len(names)), names)
            axes.set(title=f"{what}, {title}", xlabel="read", ylabel="asked for")
            figure.colorbar(picture, ax=axes, label="share of the row", shrink=0.8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.array(canvas.buffer_rgba())).convert("RGB")
