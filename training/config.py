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
    """Folder of checkpoints, previews and logs."""
    max_train_steps: int = 10_000
    """Number of optimizer steps."""
    max_train_time: float | None = None
    """Seconds of training, instead of a number of steps; warm-up, learning rate and checkpoints scale with the elapsed
    fraction. Checkpoints, evaluation and previews do not count; time before a resume does."""
    train_batch_size: int = 64
    """Images for each process and forward pass."""
    gradient_accumulation_steps: int = 1
    """Forward passes for each optimizer step."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW for all parameters, or Muon for hidden linear layers and convolutions and AdamW for the rest."""
    learning_rate: float = 1e-3
    """Learning rate after the warm-up."""
    lr_scheduler: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up: a half cosine down to a hundredth, or constant."""
    lr_warmup_steps: int = 200
    """Steps over which the learning rate rises linearly."""
    adam_beta1: float = 0.9
    """AdamW's decay rate of the mean gradient."""
    adam_beta2: float = 0.99
    """AdamW's decay rate of the mean squared gradient."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Norm to which gradients are clipped."""
    ema_decay: float = 0.999
    """Decay of the weights' moving average, which is what is saved and evaluated; smaller at the start of a run."""
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """Precision of the forward pass; by default that of `accelerate launch`, or none."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    compile: bool = False
    """Compile the model's repeated blocks with torch.compile: faster steps on a GPU, after half a minute."""
    dataloader_num_workers: int = 1
    """Processes that load data, for each training process; 0: the training process itself."""
    checkpointing_steps: int = 500
    """Steps from one checkpoint, with evaluation and preview, to the next; there is one at the end, too."""
    checkpoints_total_limit: int = 2
    """Largest number of checkpoints that are kept."""
    report_to: Literal[
        "tensorboard", "wandb", "comet_ml", "aim", "mlflow", "clearml", "dvclive", "swanlab", "trackio", "all", "none"
    ] = "tensorboard"
    """Tracker of Accelerate that is sent the metrics, in addition to metrics.jsonl and curves.png; 'all' is every one
    that is installed. TensorBoard and Weights & Biases also get the previews."""
    seed: int = 0
    """Seed of initial weights, data order and noise."""
    resume: str | None = None
    """'latest', or a checkpoint folder of this run, to resume from."""

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
