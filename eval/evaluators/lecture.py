"""Well-known prompts from lectures on text-to-image: one image each, and accuracy where toybox has the scene."""

from __future__ import annotations

from t2i.eval.evaluators.compositional import Answer, caption, check_world, thumbnail
from t2i.eval.generation.prompts import open_prompts
from t2i.eval.report import Gallery
from t2i.eval.run import EvalRun
from t2i.eval.scores import Result, share_score
from t2i.weights import digest


def check(run: EvalRun) -> None:
    """Raise UsageError for prompts of toybox."""
    check_world(run)


def evaluate(run: EvalRun) -> Result:
    """Accuracy on the lecture prompts that have a scene, and a gallery of all of them.

    Raises UsageError for targets that are no pipeline, as `EvalRun.generate` does, and for prompts of toybox.
    """
    check(run)
    prompts = open_prompts("lecture-v1", seed=run.config.seed)
    files = run.generate("lecture", prompts)
    predictions = run.predictions(files)
    answers = [Answer(prompt, guess) for prompt, guess in zip(prompts, predictions, strict=True)]
    captions = [caption(answer) if answer.prompt.scene else answer.prompt.text for answer in answers]
    images = [(thumbnail(run, file), text) for file, text in zip(files, captions, strict=True)]
    right = [answer.right for answer in answers if answer.prompt.scene]
    score = share_score("prompts of the lecture", right, details={"classifier_sha256": digest(run.models.classifier)})
    return Result("lecture", [score], galleries=[Gallery("Prompts of the lecture", images)])
