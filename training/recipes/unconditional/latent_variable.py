"""Recipes of the autoencoder and the variational autoencoders; see recipes/unconditional/base.py."""

from __future__ import annotations

from t2i.models.latent_variable.autoencoder import Autoencoder
from t2i.models.latent_variable.hierarchical_vae import HierarchicalVAE
from t2i.models.latent_variable.vae import VAE
from t2i.training.model_options import model_options
from t2i.training.recipes.unconditional.base import UnconditionalRecipe, base_loop, tiny_loop
from t2i.training.unconditional import UnconditionalDataConfig


def autoencoder(preset: str = "base") -> UnconditionalRecipe:
    """Autoencoder: images compressed to a low-dimensional code and reconstructed.

    base: `t2i train autoencoder --data FOLDER`, for images of 28×28 such as MNIST's
    tiny: `t2i train autoencoder --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        model = model_options(Autoencoder, widths=(16, 32), latent_dim=8)
        return UnconditionalRecipe(model, loop=tiny_loop("autoencoder"))
    return UnconditionalRecipe(model_options(Autoencoder), loop=base_loop("autoencoder"))


def vae(preset: str = "base") -> UnconditionalRecipe:
    """Variational autoencoder of binarised images (greyscale and colour: --levels 256 --pixels logistic).

    base: `t2i train vae --data FOLDER`, for images of 28×28 such as MNIST's
    tiny: `t2i train vae --preset tiny`, 8×8 digits, half a minute on one core
    """
    data = UnconditionalDataConfig(levels=2)
    if preset == "tiny":
        model = model_options(VAE, widths=(16, 32), latent_dim=10)
        return UnconditionalRecipe(model, data=data, loop=tiny_loop("vae"))
    return UnconditionalRecipe(model_options(VAE), data=data, loop=base_loop("vae"))


def hvae(preset: str = "base") -> UnconditionalRecipe:
    """Hierarchical variational autoencoder: groups of latents, from coarse to fine.

    base: `t2i train hvae --data FOLDER`, for images of 28×28 such as MNIST's
    tiny: `t2i train hvae --preset tiny`, 8×8 digits, half a minute on one core
    """
    data = UnconditionalDataConfig(levels=2)
    if preset == "tiny":
        model = model_options(HierarchicalVAE, widths=(16, 32), groups=(1, 1), latent_channels=2)
        return UnconditionalRecipe(model, data=data, loop=tiny_loop("hvae"))
    return UnconditionalRecipe(model_options(HierarchicalVAE), data=data, loop=base_loop("hvae"))
