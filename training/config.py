"""Options of the data and the training loop, shared by all recipes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from t2i.checks import MAX_SIDE, check_fraction, check_real, check_seeds, check_whole

if TYPE_CHECKING:
    from t2i.data.sources import Source


@dataclass(frozen=True)
class DataConfig:
    """Images with captions to train on."""

    data: str = "toybox-v1"
    """'toybox' or 'toybox-v1', a folder of images with captions or of WebDataset shards (docs/data.md), or a dataset on
    the Hub; or a mixture of them by weight, such as photos=0.7,toybox=0.3."""
    image_column: str = "image"
    """Name of the image column, in a folder's metadata or a dataset."""
    caption_column: str = "text"
    """Name of the caption column."""
    image_size: int = 64
    """Side of the square images in pixels."""
    crop: Literal["center", "random"] = "center"
    """Position of the crop along the side of an image that is cut."""
    random_flip: bool = False
    """Mirror half of the images horizontally; captions that mention left or right become wrong."""
    min_image_side: int = 0
    """Minimum length of the shorter side of an image file in pixels; smaller images are left out."""
    min_caption_length: int = 0
    """Minimum caption length in characters; images without such a caption are left out."""
    max_caption_length: int | None = None
    """Maximum caption length in characters; images without such a caption are left out. None: unlimited."""
    max_unreadable: float = 0.05
    """Maximum share of images that cannot be read, of 100 that are read at the start; these and others are replaced by
    the next ones, and named. 0: an image that cannot be read is an error."""
    max_aspect_ratio: float = 1.0
    """Above 1, images are not cropped to squares but to the nearest of several aspect-ratio buckets, of about
    --image-size² pixels each and at most this ratio of the longer to the shorter side; a step has images of one bucket.
    """

    def __post_init__(self) -> None:
        check_image_size(self.image_size)
        self._check_options()

    def _check_options(self) -> None:
        check_fraction("max_unreadable", self.max_unreadable)
        for name in ("min_image_side", "min_caption_length"):
            check_whole(name, getattr(self, name), least=0)
        if self.max_caption_length is not None:
            check_whole("max_caption_length", self.max_caption_length, least=self.min_caption_length)
        check_real("max_aspect_ratio", self.max_aspect_ratio, least=1.0)

    def open(self, seed: int, images: bool = True, stride: int | None = None) -> Source:
        """Open the data. Raises as `open_source` and `skip_unreadable` do, and ValueError for options without effect.

        Args:
            images: whether the images are used, and not only the captions.
            stride: of a model that can be trained on images of any sides that are multiples of it; None: on squares.
        """
        from t2i.data.base import buckets_of, reads_files  # deferred: takes seconds to import
        from t2i.data.mixture import Mixture, mixture_of

        if not images:
            self.refuse((*OF_IMAGES, "max_unreadable"), "only captions are used")
        if stride is None:
            why = "all recipes but kl-toybox, ldm-toybox and lora train models of a square grid"
            self.refuse(("max_aspect_ratio",), why)
        weights = mixture_of(self.data)
        sources = [self._open(name, seed, images, stride) for name in weights]
        if not any(reads_files(source) for source in sources):
            self.refuse(OF_FILES, f"the images of {self.data} are not read from files")
        source = sources[0] if len(sources) == 1 else Mixture(sources, list(weights.values()))
        if (buckets := buckets_of(source)) is not None and not buckets.of.any():
            self.refuse(("max_aspect_ratio",), f"all images of {self.data} are square, or nearly so")
        return source

    def _open(self, name: str, seed: int, images: bool, stride: int | None) -> Source:
        from t2i.data.buckets import bucket_shapes, note_buckets, put_into_buckets
        from t2i.data.image_source import Augmentation, ImageSource
        from t2i.data.sources import open_source
        from t2i.data.unreadable import skip_unreadable
        from t2i.data.urls import is_url

        if is_url(name):
            why = f"{name} is at a URL, and every image would be downloaded to measure it"
            self.refuse(("min_image_side",), why, "leave out small images before you make the shards, and ")
            self.refuse(("max_aspect_ratio",), why, "copy the shards to a disk, or ")
        columns = (self.image_column, self.caption_column)
        augmentation = Augmentation(self.crop == "random", self.random_flip)
        source = open_source(name, self.image_size, *columns, seed, augmentation=augmentation)
        if in_buckets := stride is not None and isinstance(source, ImageSource) and self.max_aspect_ratio > 1:
            put_into_buckets(source, bucket_shapes(self.image_size, stride, self.max_aspect_ratio))
        if isinstance(source, ImageSource) and self.given(("min_image_side", *OF_CAPTIONS)):
            from t2i.data.filters import Limits, filtered

            limits = Limits(self.min_image_side, self.min_caption_length, self.max_caption_length)
            source = filtered(source, limits, name)
        if in_buckets:
            note_buckets(source.buckets, name)
        return skip_unreadable(source, self.max_unreadable, "--max-unreadable") if images else source

    def given(self, names: tuple[str, ...]) -> list[str]:
        """Those of the options that differ from their defaults."""
        return [name for name in names if getattr(self, name) != getattr(DataConfig, name)]

    def refuse(self, names: tuple[str, ...], why: str, remedy: str = "") -> None:
        """Raise ValueError, with the reason and perhaps another remedy, if one of these options was given."""
        flags = [f"--{name.replace('_', '-')}" for name in self.given(names)]
        if flags:
            raise ValueError(f"{why}: {remedy}leave out {', '.join(flags)}")


# Options of DataConfig for images and captions that are read from files.
RANDOM = ("crop", "random_flip")
OF_IMAGES = (*RANDOM, "min_image_side", "max_aspect_ratio")
OF_CAPTIONS = ("min_caption_length", "max_caption_length")
OF_FILES = (*OF_IMAGES, *OF_CAPTIONS, "image_column", "caption_column", "max_unreadable")


@dataclass(frozen=True)
class FineTuningDataConfig(DataConfig):
    """Images with captions to train on; --image-size 0 stands for the pipeline's image size."""

    image_size: int = 0
    """Side of the square images in pixels."""

    def __post_init__(self) -> None:
        check_image_size(self.image_size, least=0)
        self._check_options()


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
    mup_base_width: int | None = None
    """Width of the model whose learning rate was tuned: initial weights and learning rates are scaled from it to this
    model's width (maximal update parametrisation), with heads of the same width. None: they are not scaled."""
    async_save: bool = False
    """Finish checkpoints in a thread while training goes on; takes CPU memory for weights, averages and optimizer."""

    def __post_init__(self) -> None:
        if self.mup_base_width is not None:
            check_whole("mup_base_width", self.mup_base_width)
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
    """The defaults of options under their command-line names, those of the recipe's class and not of a preset."""
    flat: dict = {}
    for field in dataclasses.fields(recipe):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        given = getattr(recipe, field.name)
        if dataclasses.is_dataclass(given):  # of another class than the default, as of another model: its own defaults
            flat |= dataclasses.asdict(default) if type(default) is type(given) else defaults_of(given)
        elif default is not dataclasses.MISSING:
            flat[field.name] = default
    return flat


def flatten(recipe) -> dict:
    """The config as one flat dict, with all parts' fields under their command-line names."""
    flat: dict = {}
    for name, value in dataclasses.asdict(recipe).items():
        flat.update(value if isinstance(value, dict) else {name: value})
    return flat
