"""Super-resolution and images from label maps: a trained latent diffusion model is fine-tuned with additional input
channels concatenated to the latents (Rombach et al. 2022, arXiv 2112.10752, § 4.3.2 and 4.4).

Shapes: B batch · S image · f factor · s = S/f low-resolution image · K conditioning channels · h, w latent
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t2i.checks import UsageError, check_fraction
from t2i.contact_sheet import contact_sheet
from t2i.data.layouts import WithLayouts
from t2i.data.sources import WORLDS
from t2i.data.toybox import label_image
from t2i.data.unreadable import beneath
from t2i.diffusion.grid_conditions import GridCondition, LabelMap, LowResolution, widen
from t2i.notes import with_article
from t2i.pipelines.latent_diffusion import (
    LatentDiffusionLayoutPipeline,
    LatentDiffusionPipeline,
    LatentDiffusionUpscalePipeline,
)
from t2i.pipelines.loading.auto import AutoPipeline, as_latent_diffusion
from t2i.tokenizers.kl import stride_of
from t2i.training.config import OF_CAPTIONS, OF_IMAGES, FineTuningDataConfig, LoopConfig
from t2i.training.recipes.ldm.base import PrepareLatent, use_fast_attention
from t2i.training.recipes.ldm.fine_tuning import FineTuningTask, is_text_to_image, objective_of


@dataclass(frozen=True)
class ConditionedRecipe:
    """Options shared by both recipes."""

    init_from: str = "toybox/ldm"
    """Latent diffusion pipeline to fine-tune: a folder, an embedded system, or a model on the Hub."""
    caption_dropout: float = 0.1
    """Fraction of samples trained without caption, for classifier-free guidance."""
    min_snr_gamma: float | None = 5.0
    """γ of min-SNR loss weighting; None weights all timesteps equally."""
    data: FineTuningDataConfig = field(default_factory=FineTuningDataConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_fraction("caption_dropout", self.caption_dropout)


@dataclass(frozen=True)
class UpscaleRecipe(ConditionedRecipe):
    """Options of `t2i train upscale-toybox`."""

    caption_dropout: float = 0.5
    """Fraction of samples trained without caption, as images to upscale often have none."""
    factor: int = 4
    """Upscaling factor; must divide the autoencoder's downsampling factor."""

    def task(self) -> UpscaleTask:
        return UpscaleTask(self)


@dataclass(frozen=True)
class LayoutRecipe(ConditionedRecipe):
    """Options of `t2i train layout-toybox`."""

    labels: tuple[str, ...] = ()
    """Names of the labels, starting with label 0, or toybox or toybox-v1 for its own, which is the default on that
    data."""
    layout_column: str = "layout"
    """Name of the label map column: images of mode P or L with labels as pixel values, or file names of such images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = self.label_names
        if not names:
            raise UsageError(f"{self.data.data} does not name its labels: give --labels, starting with label 0")
        if len(set(names)) < max(2, len(names)):
            raise UsageError(f"labels must be at least two names, each once, not {names}")

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels, starting with label 0."""
        world = WORLDS.get(self.labels[0] if len(self.labels) == 1 else "" if self.labels else self.data.data)
        return self.labels if world is None else world.labels

    def task(self) -> LayoutTask:
        return LayoutTask(self)


def upscale_toybox(preset: str = "base") -> UpscaleRecipe:
    """Super-resolution by a factor of 4: latents conditioned on bicubically downsampled images.

    Images are rendered and encoded in every step, without a cache. --image-size 0 uses the pipeline's image size.

    base: `t2i train upscale-toybox --mixed-precision bf16`, from toybox/ldm
    tiny: `t2i train upscale-toybox --preset tiny`, a minute on two cores, after the tiny ldm-toybox
    """
    if preset == "tiny":
        return UpscaleRecipe("runs/tiny-ldm/latest", loop=_loop("runs/tiny-upscale", tiny=True))
    return UpscaleRecipe(loop=_loop("runs/upscale-toybox"))


def layout_toybox(preset: str = "base") -> LayoutRecipe:
    """Images from label maps and captions: the map gives the position of each kind, the caption its appearance.

    Images are rendered and encoded in every step, without a cache. --image-size 0 uses the pipeline's image size. A
    folder of images needs a label map column ("layout_file_name" in each line of metadata.jsonl) and --labels; for one
    that `t2i data toybox --layouts` wrote, they are `--labels toybox`.

    base: `t2i train layout-toybox --mixed-precision bf16`, from toybox/ldm
    tiny: `t2i train layout-toybox --preset tiny`, a minute on two cores, after the tiny ldm-toybox
    """
    if preset == "tiny":
        return LayoutRecipe("runs/tiny-ldm/latest", loop=_loop("runs/tiny-layout", tiny=True))
    return LayoutRecipe(loop=_loop("runs/layout-toybox"))


def _loop(folder: str, tiny: bool = False) -> LoopConfig:
    if tiny:
        steps = {"max_train_steps": 100, "checkpointing_steps": 50, "lr_warmup_steps": 10}
        return LoopConfig(folder, train_batch_size=32, optimizer="muon", learning_rate=2e-3, **steps)
    steps = {"max_train_steps": 2_000, "checkpointing_steps": 200, "lr_warmup_steps": 30}
    return LoopConfig(folder, train_batch_size=64, optimizer="muon", learning_rate=2e-3, **steps)


