"""Stage 1 of DALL·E: the image tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t2i.images import to_tensor
from t2i.tokenizers.vqvae import VQVAE
from t2i.training.config import DataConfig, LoopConfig
from t2i.training.model_options import ModelOptions, model_options
from t2i.training.previews import reconstructions
from t2i.training.task import Task

vqvae_options = partial(model_options, VQVAE, exclude=("image_size", "edge_weight", "codebook_decay"))


@dataclass(frozen=True)
class VQVAERecipe:
    """Options of `t2i train vqvae-toybox`."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelOptions = field(default_factory=vqvae_options)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def task(self) -> VQVAETask:
        return VQVAETask(self)


def vqvae_toybox(preset: str = "base") -> VQVAERecipe:
    """A VQ-VAE: 64×64 images as 16×16 tokens from a codebook of 1,024.

    base: `t2i train vqvae-toybox`, 15 minutes on two cores
    tiny: `t2i train vqvae-toybox --preset tiny`, a minute on two cores
    """
    if preset == "tiny":
        run = "runs/tiny-vqvae"
        blocks = {"encoder_blocks": (0, 1), "decoder_blocks": (0, 1)}
        model = vqvae_options(channels=(32, 64), **blocks, codebook_size=256, code_width=16, warmup_batches=40)
        loop = LoopConfig(run, max_train_steps=300, train_batch_size=16, checkpointing_steps=100, lr_warmup_steps=20)
        return VQVAERecipe(model=model, loop=loop)
    run = "runs/vqvae-toybox"
    blocks = {"encoder_blocks": (0, 2), "decoder_blocks": (1, 3)}
    model = vqvae_options(channels=(48, 128), **blocks, code_width=16, warmup_batches=150)
    loop = LoopConfig(run, max_train_steps=3_200, train_batch_size=32, checkpointing_steps=400, learning_rate=1e-3)
    return VQVAERecipe(model=model, loop=loop)


class VQVAETask(Task):
    """Trains a model that encodes images as discrete tokens and decodes them."""

    next_command = "t2i train prior-toybox --tokenizer {run}/latest, with the same --data and --image-size"

    def __init__(self, recipe: VQVAERecipe):
        self.source = recipe.data.open(recipe.loop.seed)
        self.prepare = prepare_image
        torch.manual_seed(recipe.loop.seed)  # the same initial weights on every process
        self.model = recipe.model.build(image_size=recipe.data.image_size)

    def loss(self, images: Tensor) -> dict[str, Tensor]:
        return self.model.loss(to_tensor(images))

    def preview(self) -> Image.Image:
        return reconstructions(self.source, lambda images: self.model.reconstruct(images.to(self.model.device)))

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)


def prepare_image(item: dict, rng: np.random.Generator) -> dict:
    """The image only: uint8 (S, S, 3)."""
    return {"images": item["image"]}
