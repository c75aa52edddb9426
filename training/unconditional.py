"""The training task of the unconditional models: data, scores on held-out images, and early stopping.

Shapes: B batch · C channels · S image side · L levels
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t2i.checks import check_real, check_whole
from t2i.contact_sheet import contact_sheet
from t2i.data.levels import PreparePixels, first_levels
from t2i.data.sources import Source
from t2i.data.splits import Part, Splits, few, open_splits
from t2i.data.unreadable import MAX_UNREADABLE, beneath
from t2i.images import to_pil
from t2i.models.base import from_levels, log_likelihood
from t2i.notes import count
from t2i.training.config import LoopConfig, check_image_size
from t2i.training.model_options import ModelOptions
from t2i.training.task import Evaluation, Task


@dataclass(frozen=True)
class UnconditionalDataConfig:
    """Images to train on, and images held out to compare checkpoints."""

    data: str = "digits"
    """'digits', 'mnist', 'fashion', 'cifar10', 'toybox', 'toybox-v1', 'toybox-factors', a folder of IDX files (MNIST's
    format), a folder of images (its subfolders are classes) or of WebDataset shards, or a dataset on the Hub."""
    image_column: str = "image"
    """Name of the image column."""
    caption_column: str = "text"
    """Name of the caption column."""
    image_size: int | None = None
    """Side of the square images in pixels; default: the data's, or 32 if it has none."""
    levels: int | None = None
    """Number of pixel levels; default: the data's. With 2, images are binarised at random, anew at each use."""
    gray: bool = False
    """Convert colour images to greyscale."""
    shift: int = 0
    """Augmentation: maximum random shift of training images, in pixels."""
    per_class: int | None = None
    """Number of training images per class, a fifth of which select the best checkpoint; default: all."""
    validation: int = 1000
    """Number of training images held out to select the best checkpoint: the last ones, at most a fifth."""
    patience: int = 10
    """Number of checkpoints without a better validation score after which training stops; 0 disables early stopping."""
    scored: int = 1000
    """Maximum number of validation images, and of test images, to score."""

    def __post_init__(self) -> None:
        check_image_size(self.image_size)
        if self.levels is not None:
            check_real("levels", self.levels, 2, 256)
        if self.per_class is not None:
            check_whole("per_class", self.per_class, least=2)
        for name, least in (("shift", 0), ("patience", 0), ("validation", 1), ("scored", 1)):
            check_whole(name, getattr(self, name), least)


