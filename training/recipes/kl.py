"""Stage 1 of latent diffusion: the KL autoencoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t2i.contact_sheet import contact_sheet
from t2i.data.sources import open_source
from t2i.images import to_pil, to_tensor
from t2i.nn.discriminator import PatchDiscriminator
from t2i.tokenizers.adversarial import Adversary
from t2i.tokenizers.kl import KLObjective, KLTokenizer, make_autoencoder, measure_scaling_factor, stride_of
from t2i.training.config import DataConfig, LoopConfig, check_image_size
from t2i.training.task import Task


@dataclass(frozen=True)
class KLModelConfig:
    channels: tuple[int, ...] = (16, 32, 64, 128)
    """Channels of each level, fine to coarse; every level but the first halves the side."""
    layers: int = 1
    """Residual blocks of each of the encoder's levels; the decoder's have one more."""
    latent_channels: int = 8
    attention: bool = True
    """Whether the middle blocks attend."""
    kl_weight: float = 1e-6
    """Of the nats that an image's latents cost, beside a mean over pixels."""
    edge_weight: float = 1.0
    discriminator_weight: float = 0.0
    """Of the discriminator's say, beside its adaptive weight; 0: there is no discriminator."""
    discriminator_channels: tuple[int, ...] = (32, 64, 128)
    discriminator_start: int = 1000
    """Forward passes in which the discriminator learns alone."""
    discriminator_ramp: int = 500
    """Forward passes after them until it has its full say."""

    def __post_init__(self) -> None:
        for name in ("layers", "latent_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("kl_weight", "edge_weight", "discriminator_weight", "discriminator_start", "discriminator_ramp"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")


@dataclass(frozen=True)
class KLRecipe:
    data: DataConfig = field(default_factory=DataConfig)
    model: KLModelConfig = field(default_factory=KLModelConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_image_size(self.data.image_size)

    def stage(self) -> KLStage:
        return KLStage(self)


def kl_toybox(preset: str = "base") -> KLRecipe:
    """64×64 pictures as 8×8 latents of 8 channels.

    base: `ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 -m t2i.training kl-toybox
        --mixed-precision bf16 --train-batch-size 8`, 40 minutes on two cores
    tiny: `t2i train kl-toybox --preset tiny`, a minute on two cores
    """
    if preset == "tiny":
        run = "runs/tiny-kl"
        model = KLModelConfig((8, 16, 32, 64), latent_channels=4)
        loop = LoopConfig(run, max_train_steps=200, train_batch_size=16, checkpointing_steps=100, lr_warmup_steps=20)
        return KLRecipe(model=model, loop=loop)
    run = "runs/kl-toybox"
    loop = LoopConfig(
        run, max_train_steps=6_000, train_batch_size=16, checkpointing_steps=500, optimizer="muon", learning_rate=6e-3
    )
    return KLRecipe(loop=loop)


class KLStage(Task):
    """Images through the latents and back."""

    SHOWN = 8
    next_command = "t2i train ldm-toybox --autoencoder {run}/latest, with the same --data and --image-size"
    MEASURED = 512  # pictures behind the scaling factor

    def __init__(self, recipe: KLRecipe):
        data, model = recipe.data, recipe.model
        self.source = open_source(data.data, data.image_size, data.image_column, data.caption_column, recipe.loop.seed)
        torch.manual_seed(recipe.loop.seed)  # the same start on every process
        autoencoder = make_autoencoder(
            data.image_size, model.channels, model.layers, model.latent_channels, model.attention
        )
        side = data.image_size // stride_of(autoencoder)
        self.prepare = PrepareImageAndNoise((model.latent_channels, side, side))
        adversary = None
        if model.discriminator_weight > 0:
            adversary = Adversary(
                PatchDiscriminator(model.discriminator_channels),
                model.discriminator_weight,
                model.discriminator_start,
                model.discriminator_ramp,
            )
        self.model = KLObjective(autoencoder, model.kl_weight, model.edge_weight, adversary)

    def loss(self, images: Tensor, noise: Tensor) -> dict[str, Tensor]:
        return self.model.loss(to_tensor(images), noise)

    @torch.no_grad()
    def preview(self) -> Image.Image:
        """Pictures over their reconstructions."""
        items = [self.source[i] for i in range(min(self.SHOWN, len(self.source)))]
        images = to_tensor(torch.from_numpy(np.stack([item["image"] for item in items])))
        tokenizer = KLTokenizer(self.model.autoencoder)
        again = to_pil(tokenizer.reconstruct(images.to(tokenizer.device)))
        labels = [item["text"] for item in items] + ["reconstructed"] * len(items)
        return contact_sheet(to_pil(images) + again, labels, columns=len(items))

    def save(self, folder: Path) -> None:
        """A plain `AutoencoderKL`, which scales its latents to standard deviation 1 on the training pictures."""
        autoencoder = self.model.autoencoder
        autoencoder.register_to_config(scaling_factor=measure_scaling_factor(autoencoder, self._pictures()))
        autoencoder.save_pretrained(folder)

    def _pictures(self, batch: int = 32) -> Iterator[Tensor]:
        count = min(self.MEASURED, len(self.source))
        for start in range(0, count, batch):
            images = [self.source[i]["image"] for i in range(start, min(start + batch, count))]
            yield to_tensor(torch.from_numpy(np.stack(images)))


@dataclass(frozen=True)
class PrepareImageAndNoise:
    """The picture, and the noise that its latents are drawn with: both follow from the sample's number."""

    latents: tuple[int, int, int]

    def __call__(self, item: dict, rng: np.random.Generator) -> dict:
        """-> images, uint8 (S, S, 3); noise, standard normal (C, s, s)"""
        return {"images": item["image"], "noise": rng.standard_normal(self.latents, dtype=np.float32)}
