"""Accuracy per prompt category on toybox: the share of images in which all judged facts of the prompt hold.

The prompt's scene states facts (see `t2i.data.toybox.facts`), its category says which are judged, and the toybox
classifier predicts which hold. Things that the prompt does not name make an image wrong in every category. The ceiling
of each score is the classifier's accuracy on real images of the same scenes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from t2i.checks import UsageError
from t2i.data.image_file import square
from t2i.data.toybox.classifier import IMAGE_SIZE, predict
from t2i.data.toybox.facts import Fact
from t2i.data.toybox.prediction import Prediction, facts_right
from t2i.eval.generation.prompt import Prompt
from t2i.eval.metrics import share
from t2i.eval.report import Gallery, Table
from t2i.eval.run import EvalRun
from t2i.eval.scores import Result, share_score
from t2i.weights import digest

SHOWN = 8  # maximum numbers of right and of wrong images per category in the galleries


@dataclass(frozen=True)
class Answer:
    """A prompt and what the classifier predicts for its image."""

    prompt: Prompt
    prediction: Prediction

    @property
    def right(self) -> bool:
        """Whether all judged facts hold, and there is nothing that the prompt does not name."""
        return self.prediction.fulfils(self.prompt.judged)

    @property
    def wrong_facts(self) -> list[Fact]:
        return sorted((fact for fact in self.prompt.judged if not self.prediction.holds(fact)), key=str)


def check(run: EvalRun) -> None:
    """Raise UsageError if no prompt has facts to judge its image by, and if there is no classifier."""
    if not any(prompt.judged for prompt in run.prompts):
        raise UsageError("none of these prompts has known facts: give --prompts toybox, ladder or lecture")
    _ = run.models.fact_classifier


def evaluate(run: EvalRun) -> Result:
    """Accuracy in each category, with its ceiling; accuracy of each type of fact; right and wrong images.

    Raises UsageError as `check` does, ValueError if no image can be read.
    """
    check(run)
    judged = [(file, prompt) for file, prompt in zip(run.files, run.prompts, strict=True) if prompt.judged]
    predictions = run.on_all(_predict, [file for file, _ in judged])
    answers = {
        file: Answer(prompt, prediction)
        for (file, prompt), prediction in zip(judged, predictions, strict=True)
        if not isinstance(prediction, str)
    }
    if not answers:
        raise ValueError(f"none of the {len(judged)} images can be read; copy them again")
    prompts = [answer.prompt for answer in answers.values()]
    real = [Answer(*pair) for pair in zip(prompts, run.on_all(_predict_renders, prompts), strict=True)]
    details = {"classifier_sha256": digest(run.models.fact_classifier)}
    result = Result("facts")
    skipped = [(prompt, p) for (_, prompt), p in zip(judged, predictions, strict=True) if isinstance(p, str)]
    counts = Counter(prompt.category for prompt, _ in skipped)
    for category in dict.fromkeys(prompt.category for prompt in prompts):
        right, best = ([a.right for a in of if a.prompt.category == category] for of in (answers.values(), real))
        result.scores.append(share_score(category, right, best, skipped=counts[category], details=details))
    everything, best = ([answer.right for answer in of] for of in (answers.values(), real))
    result.scores.append(share_score("all prompts", everything, best, skipped=len(skipped), details=details))
    result.tables.append(_by_type(list(answers.values()), real))
    result.galleries.extend(_galleries(run, answers))
    result.notes.extend(f"skipped: {reason}" for _, reason in skipped)
    return result


def _by_type(answers: Sequence[Answer], real: Sequence[Answer]) -> Table:
    """How often each type of judged fact holds, in generated and in real images."""
    rows = []
    holds, ceilings = (facts_right((a.prediction, a.prompt.judged) for a in of) for of in (answers, real))
    for name, right in holds.items():
        interval = share(right)
        shares = (interval.value, interval.low, interval.high, float(np.mean(ceilings[name])))
        rows.append([name, *(f"{value:.1%}" for value in shares), len(right)])
    return Table("Facts that hold", ["fact", "share", "low", "high", "real images", "n"], rows)


def _galleries(run: EvalRun, answers: dict[Path, Answer]) -> list[Gallery]:
    """For each category, the first right images, and the wrong ones with the most wrong facts."""
    galleries = []
    for category in dict.fromkeys(answer.prompt.category for answer in answers.values()):
        some = [(file, answer) for file, answer in answers.items() if answer.prompt.category == category]
        wrong = sorted((pair for pair in some if not pair[1].right), key=lambda pair: -len(pair[1].wrong_facts))
        right = (pair for pair in some if pair[1].right)
        for title, pairs in ((f"{category}: right", right), (f"{category}: the worst", wrong)):
            images = [
                (Image.fromarray(square(run.load(file), IMAGE_SIZE)), _caption(a)) for file, a in islice(pairs, SHOWN)
            ]
            if images:
                galleries.append(Gallery(title, images))
    return galleries


def _caption(answer: Answer) -> str:
    """The prompt, followed for a wrong image by what is wrong."""
    if answer.right:
        return answer.prompt.text
    missing = "; ".join(" ".join(map(str, fact[1:])) for fact in answer.wrong_facts) or "something else in the image"
    return f"{answer.prompt.text} — wrong: {missing}"


# --- work of all processes ------------------------------------------------------------------------------------------


def _predict(run: EvalRun, rows: slice, files: Sequence[Path]) -> list[Prediction | str]:
    return run.predict_readable(files[rows], lambda images: predict(run.models.fact_classifier, images, run.batch_size))


def _predict_renders(run: EvalRun, rows: slice, prompts: Sequence[Prompt]) -> list[Prediction]:
    """Predictions for real images of the prompts' scenes."""
    images = [prompt.scene.render(IMAGE_SIZE) for prompt in prompts[rows]]
    return predict(run.models.fact_classifier, images, run.batch_size)
