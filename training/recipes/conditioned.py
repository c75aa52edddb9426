"""Super-resolution and pictures from maps: a trained latent diffusion taught to heed further channels beside the
latent's (Rombach et al. 2022, arXiv 2112.10752, § 4.3.2 and 4.4).

Shapes: B batch · S picture · f factor · s = S/f small picture · K channels beside the latent's · h, w latent
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import Tensor

from t2i.contact_sheet import contact_sheet
from t2i.data.layouts import WithLayouts
from t2i.data.toybox import LABELS, layout_image
from t2i.devices import fastest_device
from t2i.diffusion.grid_conditions import GridCondition, LabelMap, LowResolution, widen
from t2i.pipelines.latent_diffusion import (
    LatentDiffusionLayoutPipeline,
    LatentDiffusionPipeline,
    LatentDiffusionUpscalePipeline,
)
from t2i.pipelines.loading.auto import AutoPipeline, as_latent_diffusion
from t2i.tokenizers.kl import stride_of
from t2i.training.config import DataConfig, LoopConfig, check_image_size
from t2i.training.recipes.ldm import PrepareLatent
from t2i.training.recipes.lora import TaughtStage, draws_from_words, objective_of


@dataclass(frozen=True)
class ConditionedRecipe:
    """What both have in common."""

    start_from: str = "toybox/ldm"
    """The latent diffusion that it begins as: a folder, an embedded system, or a model of the Hub."""
    caption_dropout: float = 0.1
    """Share of samples trained without their text."""
    min_snr_gamma: float | None = 5.0
    """Of min-SNR weighting; None weighs all timesteps alike."""
    data: DataConfig = field(default_factory=lambda: DataConfig(image_size=0))  # 0: the pipeline's own
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_image_size(self.data.image_size, least=0)
        if not 0 <= self.caption_dropout < 1:
            raise ValueError(f"caption_dropout must lie in [0, 1), not {self.caption_dropout}")


@dataclass(frozen=True)
class UpscaleRecipe(ConditionedRecipe):
    caption_dropout: float = 0.5
    """Share of samples trained without their text: a small picture often comes without words."""
    factor: int = 4
    """How many times as large a side becomes; it divides the autoencoder's stride."""

    def stage(self) -> UpscaleStage:
        return UpscaleStage(self)


@dataclass(frozen=True)
class LayoutRecipe(ConditionedRecipe):
    labels: tuple[str, ...] = LABELS
    """Their names, that of label 0 first; toybox's own by default."""
    layout_column: str = "layout"
    """Column of the maps: pictures of mode P or L whose pixels are labels, or names of such files."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.labels)) < max(2, len(self.labels)):
            raise ValueError(f"labels must be at least two names, each once, not {self.labels}")

    def stage(self) -> LayoutStage:
        return LayoutStage(self)


def upscale_toybox(preset: str = "base") -> UpscaleRecipe:
    """Super-resolution by a factor of 4: small pictures beside the latents, made of the data's own by bicubic scaling.

    Pictures are drawn and encoded as they come: there is no cache. An --image-size of 0 is the pipeline's own.

    base: `t2i train upscale-toybox --mixed-precision bf16`, from the embedded system on
    tiny: `t2i train upscale-toybox --preset tiny`, a minute on two cores after the tiny ldm-toybox
    """
    if preset == "tiny":
        return UpscaleRecipe("runs/tiny-ldm/latest", loop=_loop("runs/tiny-upscale", tiny=True))
    return UpscaleRecipe(loop=_loop("runs/upscale-toybox"))


def layout_toybox(preset: str = "base") -> LayoutRecipe:
    """Pictures from maps of labels, and words: which kind lies where is in the map, what it looks like in the words.

    Pictures are drawn and encoded as they come: there is no cache. An --image-size of 0 is the pipeline's own. A folder
    of pictures needs a column of maps: "layout_file_name" in each line of metadata.jsonl, and --labels.

    base: `t2i train layout-toybox --mixed-precision bf16`, from the embedded system on
    tiny: `t2i train layout-toybox --preset tiny`, a minute on two cores after the tiny ldm-toybox
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


class Given(Protocol):
    """What of an item of the source the denoiser is to be given; data workers run it, and so it can be pickled."""

    def __call__(self, item: dict) -> np.ndarray:
        """What the condition's `grid` takes, without the batch axis."""

    def picture(self, item: dict) -> Image.Image:
        """The same, as the pipeline takes it."""


