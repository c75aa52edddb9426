"""The unconditional models: `t2i train BLOCK --data digits|mnist|fashion|toybox|FOLDER`.

Options of a model are its class's arguments, see there. The checkpoint that did best on held-out training pictures is
kept in the run's `best`, with its score on the test pictures: `t2i.models.load_pretrained` opens it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from t2i.training.config import LoopConfig
from t2i.training.unconditional import ModelOptions, UnconditionalDataConfig, UnconditionalTask


@dataclass(frozen=True)
class UnconditionalRecipe:
    """A model's options, the pictures, and the loop."""

    model: ModelOptions
    conditional: bool = False
    """Train p(x | y) on the data's labels."""
    data: UnconditionalDataConfig = field(default_factory=UnconditionalDataConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def stage(self) -> UnconditionalTask:
        return UnconditionalTask(self.data, self.model, self.loop, self.conditional)


def tiny_loop(name: str, learning_rate: float = 2e-3) -> LoopConfig:
    """Of the presets `tiny`: 8×8 pictures, half a minute on one core."""
    steps = {"max_train_steps": 200, "checkpointing_steps": 50, "lr_warmup_steps": 20, "train_batch_size": 64}
    return LoopConfig(f"runs/tiny-{name}", learning_rate=learning_rate, **steps)


def base_loop(name: str, learning_rate: float = 1e-3, batch: int = 64) -> LoopConfig:
    """Of the presets `base`: 28×28 pictures, minutes to hours; --max-train-time ends it sooner."""
    steps = {"max_train_steps": 10_000, "checkpointing_steps": 250}
    return LoopConfig(f"runs/{name}", learning_rate=learning_rate, train_batch_size=batch, **steps)
