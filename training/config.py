"""Options of the data and of the training loop, which all recipes have."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from t2i.checks import MAX_SIDE, check_real, check_seeds, check_whole

if TYPE_CHECKING:
    from t2i.data.sources import Source


@dataclass(frozen=True)
class DataConfig:
    data: str = "toybox"
    """'toybox', a folder of images with captions (docs/data.md), or a data set of the Hub."""
    image_column: str = "image"
    """Column of the images, in a folder's metadata or a data set."""
    caption_column: str = "text"
    """Column of the captions."""
    image_size: int = 64
    """Side of the square images, in pixels."""

    def open(self, seed: int, image_size: int | None = None) -> Source:
        """The data; `image_size` replaces that of the config. Raises as `open_source` does."""
        from t2i.data.sources import open_source  # not before: it takes seconds to import

        return open_source(self.data, image_size or self.image_size, self.image_column, self.caption_column, seed)


def check_image_size(size: int | None, least: int = 1) -> None:
    """Raise ValueError for a recipe's image_size below `least`: 0 where that stands for a trained pipeline's own."""
    if size is not None:
        check_whole("image_size", size, least, MAX_SIDE)


@dataclass(frozen=True)
class LoopConfig:
    output_dir: str = "runs/unnamed"
    """Folder of checkpoints, pictures and logs."""
    max_train_steps: int = 10_000
    """Optimiser steps."""
    max_train_time: float | None = None
    """Seconds of training, instead of steps: warm-up, learning rate and checkpoints follow the share of them that is
    over, as they would the share of max_train_steps. Previews, scores and checkpoints do not count; what was trained
    before a resume does."""
    train_batch_size: int = 64
    """Images a process and forward pass."""
    gradient_accumulation_steps: int = 1
    """Forward passes an optimiser step."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW for everything, or Muon for hidden linear layers and convolutions and AdamW for the rest."""
    learning_rate: float = 1e-3
    lr_scheduler: Literal["cosine", "constant"] = "cosine"
    """What follows the warm-up: a half cosine down to a hundredth, or nothing."""
    lr_warmup_steps: int = 200
    adam_beta1: float = 0.9
    adam_beta2: float = 0.99
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    ema_decay: float = 0.999
    """Of the averaged weights, which are the ones that are saved; approached from below as the run goes."""
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """By default what `accelerate launch` was told, or none."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    compile: bool = False
    """Compile the model's repeated blocks with torch.compile: faster steps on a GPU, after half a minute."""
    dataloader_num_workers: int = 1
    checkpointing_steps: int = 500
    """A checkpoint (and pictures) every so many steps, and at the end."""
    checkpoints_total_limit: int = 2
    """How many checkpoints stay."""
    report_to: Literal["tensorboard", "none"] = "tensorboard"
    seed: int = 0
    resume: str | None = None
    """'latest', or a checkpoint folder of this run, to go on from."""

    def __post_init__(self) -> None:
        for name in (
            "max_train_steps",
            "train_batch_size",
            "gradient_accumulation_steps",
            "checkpointing_steps",
            "checkpoints_total_limit",
        ):
            check_whole(name, getattr(self, name))
        for name in ("learning_rate", "max_grad_norm", "max_train_time"):
            if getattr(self, name) is not None:
                check_real(name, getattr(self, name), above=True)
        for name in ("lr_warmup_steps", "dataloader_num_workers"):
            check_whole(name, getattr(self, name), least=0)
        check_real("weight_decay", self.weight_decay)
        check_seeds("seed", self.seed)
        for name in ("ema_decay", "adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}")


def flatten(recipe) -> dict:
    """The config as one plain dict, the parts' fields side by side, under the names that the command line uses."""
    flat: dict = {}
    for name, value in dataclasses.asdict(recipe).items():
        flat.update(value if isinstance(value, dict) else {name: value})
    return flat
