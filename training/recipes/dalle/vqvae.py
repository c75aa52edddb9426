"""Stage 1 of DALL·E: the image tokenizer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t2i.images import to_tensor
from t2i.tokenizers.vqvae import VQVAE
from t2i.training.config import DataConfig, LoopConfig, check_image_size
from t2i.training.previews import reconstructions
from t2i.training.task import Task


@dataclass(frozen=True)
class VQVAEModelConfig:
    """The encoder, the codebook and the decoder."""

    channels: tuple[int, ...] = (48, 128)
    """Channels of each level, fine to coarse; every level halves the resolution."""
    encoder_blocks: tuple[int, ...] = (0, 2)
    """Number of residual blocks at each level of the encoder."""
    decoder_blocks: tuple[int, ...] = (1, 3)
    """Number of residual blocks at each level of the decoder."""
    codebook_size: int = 1024
    """Number of codebook entries."""
    code_width: int = 16
    """Dimensions of a codebook vector."""
    commitment_cost: float = 0.25
    """Weight of the commitment loss, which keeps the encoder's outputs close to their codebook vectors."""
    warmup_batches: int = 150
    """Number of forward passes before quantization starts; until then the model is a plain autoencoder."""


@dataclass(frozen=True)
class VQVAERecipe:
    """Options of `t2i train vqvae-toybox`."""

    data: DataConfig = field(default_factory=DataConfig)
    model: VQVAEModelConfig = field(default_factory=VQVAEModelConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_image_size(self.data.image_size)

    def task(self) -> VQVAETask:
        return VQVAETask(self)


def vqvae_toybox(preset: str = "base") -> VQVAERecipe:
    """A VQ-VAE: 64×64 images as 16×16 tokens from a codebook of 1,024.

    base: `t2i train vqvae-toybox`, 15 minutes on two cores
    tiny: `t2i train vqvae-toybox --preset tiny`, a minute on two cores
    """
    if preset == "tiny":
        run = "runs/tiny-vqvae"
        model = VQVAEModelConfig((32, 64), (0, 1), (0, 1), codebook_size=256, warmup_batches=40)
        loop = LoopConfig(run, max_train_steps=300, train_batch_size=16, checkpointing_steps=100, lr_warmup_steps=20)
        return VQVAERecipe(model=model, loop=loop)
    run = "runs/vqvae-toybox"
    loop = LoopConfig(run, max_train_steps=3_200, train_batch_size=32, checkpointing_steps=400, learning_rate=1e-3)
    return VQVAERecipe(loop=loop)


class VQVAETask(Task):
    """Trains a model that encodes images as discrete tokens and decodes them."""

    next_command = "t2i train prior-toybox --tokenizer {run}/latest, with the same --data and --image-size"

    def __init__(self, recipe: VQVAERecipe):
        self.source = recipe.data.open(recipe.loop.seed)
        self.prepare = prepare_image
        torch.manual_seed(recipe.loop.seed)  # the same initial weights on every process
        self.model = VQVAE(image_size=recipe.data.image_size, **asdict(recipe.model))

    def loss(self, images: Tensor) -> dict[str, Tensor]:
        return self.model.loss(to_tensor(images))

    def preview(self) -> Image.Image:
        return reconstructions(self.source, lambda images: self.model.reconstruct(images.to(self.model.device)))

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)


def prepare_image(item: dict, rng: np.random.Generator) -> dict:
    """The image only: uint8 (S, S, 3)."""
    return {"images": item["image"]}
