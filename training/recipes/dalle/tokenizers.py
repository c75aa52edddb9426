"""Stage 1 of DALL·E: the image tokenizers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t2i.images import to_tensor
from t2i.tokenizers.auto import open_image_tokenizer
from t2i.tokenizers.base import ImageTokenizer
from t2i.tokenizers.dvae import DiscreteVAE
from t2i.tokenizers.fsq import FSQVAE
from t2i.tokenizers.vqgan import VQGANObjective
from t2i.tokenizers.vqvae import VQVAE
from t2i.training.config import DataConfig, LoopConfig
from t2i.training.model_options import ModelOptions, model_options
from t2i.training.previews import reconstructions
from t2i.training.recipes.discriminator import DiscriminatorConfig
from t2i.training.recipes.perceptual import PerceptualConfig
from t2i.training.recipes.toybox import TOYBOX
from t2i.training.task import Task
from t2i.weights import copy_weights

vqvae_options = partial(model_options, VQVAE, exclude=("image_size", "edge_weight", "codebook_decay"))
fsq_options = partial(model_options, FSQVAE, exclude=("image_size", "edge_weight"))
dvae_options = partial(model_options, DiscreteVAE, exclude=("image_size", "edge_weight"))

BASE = {"channels": (48, 128), "encoder_blocks": (0, 2), "decoder_blocks": (1, 4), "patch": 4}
CODEBOOK = {"codebook_size": 2048, "code_width": 16, "warmup_batches": 150}
TINY = {"channels": (32, 64), "encoder_blocks": (0, 1), "decoder_blocks": (0, 1)}


@dataclass(frozen=True)
class TokenizerRecipe:
    """Options of `t2i train vqvae-toybox`, `fsq-toybox` and `dvae-toybox`."""

    data: DataConfig = field(default_factory=DataConfig)
    init_from: str | None = None
    """Image tokenizer of the same kind and sizes to initialise from, such as another run's `latest`; by default weights
    are random."""
    model: ModelOptions = field(default_factory=vqvae_options)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def task(self) -> TokenizerTask:
        return TokenizerTask(self)


@dataclass(frozen=True)
class VQGANRecipe(TokenizerRecipe):
    """Options of `t2i train vqgan-toybox`."""

    perceptual: PerceptualConfig = field(default_factory=partial(PerceptualConfig, perceptual_weight=1.0))
    discriminator: DiscriminatorConfig = field(default_factory=partial(DiscriminatorConfig, discriminator_weight=0.5))

    def task(self) -> VQGANTask:
        return VQGANTask(self)


def vqvae_toybox(preset: str = "base") -> TokenizerRecipe:
    """A VQ-VAE: 128×128 images as 16×16 tokens from a codebook of 2,048.

    base: `t2i train vqvae-toybox --mixed-precision bf16`, 25 minutes on two cores
    tiny: `t2i train vqvae-toybox --preset tiny`, a minute on two cores
    """
    if preset == "tiny":
        model = vqvae_options(**TINY, codebook_size=256, code_width=16, warmup_batches=40)
        return TokenizerRecipe(model=model, loop=_loop("vqvae", tiny=True))
    return TokenizerRecipe(data=TOYBOX, model=vqvae_options(**BASE, **CODEBOOK), loop=_loop("vqvae"))


def fsq_toybox(preset: str = "base") -> TokenizerRecipe:
    """A VQ-VAE with finite scalar quantization: 128×128 images as 16×16 tokens of 1,920.

    base: `t2i train fsq-toybox`
    tiny: `t2i train fsq-toybox --preset tiny`, a minute on two cores
    """
    if preset == "tiny":
        return TokenizerRecipe(model=fsq_options(**TINY, levels=(8, 6, 5)), loop=_loop("fsq", tiny=True))
    model = fsq_options(**BASE, levels=(8, 8, 6, 5))
    return TokenizerRecipe(data=TOYBOX, model=model, loop=_loop("fsq"))


def dvae_toybox(preset: str = "base") -> TokenizerRecipe:
    """A discrete VAE: 128×128 images as 16×16 tokens from a codebook of 2,048.

    base: `t2i train dvae-toybox`
    tiny: `t2i train dvae-toybox --preset tiny`, a minute on two cores
    """
    if preset == "tiny":
        annealing = {"kl_batches": 100, "annealed_batches": 200}
        model = dvae_options(**TINY, codebook_size=256, code_width=16, **annealing)
        return TokenizerRecipe(model=model, loop=_loop("dvae", tiny=True))
    return TokenizerRecipe(data=TOYBOX, model=dvae_options(**BASE, codebook_size=2048), loop=_loop("dvae"))


def vqgan_toybox(preset: str = "base") -> VQGANRecipe:
    """A VQGAN: 128×128 images as 16×16 tokens from a codebook of 2,048, with a perceptual and an adversarial loss.

    base: `t2i train vqgan-toybox --init-from runs/vqvae-toybox/latest --mixed-precision bf16`, an hour on two cores,
    after vqvae-toybox
    tiny: `t2i train vqgan-toybox --preset tiny`, a minute on two cores
    """
    if preset == "tiny":
        model = vqvae_options(**TINY, codebook_size=256, code_width=16, warmup_batches=40)
        small = {"discriminator_channels": (16, 32), "discriminator_start": 40, "discriminator_ramp": 20}
        discriminator = DiscriminatorConfig(discriminator_weight=0.5, **small)
        return VQGANRecipe(model=model, discriminator=discriminator, loop=_loop("vqgan", tiny=True, steps=120))
    return VQGANRecipe(
        data=TOYBOX,
        model=vqvae_options(**BASE, **CODEBOOK),
        perceptual=PerceptualConfig(perceptual_weight=20.0),
        discriminator=DiscriminatorConfig(discriminator_weight=0.2, discriminator_start=1_400, discriminator_ramp=300),
        loop=_loop("vqgan", steps=3_700),
    )


def _loop(name: str, tiny: bool = False, steps: int | None = None) -> LoopConfig:
    if tiny:
        steps = steps or 300
        length = {"max_train_steps": steps, "checkpointing_steps": steps // 3, "lr_warmup_steps": 20}
        return LoopConfig(f"runs/tiny-{name}", train_batch_size=16, **length)
    length = {"max_train_steps": steps or 3_000, "checkpointing_steps": 500}
    return LoopConfig(f"runs/{name}-toybox", train_batch_size=32, optimizer="muon", learning_rate=3e-3, **length)


class TokenizerTask(Task):
    """Trains a model that encodes images as discrete tokens and decodes them."""

    next_command = "t2i train prior-toybox --tokenizer {run}/latest, with the same --data and --image-size"

    def __init__(self, recipe: TokenizerRecipe):
        self.source = recipe.data.open(recipe.loop.seed)
        self.prepare = prepare_image
        torch.manual_seed(recipe.loop.seed)  # the same initial weights on every process
        self.tokenizer: ImageTokenizer = recipe.model.build(image_size=recipe.data.image_size)
        self.model = self.tokenizer
        self.fingerprint = {}
        if recipe.init_from:
            other = open_image_tokenizer(recipe.init_from)
            self.fingerprint["init_from_sha256"] = copy_weights(other, self.tokenizer, recipe.init_from)

    def loss(self, images: Tensor) -> dict[str, Tensor]:
        return self.model.loss(to_tensor(images))

    def preview(self) -> Image.Image:
        tokenizer = self.tokenizer
        return reconstructions(self.source, lambda images: tokenizer.reconstruct(images.to(tokenizer.device)))

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)


class VQGANTask(TokenizerTask):
    """Trains a tokenizer together with a discriminator."""

    def __init__(self, recipe: VQGANRecipe):
        super().__init__(recipe)
        perceptual, network = recipe.perceptual.open()
        self.fingerprint |= network
        adversary = recipe.discriminator.adversary()
        self.model = VQGANObjective(self.tokenizer, recipe.perceptual.perceptual_weight, perceptual, adversary)


def prepare_image(item: dict, rng: np.random.Generator) -> dict:
    """The image only: uint8 (S, S, 3)."""
    return {"images": item["image"]}
