"""Compositional accuracy per prompt category of toybox-v1, after GenEval (Ghosh et al. 2023, arXiv 2310.11513).

The toybox classifier predicts what is in an image. The category determines what must be right:

    colour, texture, seen, zero_shot kind and attribute of one thing
    counting                        number and kind; any attribute
    count                           number, kind and attribute
    position                        both kinds in the right places; any attributes
    two objects                     both kinds, in any place
    attribute binding               both kinds, each with its own attribute, in any place
    paraphrase                      kind and attribute of one scene under several wordings, all of which must be right
    held-out combination            kind and attribute, for pairs held out of the training data
    held-out combination of two     as attribute binding, both pairs held out
    relation                        everything

Images of two things must also be predicted to show two. The ceiling of each score is the classifier's accuracy on real
images of the same scenes.

Shapes: B images in a batch · K kinds, A attributes
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from t2i.checks import UsageError
from t2i.data.image_file import square
from t2i.data.toybox_v1 import ATTRIBUTES, KINDS, Scene
from t2i.data.toybox_v1.classifier import IMAGE_SIZE, Prediction, predict
from t2i.eval.evaluators.reconstruction import reconstruct
from t2i.eval.generation.prompt import Prompt
from t2i.eval.metrics import share
from t2i.eval.report import Gallery, Score, Table
from t2i.eval.run import EvalRun
from t2i.eval.scores import Result, share_score
from t2i.images import to_pil
from t2i.plots import new_figure, styled, to_image
from t2i.weights import digest

SHOWN = 8  # maximum numbers of right and of wrong images per category in the galleries
NAMES = {"kinds": tuple(KINDS), "attributes": ATTRIBUTES}
OF_TWO = ("stacked", "side by side")  # layouts with two things


@dataclass(frozen=True)
class Answer:
    """An image's prompt and the classifier's prediction."""

    prompt: Prompt
    prediction: Prediction

    @property
    def truth(self) -> Prediction:
        """The prediction that would be entirely right."""
        return Prediction.of(self.prompt.scene)

    @property
    def right(self) -> bool:
        """Whether the image shows what its category requires (see the module)."""
        return RULES[self.prompt.category](self.truth, self.prediction)

    @property
    def slots(self) -> list[tuple[tuple[str, str], tuple[str, str]]]:
        """(truth, prediction) of each thing in the prompt, by place, both as (kind, attribute)."""
        pairs = list(zip(self.truth.things, self.prediction.things, strict=True))
        return pairs if self.truth.layout in OF_TWO else pairs[:1]

    @property
    def errors(self) -> int:
        """Number of wrong facts: the layout, and kind and attribute of each thing in the prompt."""
        wrong = [a != b for truth, guess in self.slots for a, b in zip(truth, guess, strict=True)]
        return sum(wrong) + (self.prediction.layout != self.truth.layout)


# --- what counts as right -------------------------------------------------------------------------------------------


def _kinds(prediction: Prediction) -> list[str]:
    return [kind for kind, _ in prediction.things]


def _thing(truth: Prediction, guess: Prediction) -> bool:
    return guess.things[0] == truth.things[0]


def _number_and_kind(truth: Prediction, guess: Prediction) -> bool:
    return guess.layout == truth.layout and _kinds(guess)[0] == _kinds(truth)[0]


def _number_and_thing(truth: Prediction, guess: Prediction) -> bool:
    return guess.layout == truth.layout and _thing(truth, guess)


def _kinds_in_place(truth: Prediction, guess: Prediction) -> bool:
    return guess.layout == truth.layout and _kinds(guess) == _kinds(truth)


def _both_kinds(truth: Prediction, guess: Prediction) -> bool:
    return guess.layout in OF_TWO and sorted(_kinds(guess)) == sorted(_kinds(truth))


def _both_things(truth: Prediction, guess: Prediction) -> bool:
    return guess.layout in OF_TWO and sorted(guess.things) == sorted(truth.things)


def _everything(truth: Prediction, guess: Prediction) -> bool:
    return guess == truth


RULES: dict[str, Callable[[Prediction, Prediction], bool]] = {
    "seen": _thing,
    "zero_shot": _thing,
    "colour": _thing,
    "texture": _thing,
    "counting": _number_and_kind,
    "position": _kinds_in_place,
    "two objects": _both_kinds,
    "attribute binding": _both_things,
    "paraphrase": _thing,
    "held-out combination": _thing,
    "held-out combination of two": _both_things,
    "relation": _everything,
    "count": _number_and_thing,
}


# --- the evaluation -------------------------------------------------------------------------------------------------


def evaluate(run: EvalRun) -> Result:
    """Accuracy in each category, on all facts of real images, and of real images through the image tokenizer, if any.

    Raises UsageError if no prompt has a scene, ValueError if no image of one can be read.
    """
    prompts = check_scenes(run.prompts)
    predictions = dict(zip(run.files, zip(prompts, run.predictions(run.files), strict=True), strict=True))
    decided = {f: Answer(p, guess) for f, (p, guess) in predictions.items() if p.scene and not isinstance(guess, str)}
    skipped = [(p, reason) for p, reason in predictions.values() if isinstance(reason, str)]
    if not decided:
        raise ValueError(f"none of the {len(skipped)} images can be read; copy them again")
    answers = list(decided.values())
    scenes = [answer.prompt.scene for answer in answers]
    real = _answers(answers, run.on_all(_predict_renders, scenes))
    details = {"classifier_sha256": digest(run.models.classifier)}
    counts = Counter(prompt.category for prompt, _ in skipped)
    result = Result("compositional", category_scores(answers, real, counts, details))
    result.scores.append(_all_facts("real images", real, None, details))
    if hasattr(getattr(run.pipeline, "image_tokenizer", None), "reconstruct"):
        coded = _answers(answers, run.on_all(_predict_reconstructions, scenes))
        result.scores.append(_all_facts("real images through the tokenizer", coded, real, details))
    result.tables.extend(tables(answers))
    result.galleries.extend(_galleries(run, decided))
    result.galleries.append(Gallery("Confusion matrices", [(confusion_image(answers, real), "")]))
    result.notes.extend(f"skipped: {reason}" for _, reason in skipped)
    if undecided := sum(prompt.scene is None for prompt in prompts):
        result.notes.append(f"{undecided} prompts have no scene, and their images are not scored.")
    return result


def check_world(run: EvalRun) -> None:
    """Raise UsageError if the target is evaluated with prompts of toybox, since the metric has those of toybox-v1."""
    if run.world != "toybox-v1":
        raise UsageError("this metric has prompts of toybox-v1; for toybox, --metrics facts has the same and more")


def check(run: EvalRun) -> None:
    """Raise UsageError if no prompt has a scene of toybox-v1."""
    check_scenes(run.prompts)


def check_scenes(prompts: Sequence[Prompt]) -> Sequence[Prompt]:
    """Raise UsageError if no prompt has a scene of toybox-v1 to compare its image with."""
    if not any(isinstance(prompt.scene, Scene) for prompt in prompts):
        raise UsageError(
            "none of these prompts has a scene of toybox-v1: give --prompts toybox-v1, basic or lecture-v1"
        )
    return prompts


def category_scores(answers: Sequence[Answer], real: Sequence[Answer], skipped: Counter, details: dict) -> list[Score]:
    """The accuracy in each category that occurs; for paraphrases, the share of scenes right in all wordings.

    Args:
        real: answers for real images of the same scenes, whose accuracy is the ceiling.
        skipped: number of unreadable images per category.
    """
    best = outcomes(real)
    return [
        share_score(name, right, best[name], skipped=skipped[name], details=details)
        for name, right in outcomes(answers).items()
    ]


def outcomes(answers: Sequence[Answer]) -> dict[str, list[bool]]:
    """Whether each image is right, by category; for paraphrases, whether each scene is right in all wordings."""
    by_category = _by_category(answers)
    right = {name: [a.right for a in some] for name, some in by_category.items()}
    if "paraphrase" in right:
        right["paraphrase"] = [all(a.right for a in scene) for scene in _by_scene(by_category["paraphrase"])]
    return right


def tables(answers: Sequence[Answer]) -> list[Table]:
    """Tables of right facts by category; of kinds and attributes, worst first; and of paraphrases."""
    by_category, rows = _by_category(answers), []
    for name, some in by_category.items():
        facts = [share([all(t[i] == f[i] for t, f in a.slots) for a in some]).value for i in (0, 1)]
        facts.append(share([a.prediction.layout == a.truth.layout for a in some]).value)
        rows.append([name, *(f"{fact:.1%}" for fact in facts), len(some)])
    found = [Table("Facts that are right", ["category", "kind", "attribute", "layout", "images"], rows)]
    for place, (what, _) in enumerate(NAMES.items()):
        pairs = [(truth[place], guess[place]) for a in answers for truth, guess in a.slots]
        prompted, wrong = Counter(truth for truth, _ in pairs), Counter(pair for pair in pairs if pair[0] != pair[1])
        rows = []
        for name, n in prompted.items():
            instead = {guess: k for (truth, guess), k in wrong.most_common() if truth == name}
            rows.append([name, n, sum(instead.values()), ", ".join(f"{guess} {k}" for guess, k in instead.items())])
        rows.sort(key=lambda row: (-row[2] / row[1], row[0]))
        columns = [what, "in prompts", "wrong", "predicted instead"]
        found.append(Table(f"{what.capitalize()}, worst first", columns, rows))
    if "paraphrase" in by_category:
        rows = _paraphrase_rows(by_category["paraphrase"])
        found.append(Table("Paraphrases", ["what", "share", "low", "high", "n"], rows))
    return found


def _paraphrase_rows(answers: Sequence[Answer]) -> list[list]:
    """Share of scenes right in all wordings; of single images that are right; of scenes whose images all show the same
    kind and attribute, right or wrong.

    Each image has its own noise, so chance lowers the agreement too, and a system that ignores the wording does not
    reach 1.
    """
    scenes = _by_scene(answers)
    truths = {
        "all paraphrases right": [all(a.right for a in scene) for scene in scenes],
        "images right": [a.right for a in answers],
        "consistent across paraphrases": [len({a.prediction.things[0] for a in scene}) == 1 for scene in scenes],
    }
    intervals = {name: share(values) for name, values in truths.items()}
    return [[name, *(f"{v:.1%}" for v in (i.value, i.low, i.high)), i.n] for name, i in intervals.items()]


def confusion(answers: Sequence[Answer]) -> dict[str, np.ndarray]:
    """{"kinds": (K, K), "attributes": (A, A)}: how often names[i] was prompted and names[j] predicted.

    Only for images of one kind: with two things, a wrong place would count as a wrong kind.
    """
    counts = {what: np.zeros((len(names), len(names)), int) for what, names in NAMES.items()}
    for answer in answers:
        if len(answer.slots) == 1:
            for (what, names), truth, guess in zip(NAMES.items(), *answer.slots[0], strict=True):
                counts[what][names.index(truth), names.index(guess)] += 1
    return counts


@styled
def confusion_image(answers: Sequence[Answer], real: Sequence[Answer]) -> Image.Image:
    """The confusion matrices normalised by row: generated images above, real ones below."""
    figure = new_figure(15, 15)
    for i, (title, of) in enumerate((("generated", answers), ("real images: the classifier alone", real))):
        for j, (what, counts) in enumerate(confusion(of).items()):
            axes, names = figure.add_subplot(2, 2, 2 * i + j + 1), NAMES[what]
            shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
            axes.grid(visible=False)
            matrix = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
            axes.set_xticks(range(len(names)), names, rotation=90)
            axes.set_yticks(range(len(names)), names)
            axes.set(title=f"{what}, {title}", xlabel="predicted", ylabel="in the prompt")
            figure.colorbar(matrix, ax=axes, label="share of the row", shrink=0.8)
    return to_image(figure)


def _galleries(run: EvalRun, decided: dict) -> list[Gallery]:
    """For each category, the first right images, and the wrong ones with the most errors."""
    galleries = []
    for name in RULES:
        some = [(file, answer) for file, answer in decided.items() if answer.prompt.category == name]
        wrong = sorted((pair for pair in some if not pair[1].right), key=lambda pair: -pair[1].errors)
        right = (pair for pair in some if pair[1].right)
        for title, pairs in ((f"{name}: right", right), (f"{name}: the worst", wrong)):
            shown = [(thumbnail(run, file), caption(answer)) for file, answer in islice(pairs, SHOWN)]
            if shown:
                galleries.append(Gallery(title, shown))
    return galleries


def caption(answer: Answer) -> str:
    """The prompt, followed for a wrong image by the prediction."""
    return answer.prompt.text + ("" if answer.right else f" — predicted: {answer.prediction}")


def thumbnail(run: EvalRun, file: Path) -> Image.Image:
    """The image as the classifier receives it, 64 × 64."""
    return Image.fromarray(square(run.load(file), IMAGE_SIZE))


def _all_facts(of: str, answers: Sequence[Answer], best: Sequence[Answer] | None, details: dict) -> Score:
    right, ceiling = ([a.prediction == a.truth for a in given] if given else None for given in (answers, best))
    return share_score(f"all facts, {of}", right, ceiling, details=details)


def _answers(answers: Sequence[Answer], predictions: Sequence[Prediction]) -> list[Answer]:
    return [Answer(answer.prompt, guess) for answer, guess in zip(answers, predictions, strict=True)]


def _by_category(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    """The answers of each category that occurs, in the order of RULES."""
    of = {name: [a for a in answers if a.prompt.category == name] for name in RULES}
    return {name: some for name, some in of.items() if some}


def _by_scene(answers: Sequence[Answer]) -> list[list[Answer]]:
    """Group paraphrases by scene: their keys agree up to the last part."""
    scenes: dict[str, list[Answer]] = {}
    for answer in answers:
        scenes.setdefault(answer.prompt.key.rsplit("/", 1)[0], []).append(answer)
    return list(scenes.values())


# --- work of all processes ------------------------------------------------------------------------------------------


def _predict_renders(run: EvalRun, rows: slice, scenes: Sequence[Scene]) -> list[Prediction]:
    return predict(run.models.classifier, [scene.render(IMAGE_SIZE) for scene in scenes[rows]], run.batch_size)


def _predict_reconstructions(run: EvalRun, rows: slice, scenes: Sequence[Scene]) -> list[Prediction]:
    """Predictions for real images encoded and decoded by the image tokenizer."""
    tokenizer, mine, predictions = run.pipeline.image_tokenizer, scenes[rows], []
    size = getattr(tokenizer.config, "image_size", IMAGE_SIZE)
    for start in range(0, len(mine), run.batch_size):
        real = np.stack([np.array(scene.render(size)) for scene in mine[start : start + run.batch_size]])
        images = reconstruct(tokenizer, torch.from_numpy(real))  # (B, 3, S, S)
        predictions += predict(run.models.classifier, to_pil(images))
    return predictions
