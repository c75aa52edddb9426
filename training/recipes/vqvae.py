"""Stage 1 of DALL·E: the image tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t2i.contact_sheet import contact_sheet
from t2i.data.sources import open_source
from t2i.images import to_pil, to_tensor
from t2i.tokenizers.vqvae import VQVAE
from t2i.training.config import DataConfig, LoopConfig, check_image_size
from t2i.training.task import Task


@dataclass(frozen=True)
class VQVAEModelConfig:
    channels: tuple[int, ...] = (48, 128)
    """Channels of each level, fine to coarse; every level halves the side."""
    encoder_blocks: tuple[int, ...] = (0, 2)
    decoder_blocks: tuple[int, ...] = (1, 3)
    codebook_size: int = 1024
    code_width: int = 16
    commitment_cost: float = 0.25
    warmup_batches: int = 150
    """Forward passes before the codes come in: until then it is a plain autoencoder."""


@dataclass(frozen=True)
class VQVAERecipe:
    data: DataConfig = field(default_factory=DataConfig)
    model: VQVAEModelConfig = field(default_factory=VQVAEModelConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_image_size(self.data.image_size)

    def stage(self) -> VQVAEStage:
        return VQVAEStage(self)


def vqvae_toybox(preset: str = "base") -> VQVAERecipe:
    """64×64 pictures as 16×16 codes out of 1,024.

    base: `t2i train vqvae-toybox`, 15 minutes on two cores; see compositional accuracy for its loss
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


class VQVAEStage(Task):
    """Images through the codes and back."""

    SHOWN = 8
    next_command = "t2i train prior-toybox --tokenizer {run}/latest, with the same --data and --image-size"

    def __init__(self, recipe: VQVAERecipe):
        data, model = recipe.data, recipe.model
        self.source = open_source(data.data, data.image_size, data.image_column, data.caption_column, recipe.loop.seed)
        self.prepare = prepare_image
        torch.manual_seed(recipe.loop.seed)  # the same start on every process
        self.model = VQVAE(
            image_size=data.image_size,
            channels=model.channels,
            encoder_blocks=model.encoder_blocks,
            decoder_blocks=model.decoder_blocks,
            codebook_size=model.codebook_size,
            code_width=model.code_width,
            commitment_cost=model.commitment_cost,
            warmup_batches=model.warmup_batches,
        )

    def loss(self, images: Tensor) -> dict[str, Tensor]:
        return self.model.loss(to_tensor(images))

    @torch.no_grad()
    def preview(self) -> Image.Image:
        """Pictures over their reconstructions."""
        items = [self.source[i] for i in range(min(self.SHOWN, len(self.source)))]
        images = to_tensor(torch.from_numpy(np.stack([item["image"] for item in items])))
        again = to_pil(self.model.reconstruct(images.to(self.model.device)))
        labels = [item["text"] for item in items] + ["reconstructed"] * len(items)
        return contact_sheet(to_pil(images) + again, labels, columns=len(items))

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)


def prepare_image(item: dict, rng: np.random.Generator) -> dict:
    """The picture alone: uint8 (S, S, 3)."""
    return {"images": item["image"]}
