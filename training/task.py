"""Base class of what the loop trains. A recipe is a config that creates a task; new tasks subclass `Task`."""

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
        loss: value to compare checkpoints by, lower is better; None if no best checkpoint is kept.
    """

    scores: dict
    loss: float | None = None


class Task:
    """A model, its data and its loss, and how to preview, save and evaluate the model.

    Subclasses set the attributes without defaults and define `loss`, `preview` and `save`.

    Attributes:
        model: the module to train, average and checkpoint.
        source: the training data.
        prepare: maps an item of the source and a random generator to the arguments of `loss`, without the batch axis.
            It is called in data workers, so it must be picklable, and not a method, which would pickle the model too.
        fingerprint: digests of everything else that determines the run; a resumed run must have the same.
        find_unused_parameters: whether some parameters receive no gradient in some steps.
        patience: end the run after this many consecutive evaluations without improvement; 0: never.
        next_command: suggestion printed after a finished run, with {run} for its folder.
    """

    model: nn.Module
    source: Source
    prepare: Callable[[dict, np.random.Generator], dict]
    fingerprint: Mapping[str, str] = MappingProxyType({})
    find_unused_parameters: bool = False
    patience: int = 0
    next_command: str = ""

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass. Raises AttributeError if the model does not support it."""
        self.model.enable_gradient_checkpointing()

    def start_step(self, progress: float) -> None:
        """Called before each step with the completed fraction of the run, in [0, 1)."""

    def loss(self, **batch: Tensor) -> dict[str, Tensor]:
        """Scalars: `loss`, which is minimised, and others to log."""
        raise NotImplementedError

    def preview(self) -> Image.Image:
        """An image that shows the model's current output."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write files that `from_pretrained` opens."""
        raise NotImplementedError

    def evaluate(self) -> Evaluation | None:
        """Scores on held-out data; None if the task defines none."""
        return None

    def test_scores(self) -> dict:
        """Scores on test data, computed for a checkpoint that is the best so far."""
        return {}
