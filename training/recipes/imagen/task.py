"""Base class of the recipes of Imagen and of their tasks: a denoiser of pixels, conditioned on text.

Shapes: B batch · S image side · s side of the low-resolution image · L text positions · D width of the text states
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t2i.data.image_file import square
from t2i.diffusion.efficient_unet import EfficientUNet
from t2i.diffusion.noise_augmentation import condition_on
from t2i.diffusion.objective import DiffusionObjective
from t2i.images import to_tensor
from t2i.text.cache import CachedStates
from t2i.text.captions import LOOKED_AT, warn_of_long_captions
from t2i.text.encoders import TextEncoder
from t2i.training.held_out import bins, errors_by_timestep, printed, scores_of, split_held_out, swap_test
from t2i.training.model_options import ModelOptions, model_options
from t2i.training.recipes.encodings import Encoding, cached_encodings
from t2i.training.recipes.text_conditioned import TextConditionedRecipe, TextConditionedTask, Tokens, prepare_text
from t2i.training.task import Evaluation

unet_options = partial(model_options, EfficientUNet, exclude=("low_resolution",))


@dataclass(frozen=True, kw_only=True)
class PixelRecipe(TextConditionedRecipe):
    """Options of both recipes."""

    cache: str | None = None
    """Folder for cached images at the model's size; cached text states of the captions are stored next to it. Default:
    next to the run, with a name derived from the data. 'none' loads images and computes states in every step. Text
    states are not cached if the text encoder is trained."""
    model: ModelOptions = field(default_factory=unet_options)


class PixelDiffusionTask(TextConditionedTask):
    """Trains an EfficientUNet on images and captions. Subclasses set `model` and define `pipeline`.

    Args:
        size: S
        low_resolution: s, for super-resolution; None for a base model.

    Raises as `open_source` does, and ValueError for data with too few images.
    """

    def __init__(self, recipe: PixelRecipe, encoder: TextEncoder, size: int, low_resolution: int | None = None):
        self.encoder, self.objective = encoder, recipe.objective()
        self.validation_prompts, self.size, self.low_resolution = recipe.validation_prompts, size, low_resolution
        self.fingerprint = {"text_encoder_sha256": encoder.key()}
        source = recipe.data.open(recipe.loop.seed)
        warn_of_long_captions(source.captions(LOOKED_AT), encoder.tokenizer, encoder.room)
        self.source, self.held_out = split_held_out(source, recipe.held_out_images)
        texts = Tokens(encoder.tokenizer, encoder.length)
        self.prepare = PrepareImage(texts, recipe.caption_dropout, self.objective, size, low_resolution)
        if recipe.cache != "none":
            options = (recipe.cached_images, recipe.loop.dataloader_num_workers, Path(recipe.loop.output_dir).parent)
            encoding, seed = image_encoding(size), recipe.loop.seed
            self.source = cached_encodings(encoding, recipe.cache, self.source, recipe.data, seed, *options)
            if not self.trains_text_encoder:
                self.prepare = dataclasses.replace(self.prepare, texts=self.cached_texts(recipe.cache))

    def loss(
        self,
        images: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        mask: Tensor,
        ids: Tensor | None = None,
        states: Tensor | None = None,
        **low: Tensor,
    ) -> dict[str, Tensor]:
        """Takes the output of PrepareImage."""
        states, condition = self.text_states(mask, ids, states), self._condition(**low)
        return self.objective.loss(self.denoiser, to_tensor(images), noise, timesteps, states, mask.bool(), **condition)

    def _condition(
        self,
        low_images: Tensor | None = None,
        low_noise: Tensor | None = None,
        levels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """What a super-resolution model is conditioned on besides the text: grid (B, 3, S, S), level (B,)."""
        if low_images is None:
            return {}
        grid = condition_on(to_tensor(low_images), low_noise, levels, self.size)
        return {"grid": grid, "augmentation_level": levels}

    def evaluate(self) -> Evaluation | None:
        """Held-out loss by timestep, with the right conditions and with those of other images; printed as a table."""
        if not len(self.held_out):
            return None
        device = self.denoiser.device
        items = [self.held_out[i] for i in range(len(self.held_out))]
        rows = [self.prepare.images(item, np.random.default_rng(i)) for i, item in enumerate(items)]
        batch = {name: torch.from_numpy(np.stack([row[name] for row in rows])).to(device) for name in rows[0]}
        images = to_tensor(batch.pop("images"))
        self.encoder.model.to(device)
        text = self.encoder.encode([item["text"] for item in items])
        given = {"states": text.states, "mask": text.mask, **self._condition(**batch)}
        swaps = {"captions of other images": ("states", "mask")}
        if self.low_resolution is not None:
            swaps["other low-resolution images"] = ("grid", "augmentation_level")
        errors = swap_test(partial(errors_by_timestep, self.objective, self.denoiser, images), given, swaps)
        return printed(scores_of(errors, bins(self.objective.schedule.num_train_timesteps)))


@dataclass(frozen=True)
class PrepareImage:
    """Prepares image, caption and noise of a sample; the caption is dropped with probability `dropout`."""

    texts: Tokens | CachedStates
    dropout: float
    objective: DiffusionObjective
    size: int
    low_resolution: int | None

    def __call__(self, item: dict, rng: np.random.Generator) -> dict:
        """-> what `images` gives; mask (L,); states (L, D), or, if not cached, ids (L,); noise (3, S, S), timesteps"""
        sample = prepare_text(self.texts, item["text"], self.dropout, rng) | self.images(item, rng)
        return sample | self.objective.sample_noise((3, self.size, self.size), rng)

    def images(self, item: dict, rng: np.random.Generator) -> dict:
        """-> images, uint8 (S, S, 3); for super-resolution also low_images, uint8 (s, s, 3), low_noise (3, s, s), and
        its level, uniform in [0, 1)
        """
        image = Image.fromarray(item["image"])
        sample = {"images": square(image, self.size)}
        if (s := self.low_resolution) is None:
            return sample
        noise = rng.standard_normal((3, s, s), dtype=np.float32)
        return sample | {"low_images": square(image, s), "low_noise": noise, "levels": rng.random(dtype=np.float32)}


def image_encoding(size: int) -> Encoding:
    """The images themselves, scaled to `size`."""

    def encode(images: Tensor) -> Tensor:
        scaled = [square(Image.fromarray(image), size) for image in images.cpu().numpy()]
        return torch.from_numpy(np.stack(scaled))[:, None]  # (B, 1, S, S, 3)

    return Encoding("images", ("image",), encode, np.uint8, {"side": size})