class UnconditionalTask(Task):
    """Trains an unconditional or class-conditional model and evaluates it on held-out images."""

    SHOWN = 32
    next_command = "t2i sample {run}"
    BATCH = 100  # images per batch when scoring

    def __init__(self, data: UnconditionalDataConfig, model: ModelOptions, loop: LoopConfig, conditional: bool):
        columns = {"image_column": data.image_column, "caption_column": data.caption_column}
        splits = open_splits(data.data, data.image_size, loop.seed, max_unreadable=MAX_UNREADABLE, **columns)
        if not splits.classes and (conditional or data.per_class is not None):
            raise ValueError(f"{data.data} has no labels: give --no-conditional, and no --per-class")
        channels = 1 if data.gray else splits.channels
        levels = data.levels or splits.levels
        self.patience = data.patience
        self.source, held_out, test = _parts(splits, data.validation, data.data)
        if data.per_class is not None:
            self.source, held_out = few(self.source, splits.classes, data.per_class, loop.seed)
        self.prepare = PreparePixels(levels, channels, data.shift)
        still = PreparePixels(levels, channels)
        self.validation, self.test = (first_levels(part, still, data.scored) for part in (held_out, test))
        self.classes = splits.classes if conditional else ()
        torch.manual_seed(loop.seed)  # the same initial weights on every process
        size = self.validation[0].shape[-1]
        self.model = model.build(
            image_size=size, channels=channels, levels=levels, num_classes=len(splits.classes) if conditional else 0
        )
        if self.model.initializes:  # from the same data on all processes
            first = first_levels(self.source, still, 256)
            self.model.initialize(from_levels(first[0], levels), first[1] if conditional else None)

    def start_step(self, progress: float) -> None:
        self.model.progress = progress

    def loss(self, k: Tensor, label: Tensor) -> dict[str, Tensor]:
        """k: levels, uint8 (B, C, S, S); label: (B,)"""
        return self.model.loss(from_levels(k, self.model.levels), label if self.model.conditional else None)

    @torch.no_grad()
    def preview(self) -> Image.Image:
        """Samples and, for latent variable models, images above their reconstructions."""
        n, device = self.SHOWN, self.model.device
        generator = torch.Generator().manual_seed(0)
        y = torch.arange(n, device=device) % len(self.classes) if self.classes else None
        images = [self.model.sample(n, y, generator, **self.model.preview_options)] if self.model.samples else []
        labels = [self.classes[i] for i in y.tolist()] if self.classes else [""] * n
        if self.model.latents:
            x, y = self._batch(self.validation, slice(8))
            images += [x, self.model.decode(self.model.encode(x, y), y)]
            labels = (labels if self.model.samples else []) + ["held out"] * len(x) + ["decoded"] * len(x)
        shown = torch.cat([x.float().cpu() for x in images]).expand(-1, 3, -1, -1)
        return contact_sheet(to_pil(shown), labels, columns=8, cell=64)

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)

    def evaluate(self) -> Evaluation:
        scores = self.score(self.validation)
        return Evaluation({"validation": scores}, scores["loss"])

    def test_scores(self) -> dict:
        return self.score(self.test)

    @torch.no_grad()
    def score(self, held_out: tuple[Tensor, Tensor]) -> dict:
        """Mean nats and bits of held-out images, and `loss`, by which checkpoints are compared."""
        generator = torch.Generator().manual_seed(0)  # separate from the run's random state
        batches = [
            self._score(generator, *self._batch(held_out, slice(i, i + self.BATCH)))
            for i in range(0, len(held_out[1]), self.BATCH)
        ]
        means = {name: float(torch.cat([b[name] for b in batches]).double().mean()) for name in batches[0]}
        return {"kind": self.model.likelihood, "pictures": len(held_out[1]), **means}

    def _score(self, generator: torch.Generator, images: Tensor, y: Tensor | None) -> dict[str, Tensor]:
        if self.model.likelihood == "none":
            return {"loss": self.model.loss(images, y)["loss"].expand(len(images)).cpu()}
        # A multi-sample bound is scored as it is trained: its single-sample bound would seem to get worse.
        samples = getattr(self.model.config, "train_samples", 1)
        nats = -log_likelihood(self.model, images, y, generator, samples).cpu()
        return {"loss": nats, "nats": nats, "bits": nats / (np.prod(self.model.shape) * np.log(2))}

    def _batch(self, held_out: tuple[Tensor, Tensor], part: slice) -> tuple[Tensor, Tensor | None]:
        images = from_levels(held_out[0][part].to(self.model.device), self.model.levels)
        return images, held_out[1][part].to(self.model.device) if self.model.conditional else None


def _parts(splits: Splits, validation: int, name: str) -> tuple[Source, Source, Source]:
    too_few = f"{name} has {count(splits.train, 'image')} to train on, too few to"
    if not len(splits.test):
        raise ValueError(f"{too_few} hold out a test set: give at least 10")
    cut = len(splits.train) - min(validation, len(splits.train) // 5)
    if cut == len(splits.train):
        raise ValueError(f"{too_few} hold out a validation set: give at least 5")
    parts = ((0, cut), (cut, len(splits.train)))
    train, validate = (beneath(splits.train, partial(Part, start=start, stop=stop)) for start, stop in parts)
    return train, validate, splits.test
