"""What the loop trains. A recipe is a config that makes a task; a new one is a subclass of `Task`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image
from torch import Tensor, nn

from t2i.data.sources import Source


@dataclass(frozen=True)
class Evaluation:
    """Scores of the model at a checkpoint.

    Attributes:
        scores: plain data for the checkpoint's scores.json.
        loss: what checkpoints are compared by, lower being better; None if the best one is not kept.
    """

    scores: dict
    loss: float | None = None


class Task:
    """A model, its data and its loss, and how the model is previewed, saved and evaluated.

    A subclass sets the attributes without a default and defines `loss`, `preview` and `save`.

    Attributes:
        model: what is trained, averaged and checkpointed.
        source: the training data.
        prepare: an item of the source and a random generator -> what `loss` takes, without the batch axis. Data workers
            call it, so it must be picklable, and an object of its own: with a method, the model would be pickled too.
        fingerprint: digests of everything else the run is made from; a resumed run must have the same.
        find_unused_parameters: whether in some steps some parameters receive no gradient.
        patience: end the run after this many evaluations in a row without improvement; 0: never.
        next_command: a suggestion for the end of a finished run, with {run} for its folder.
    """

    model: nn.Module
    source: Source
    prepare: Callable[[dict, np.random.Generator], dict]
    fingerprint: Mapping[str, str] = MappingProxyType({})
    find_unused_parameters: bool = False
    patience: int = 0
    next_command: str = ""

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass. AttributeError if the model cannot."""
        self.model.enable_gradient_checkpointing()

    def start_step(self, progress: float) -> None:
        """Called before each step with the share of the run that is over, in [0, 1)."""

    def loss(self, **batch: Tensor) -> dict[str, Tensor]:
        """Scalars: `loss`, which is minimised, and others to log."""
        raise NotImplementedError

    def preview(self) -> Image.Image:
        """An image of what the model can do now."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write what `from_pretrained` opens."""
        raise NotImplementedError

    def evaluate(self) -> Evaluation | None:
        """Scores on held-out data; None if the task has none."""
        return None

    def test_scores(self) -> dict:
        """Scores on test data, for a checkpoint that is the best so far."""
        return {}
