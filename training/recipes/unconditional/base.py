"""Shared by the recipes of unconditional models: `t2i train NAME --data digits|mnist|fashion|toybox|FOLDER`.

Model options are the arguments of the model's constructor. The checkpoint with the best score on held-out training
images is kept in the run's folder `best`, with its score on the test images;
`t2i.models.load_pretrained(RUN)` opens it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from t2i.training.config import LoopConfig
from t2i.training.model_options import ModelOptions
from t2i.training.unconditional import UnconditionalDataConfig, UnconditionalTask


@dataclass(frozen=True)
class UnconditionalRecipe:
    """Options of the model, the data and the training loop."""

    model: ModelOptions
    conditional: bool = False
    """Train a class-conditional model, p(x | y), on the data's labels."""
    data: UnconditionalDataConfig = field(default_factory=UnconditionalDataConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def task(self) -> UnconditionalTask:
        return UnconditionalTask(self.data, self.model, self.loop, self.conditional)


def tiny_loop(name: str, learning_rate: float = 2e-3) -> LoopConfig:
    """The loop of `tiny` presets: 8×8 images, half a minute on one core."""
    steps = {"max_train_steps": 200, "checkpointing_steps": 50, "lr_warmup_steps": 20, "train_batch_size": 64}
    return LoopConfig(f"runs/tiny-{name}", learning_rate=learning_rate, **steps)


def base_loop(name: str, learning_rate: float = 1e-3, batch: int = 64) -> LoopConfig:
    """The loop of `base` presets: 28×28 images, minutes to hours; --max-train-time ends it earlier."""
    steps = {"max_train_steps": 10_000, "checkpointing_steps": 250}
    return LoopConfig(f"runs/{name}", learning_rate=learning_rate, train_batch_size=batch, **steps)