@dataclass(frozen=True)
class Small:
    """The picture, 1/f as large."""

    factor: int

    def __call__(self, item: dict) -> np.ndarray:
        """-> float32 (3, s, s) in [-1, 1]"""
        return np.asarray(self.picture(item), np.float32).transpose(2, 0, 1) / np.float32(127.5) - 1

    def picture(self, item: dict) -> Image.Image:
        image = Image.fromarray(item["image"])
        size = image.width // self.factor, image.height // self.factor
        return image.resize(size, Image.Resampling.BICUBIC)  # of Pillow, which blurs before it leaves pixels out


@dataclass(frozen=True)
class Layout:
    """The map of labels."""

    def __call__(self, item: dict) -> np.ndarray:
        """-> uint8 (S, S)"""
        return item["layout"]

    def picture(self, item: dict) -> Image.Image:
        return layout_image(item["layout"])


@dataclass(frozen=True)
class PrepareConditioned:
    """A sample of latent diffusion, and what lies beside its latents."""

    latent: PrepareLatent
    given: Given

    def __call__(self, item: dict, rng: np.random.Generator) -> dict:
        """As PrepareLatent's, and `given`."""
        return self.latent(item, rng) | {"given": self.given(item)}


class ConditionedStage(TaughtStage):
    """A trained pipeline whose denoiser learns to heed further channels; autoencoder and text encoder are frozen."""

    def __init__(self, recipe: ConditionedRecipe):
        pipe = _open(recipe.start_from)
        objective = objective_of(pipe.scheduler.config, recipe.min_snr_gamma)
        super().__init__(recipe, pipe, objective, recipe.caption_dropout)

    def _take(self, condition: GridCondition, given: Given, pipeline: Callable[..., LatentDiffusionPipeline]) -> None:
        """Widen the denoiser by the condition's channels; `pipeline` makes the new one of the old one's parts."""
        self.condition, self.given = condition, given
        self.prepare = PrepareConditioned(self.prepare, given)
        self.model = self.pipe.unet
        widen(self.model, condition.channels)
        if fastest_device() == "cpu" and isinstance(self.model, UNet2DConditionModel):
            self.model.set_attn_processor(AttnProcessor())  # see make_denoiser
        checks = self.pipe.config.requires_safety_checker
        self.pipe = pipeline(**self.pipe.components, requires_safety_checker=checks)
        self.pipe.set_progress_bar_config(disable=True)

    def loss(self, given: Tensor, **batch: Tensor) -> dict[str, Tensor]:
        """See PrepareConditioned for what it takes."""
        return super().loss(**batch, grid=self.condition.grid(given))

    def preview(self) -> Image.Image:
        """A row of what is given, one of what is drawn after it, always from the same seeds, one of the originals."""
        items = [self.source[i] for i in range(min(self.SHOWN, len(self.source)))]
        texts, given = [item["text"] for item in items], [self.given.picture(item) for item in items]
        generators = [torch.Generator().manual_seed(i) for i in range(len(items))]
        drawn = self.pipeline()(texts, given, generator=generators).images
        rows = [*given, *drawn, *(Image.fromarray(item["image"]) for item in items)]
        return contact_sheet(rows, [*[""] * len(items), *texts, *[""] * len(items)], columns=len(items))


class UpscaleStage(ConditionedStage):
    next_command = "t2i upscale IMAGE --pipeline {run}/latest"

    def __init__(self, recipe: UpscaleRecipe):
        super().__init__(recipe)
        condition = LowResolution(recipe.factor, stride_of(self.autoencoder))
        self._take(condition, Small(recipe.factor), LatentDiffusionUpscalePipeline)


class LayoutStage(ConditionedStage):
    next_command = "t2i layout MAP PROMPT --pipeline {run}/latest"

    def __init__(self, recipe: LayoutRecipe):
        super().__init__(recipe)
        self.source = WithLayouts(self.source, recipe.layout_column, recipe.labels, Path(recipe.data.data))
        condition = LabelMap(len(recipe.labels), stride_of(self.autoencoder))
        self._take(condition, Layout(), partial(LatentDiffusionLayoutPipeline, labels=list(recipe.labels)))


def _open(name: str) -> LatentDiffusionPipeline:
    """Raises FileNotFoundError for what is no pipeline, ValueError for one that does not draw from words alone."""
    pipe = as_latent_diffusion(AutoPipeline.from_pretrained(name), name)
    if not draws_from_words(pipe):
        raise ValueError(
            f"{name} holds a {type(pipe).__name__}: give --start-from a latent diffusion that draws from words alone, "
            "as `t2i train ldm-toybox` makes"
        )
    return pipe