class Condition(Protocol):
    """Computes the denoiser's condition from an item of the source; picklable, for the data workers."""

    def __call__(self, item: dict) -> np.ndarray:
        """The input of `GridCondition.grid`, without the batch axis."""

    def image(self, item: dict) -> Image.Image:
        """The condition in the form that the pipeline takes."""


@dataclass(frozen=True)
class Reduced:
    """The image downsampled by a factor f."""

    factor: int

    def __call__(self, item: dict) -> np.ndarray:
        """-> float32 (3, s, s) in [-1, 1]"""
        return np.asarray(self.image(item), np.float32).transpose(2, 0, 1) / np.float32(127.5) - 1

    def image(self, item: dict) -> Image.Image:
        image = Image.fromarray(item["image"])
        size = image.width // self.factor, image.height // self.factor
        return image.resize(size, Image.Resampling.BICUBIC)  # Pillow's resize is antialiased


@dataclass(frozen=True)
class Layout:
    """The label map."""

    def __call__(self, item: dict) -> np.ndarray:
        """-> uint8 (S, S)"""
        return item["layout"]

    def image(self, item: dict) -> Image.Image:
        return label_image(item["layout"])


@dataclass(frozen=True)
class PrepareConditioned:
    """Prepares a latent diffusion sample and its condition."""

    latent: PrepareLatent
    condition: Condition

    def __call__(self, item: dict, rng: np.random.Generator) -> dict:
        """The output of PrepareLatent, and `given`, the condition."""
        return self.latent(item, rng) | {"given": self.condition(item)}


class ConditionedTask(FineTuningTask):
    """Fine-tunes a trained denoiser with additional input channels.

    Args:
        condition: computes the denoiser's condition from an item of the source.
        grid: given the autoencoder's downsampling factor, creates the module from the condition to input channels.
        pipeline: creates the new pipeline from the old one's components.
    """

    SHOWN = 8

    def __init__(
        self,
        recipe: ConditionedRecipe,
        condition: Condition,
        grid: Callable[[int], GridCondition],
        pipeline: Callable[..., LatentDiffusionPipeline],
    ):
        pipe = _open(recipe.init_from)
        objective = objective_of(pipe.scheduler.config, recipe.min_snr_gamma)
        super().__init__(recipe.data, recipe.loop, pipe, objective, recipe.caption_dropout)
        self.condition, self.grid = condition, grid(stride_of(self.autoencoder))
        self.prepare = PrepareConditioned(self.prepare, condition)
        self.model = pipe.unet
        widen(self.model, self.grid.channels)
        use_fast_attention(self.model)
        self.pipe = pipeline(**pipe.components, requires_safety_checker=pipe.config.requires_safety_checker)
        self.pipe.set_progress_bar_config(disable=True)

    def loss(self, given: Tensor, **batch: Tensor) -> dict[str, Tensor]:
        """Takes the output of PrepareConditioned."""
        return super().loss(**batch, grid=self.grid.grid(given))

    def preview(self) -> Image.Image:
        """Rows: conditions, images generated from them (always with the same seeds), and the originals."""
        items = [self.source[i] for i in range(min(self.SHOWN, len(self.source)))]
        captions, given = [item["text"] for item in items], [self.condition.image(item) for item in items]
        generators = [torch.Generator().manual_seed(i) for i in range(len(items))]
        generated = self.pipeline()(captions, given, generator=generators).images
        rows = [*given, *generated, *(Image.fromarray(item["image"]) for item in items)]
        return contact_sheet(rows, [*[""] * len(items), *captions, *[""] * len(items)], columns=len(items))


class UpscaleTask(ConditionedTask):
    """Trains super-resolution, conditioned on downsampled images."""

    def __init__(self, recipe: UpscaleRecipe):
        grid = partial(LowResolution, recipe.factor)
        super().__init__(recipe, Reduced(recipe.factor), grid, LatentDiffusionUpscalePipeline)

    @property
    def next_command(self) -> str:
        return "t2i upscale IMAGE --pipeline {run}/latest"


class LayoutTask(ConditionedTask):
    """Trains images from label maps and captions."""

    def __init__(self, recipe: LayoutRecipe):
        recipe.data.refuse((*OF_IMAGES, *OF_CAPTIONS), "label maps are read of all images, cropped in the centre")
        labels = recipe.label_names
        pipeline = partial(LatentDiffusionLayoutPipeline, labels=list(labels))
        super().__init__(recipe, Layout(), partial(LabelMap, len(labels)), pipeline)
        options = {"column": recipe.layout_column, "labels": labels, "folder": Path(recipe.data.data)}
        self.source = beneath(self.source, partial(WithLayouts, **options))

    @property
    def next_command(self) -> str:
        return "t2i layout MAP PROMPT --pipeline {run}/latest"


def _open(name: str) -> LatentDiffusionPipeline:
    """Raises FileNotFoundError if there is no pipeline, ValueError for one that is not conditioned on text only."""
    pipe = as_latent_diffusion(AutoPipeline.from_pretrained(name), name)
    if not is_text_to_image(pipe):
        raise ValueError(
            f"{name} holds {with_article(type(pipe).__name__)}: --init-from needs a latent diffusion "
            "pipeline conditioned on text only, as `t2i train ldm-toybox` produces"
        )
    return pipe
