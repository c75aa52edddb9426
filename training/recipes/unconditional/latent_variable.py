"""Autoencoders, with a likelihood or without: see recipes/unconditional/base.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from t2i.models.latent_variable.autoencoder import Autoencoder
from t2i.models.latent_variable.hierarchical_vae import HierarchicalVAE
from t2i.models.latent_variable.vae import VAE
from t2i.models.pixel_likelihoods import Pixels
from t2i.training.recipes.unconditional.base import UnconditionalRecipe, base_loop, tiny_loop
from t2i.training.unconditional import ModelOptions, UnconditionalDataConfig


@dataclass(frozen=True)
class AutoencoderOptions(ModelOptions):
    block: ClassVar = Autoencoder

    widths: tuple[int, ...] = (32, 64, 64)
    """Channels of each level, fine to coarse; every level but the first halves the side."""
    blocks: int = 1
    """Residual blocks a level."""
    latent_dim: int = 32
    dropout: float = 0.0


def autoencoder(preset: str = "base") -> UnconditionalRecipe:
    """Autoencoder: pictures through a few numbers and back.

    base: `t2i train autoencoder --data FOLDER` of 28×28 IDX files
    tiny: `t2i train autoencoder --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        return UnconditionalRecipe(AutoencoderOptions((16, 32), latent_dim=8), loop=tiny_loop("autoencoder"))
    return UnconditionalRecipe(AutoencoderOptions(), loop=base_loop("autoencoder"))


class _PixelOptions(ModelOptions):
    """Of a model whose `pixels` are of two levels or of more."""

    pixels: Pixels

    def for_levels(self, levels: int) -> Self:
        return replace(self, pixels="logistic") if self.pixels == "bernoulli" and levels > 2 else self


@dataclass(frozen=True)
class VAEOptions(_PixelOptions):
    block: ClassVar = VAE

    widths: tuple[int, ...] = (32, 64, 64)
    """Channels of each level, fine to coarse; every level but the first halves the side."""
    blocks: int = 1
    """Residual blocks a level."""
    latent_dim: int = 50
    pixels: Pixels = "bernoulli"
    """How pixels are distributed: 'bernoulli' for --levels 2, 'gaussian' or 'logistic' for more."""
    beta: float = 1.0
    """Of the KL in the loss."""
    dropout: float = 0.1
    train_samples: int = 1
    """More than 1 trains the importance-weighted bound."""


def vae(preset: str = "base") -> UnconditionalRecipe:
    """Variational autoencoder of binarised pictures (or of grey and colour ones: --levels 256 --pixels logistic).

    base: `t2i train vae --data FOLDER` of 28×28 IDX files
    tiny: `t2i train vae --preset tiny`, 8×8 digits, half a minute on one core
    """
    data = UnconditionalDataConfig(levels=2)
    if preset == "tiny":
        return UnconditionalRecipe(VAEOptions((16, 32), latent_dim=10), data=data, loop=tiny_loop("vae"))
    return UnconditionalRecipe(VAEOptions(), data=data, loop=base_loop("vae"))


@dataclass(frozen=True)
class HVAEOptions(_PixelOptions):
    block: ClassVar = HierarchicalVAE

    widths: tuple[int, ...] = (32, 64, 64)
    """Channels of each level, fine to coarse; every level but the first halves the side."""
    groups: tuple[int, ...] = (1, 2, 3)
    """Groups of latents at each level."""
    latent_channels: int = 4
    """Of a group."""
    blocks: int = 1
    """Residual blocks a level of the bottom-up network."""
    pixels: Pixels = "bernoulli"
    """How pixels are distributed: 'bernoulli' for --levels 2, 'gaussian' or 'logistic' for more."""
    free_nats: float = 0.0
    """A group's KL below this costs nothing more."""
    warmup: float = 0.2
    """Share of the training, from its start, in which the KL's weight rises to 1."""
    dropout: float = 0.1


def hvae(preset: str = "base") -> UnconditionalRecipe:
    """Hierarchical variational autoencoder: groups of latents from coarse to fine.

    base: `t2i train hvae --data FOLDER` of 28×28 IDX files
    tiny: `t2i train hvae --preset tiny`, 8×8 digits, half a minute on one core
    """
    data = UnconditionalDataConfig(levels=2)
    if preset == "tiny":
        model = HVAEOptions((16, 32), (1, 1), 2)
        return UnconditionalRecipe(model, data=data, loop=tiny_loop("hvae"))
    return UnconditionalRecipe(HVAEOptions(), data=data, loop=base_loop("hvae"))
