"""Evaluation of checkpoints: scores.json in each, the best checkpoint in `best`, and early stopping."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np

from t2i.files import read_json, replaced, write_json
from t2i.manifest import add_to_manifest, write_manifest
from t2i.runs import BEST, SCORES_FILE
from t2i.training.background import Background
from t2i.training.log import tolerated
from t2i.training.task import Evaluation, Task


class CheckpointEvaluator:
    """Evaluates a task's checkpoints in order.

    Args:
        run: the run's folder.
        history: the losses of earlier evaluations, if the run is resumed.
        background: what writes the checkpoints, if they may not be there yet.
    """

    def __init__(self, task: Task, run: Path, history: list[float] | None = None, background: Background | None = None):
        self.task, self.best, self.history = task, run / BEST, list(history or [])
        self.background = background or Background()

    @property
    def finished(self) -> bool:
        """Whether the last `patience` evaluations brought no improvement."""
        losses = _comparable(self.history)
        return bool(losses) and 0 < self.task.patience <= len(losses) - 1 - int(np.argmin(losses))

    def evaluate(self, checkpoint: Path) -> None:
        """Evaluate the model, whose weights are those of `checkpoint`; write scores.json and, for the best one, `best`.

        A checkpoint that already has scores is left unchanged.
        """
        if (checkpoint / SCORES_FILE).is_file() or (evaluation := self.task.evaluate()) is None:
            return
        if evaluation.loss is None:
            self.background.do(partial(self._add_scores, checkpoint, evaluation.scores))
            return
        self.background.wait()  # `best` must not be newer than the newest checkpoint
        history = [*self.history, evaluation.loss]
        *before, newest = _comparable(history)
        if not self.best.is_dir() or newest < min(before, default=math.inf):
            self._keep(evaluation)
        _write_scores(checkpoint, evaluation.scores | {"history": history})  # last: without them, evaluated on resume
        self.history = history

    def _add_scores(self, checkpoint: Path, scores: dict) -> None:
        """Write the scores of a checkpoint; in a thread, an error is a warning, as the loop makes it elsewhere."""
        if not self.background.asynchronous:
            _write_scores(checkpoint, scores)
        elif checkpoint.is_dir():  # it could be written
            with tolerated(int(checkpoint.name.split("-")[1]), "scores"):
                _write_scores(checkpoint, scores)

    def _keep(self, evaluation: Evaluation) -> None:
        with replaced(self.best) as part:
            self.task.save(part)
            write_json(part / SCORES_FILE, evaluation.scores | {"test": self.task.test_scores()})
            write_manifest(part)


def _write_scores(checkpoint: Path, scores: dict) -> None:
    write_json(checkpoint / SCORES_FILE, scores)
    add_to_manifest(checkpoint, SCORES_FILE)


def _comparable(losses: list[float]) -> list[float]:
    return [loss if math.isfinite(loss) else math.inf for loss in losses]


def history_of(checkpoint: Path, before: list[float]) -> list[float]:
    """Losses of all evaluations up to this checkpoint; `before`, the losses when it was saved, if it has no scores."""
    scores = checkpoint / SCORES_FILE
    return read_json(scores).get("history", []) if scores.is_file() else before
