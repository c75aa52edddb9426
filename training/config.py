"""Options of the data and the training loop, shared by all recipes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from t2i.checks import MAX_SIDE, check_real, check_seeds, check_whole

if TYPE_CHECKING:
    from t2i.data.sources import Source


@dataclass(frozen=True)
class DataConfig:
    """Images with captions to train on."""

    data: str = "toybox-v1"
    """'toybox' or 'toybox-v1', a folder of images with captions (docs/data.md), or a dataset on the Hub."""
    image_column: str = "image"
    """Name of the image column, in a folder's metadata or a dataset."""
    caption_column: str = "text"
    """Name of the caption column."""
    image_size: int = 64
    """Side of the square images in pixels."""
    max_unreadable: float = 0.05
    """Maximum share of images that cannot be read, of 100 that are read at the start; these and others are replaced by
    the next ones, and named. 0: an image that cannot be read is an error."""

    def __post_init__(self) -> None:
        check_image_size(self.image_size)
        check_fraction("max_unreadable", self.max_unreadable)

    def open(self, seed: int) -> Source:
        """Open the data. Raises as `open_source` and `skip_unreadable` do."""
        from t2i.data.sources import open_source  # deferred: takes seconds to import
        from t2i.data.unreadable import skip_unreadable

        source = open_source(self.data, self.image_size, self.image_column, self.caption_column, seed)
        return skip_unreadable(source, self.max_unreadable, "--max-unreadable")


@dataclass(frozen=True)
class FineTuningDataConfig(DataConfig):
    """Images with captions to train on; --image-size 0 stands for the pipeline's image size."""

    image_size: int = 0
    """Side of the square images in pixels."""

    def __post_init__(self) -> None:
        check_image_size(self.image_size, least=0)
        check_fraction("max_unreadable", self.max_unreadable)


def check_fraction(name: str, value: float) -> None:
    """Raise ValueError unless a value lies in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must lie in [0, 1), not {value}")


def check_image_size(size: int | None, least: int = 1) -> None:
    """Raise ValueError for an image_size below `least` (0 where it means a trained pipeline's image size)."""
    if size is not None:
        check_whole("image_size", size, least, MAX_SIDE)


@dataclass(frozen=True)
class LoopConfig:
    """The training loop, with the same options for every recipe."""

    output_dir: str = "runs/unnamed"
    """Output folder for checkpoints, previews and logs."""
    max_train_steps: int = 10_000
    """Number of optimizer steps."""
    max_train_time: float | None = None
    """Training time in seconds, instead of a number of steps; warm-up, learning rate and checkpoints scale with the
    elapsed fraction. Excludes checkpoints, evaluation and previews; includes the time before a resume."""
    train_batch_size: int = 64
    """Images per process and forward pass."""
    gradient_accumulation_steps: int = 1
    """Forward passes per optimizer step."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Optimizer: adamw, or muon for hidden linear layers and convolutions with AdamW for all other parameters."""
    learning_rate: float = 1e-3
    """Learning rate after the warm-up."""
    lr_scheduler: Literal["cosine", "constant"] = "cosine"
    """Schedule after the warm-up: cosine decay to a hundredth of the learning rate, or constant."""
    lr_warmup_steps: int = 200
    """Number of linear warm-up steps."""
    adam_beta1: float = 0.9
    """Decay rate β₁ of AdamW's first-moment estimate."""
    adam_beta2: float = 0.99
    """Decay rate β₂ of AdamW's second-moment estimate."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW and Muon."""
    max_grad_norm: float = 1.0
    """Maximum gradient norm for gradient clipping."""
    max_skipped_steps: int = 10
    """Stop after this many steps in a row whose loss or gradient is not finite; such steps change no weights."""
    ema_decay: float = 0.999
    """Decay of the exponential moving average (EMA) of the weights, lower early in a run. Checkpoints hold the EMA."""
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """Precision of the forward pass; default: as set by `accelerate launch`, else no."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass, which saves memory and takes more time."""
    compile: bool = False
    """Compile the model's repeated blocks with torch.compile: faster steps on a GPU, after half a minute."""
    dataloader_num_workers: int = 1
    """Number of data-loading worker processes per training process; 0 loads data in the training process."""
    checkpointing_steps: int = 500
    """Number of steps between checkpoints, each with evaluation and preview; the last step always saves one."""
    checkpoints_total_limit: int = 2
    """Maximum number of checkpoints to keep."""
    report_to: Literal[
        "tensorboard", "wandb", "comet_ml", "aim", "mlflow", "clearml", "dvclive", "swanlab", "trackio", "all", "none"
    ] = "tensorboard"
    """Accelerate tracker for metrics, in addition to metrics.jsonl and curves.png; 'all' uses every installed one.
    TensorBoard and Weights & Biases also get the previews."""
    seed: int = 0
    """Seed for initial weights, data order and noise."""
    resume: str | None = None
    """Checkpoint to resume from: 'latest', or a checkpoint folder of this run."""

    def __post_init__(self) -> None:
        for name in (
            "max_train_steps",
            "train_batch_size",
            "gradient_accumulation_steps",
            "max_skipped_steps",
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
            check_fraction(name, getattr(self, name))


class FittedRecipe:
    """Base class of recipes of models that are fitted in closed form or by EM, without the training loop."""

    output_dir: str

    def fit(self) -> Path:
        """Fit, score and save the model; returns its folder."""
        raise NotImplementedError


def defaults_of(recipe) -> dict:
    """The defaults of all options under their command-line names, those of the classes and not of a preset."""
    flat: dict = {}
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if dataclasses.is_dataclass(value):
            flat |= defaults_of(value)
        elif field.default is not dataclasses.MISSING:
            flat[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            flat[field.name] = field.default_factory()
    return flat


def flatten(recipe) -> dict:
    """The config as one flat dict, with all parts' fields under their command-line names."""
    flat: dict = {}
    for name, value in dataclasses.asdict(recipe).items():
        flat.update(value if isinstance(value, dict) else {name: value})
    return flat
