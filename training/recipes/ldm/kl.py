"""Stage 1 of latent diffusion: the KL autoencoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t2i.checks import check_real, check_whole
from t2i.images import to_tensor
from t2i.tokenizers.kl import KLObjective, KLTokenizer, make_autoencoder, measure_scaling_factor, stride_of
from t2i.training.config import DataConfig, LoopConfig
from t2i.training.model_options import ModelOptions, model_options
from t2i.training.previews import reconstructions
from t2i.training.recipes.discriminator import DiscriminatorConfig
from t2i.training.recipes.perceptual import PerceptualConfig
from t2i.training.task import Task

autoencoder_options = partial(model_options, make_autoencoder, exclude=("image_size",))
objective_options = partial(model_options, KLObjective, exclude=("perceptual_weight", "perceptual", "adversary"))


@dataclass(frozen=True)
class KLRecipe:
    """Options of `t2i train kl-toybox`."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelOptions = field(default_factory=autoencoder_options)
    objective: ModelOptions = field(default_factory=objective_options)
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        for name in ("layers", "latent_channels"):
            check_whole(name, getattr(self.model, name))
        for name in ("kl_weight", "edge_weight"):
            check_real(name, getattr(self.objective, name))

    def task(self) -> KLTask:
        return KLTask(self)


def kl_toybox(preset: str = "base") -> KLRecipe:
    """A KL autoencoder: 64×64 images as 8×8 latents with 8 channels.

    base: `ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 -m t2i.training kl-toybox
        --mixed-precision bf16 --train-batch-size 8`, 40 minutes on two cores
    tiny: `t2i train kl-toybox --preset tiny`, a minute on two cores
    """
    if preset == "tiny":
        run = "runs/tiny-kl"
        model = autoencoder_options(channels=(8, 16, 32, 64), latent_channels=4)
        loop = LoopConfig(run, max_train_steps=200, train_batch_size=16, checkpointing_steps=100, lr_warmup_steps=20)
        return KLRecipe(model=model, loop=loop)
    run = "runs/kl-toybox"
    loop = LoopConfig(
        run, max_train_steps=6_000, train_batch_size=16, checkpointing_steps=500, optimizer="muon", learning_rate=6e-3
    )
    return KLRecipe(loop=loop)


class KLTask(Task):
    """Trains a model that encodes images as latents and decodes them."""

    next_command = "t2i train ldm-toybox --autoencoder {run}/latest, with the same --data and --image-size"
    MEASURED = 512  # number of images to estimate the scaling factor from

    def __init__(self, recipe: KLRecipe):
        torch.manual_seed(recipe.loop.seed)  # the same initial weights on every process
        autoencoder = recipe.model.build(image_size=recipe.data.image_size)
        stride = stride_of(autoencoder)
        self.source = recipe.data.open(recipe.loop.seed, stride=stride)
        self.prepare = PrepareImageAndNoise(recipe.model.latent_channels, stride)
        perceptual, self.fingerprint = recipe.perceptual.open()
        weight, adversary = recipe.perceptual.perceptual_weight, recipe.discriminator.adversary()
        self.model = recipe.objective.build(
            autoencoder, perceptual_weight=weight, perceptual=perceptual, adversary=adversary
        )

    def loss(self, images: Tensor, noise: Tensor) -> dict[str, Tensor]:
        return self.model.loss(to_tensor(images), noise)

    def preview(self) -> Image.Image:
        tokenizer = KLTokenizer(self.model.autoencoder)
        return reconstructions(self.source, lambda images: tokenizer.reconstruct(images.to(tokenizer.device)))

    def save(self, folder: Path) -> None:
        """Save an `AutoencoderKL` whose scaling factor gives training images' latents a standard deviation of 1."""
        autoencoder = self.model.autoencoder
        autoencoder.register_to_config(scaling_factor=measure_scaling_factor(autoencoder, self._images()))
        autoencoder.save_pretrained(folder)

    def _images(self, batch: int = 32) -> Iterator[Tensor]:
        count = min(self.MEASURED, len(self.source))
        for start in range(0, count, batch):
            images = [self.source[i]["image"] for i in range(start, min(start + batch, count))]
            yield to_tensor(torch.from_numpy(np.stack(images)))


@dataclass(frozen=True)
class PrepareImageAndNoise:
    """Prepares an image and the noise to sample its latents with, both determined by the sample's index."""

    latent_channels: int
    stride: int

    def __call__(self, item: dict, rng: np.random.Generator) -> dict:
        """-> images, uint8 (H, W, 3); noise, standard normal (C, h, w)"""
        height, width, _ = item["image"].shape
        shape = (self.latent_channels, height // self.stride, width // self.stride)
        return {"images": item["image"], "noise": rng.standard_normal(shape, dtype=np.float32)}
