"""Recipes of the normalizing flows; see recipes/unconditional/base.py."""

from __future__ import annotations

from t2i.models.flows.glow import Glow
from t2i.models.flows.nice import NICE
from t2i.models.flows.realnvp import RealNVP
from t2i.training.model_options import model_options
from t2i.training.recipes.unconditional.base import UnconditionalRecipe, base_loop, tiny_loop


def nice(preset: str = "base") -> UnconditionalRecipe:
    """NICE: additive coupling layers, trained on dequantised images.

    base: `t2i train nice --data FOLDER`, for images of 28×28 such as MNIST's
    tiny: `t2i train nice --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        return UnconditionalRecipe(model_options(NICE, width=128, hidden=2), loop=tiny_loop("nice"))
    return UnconditionalRecipe(model_options(NICE), loop=base_loop("nice"))


def realnvp(preset: str = "base") -> UnconditionalRecipe:
    """RealNVP: multi-scale affine coupling layers, trained on dequantised images.

    base: `t2i train realnvp --data FOLDER`, for images of 28×28 such as MNIST's
    tiny: `t2i train realnvp --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        model = model_options(RealNVP, scales=1, couplings=2, width=16, blocks=1)
        return UnconditionalRecipe(model, loop=tiny_loop("realnvp"))
    return UnconditionalRecipe(model_options(RealNVP), loop=base_loop("realnvp"))


def glow(preset: str = "base") -> UnconditionalRecipe:
    """Glow: actnorm and invertible 1×1 convolutions, trained on dequantised images.

    base: `t2i train glow --data FOLDER`, for images of 28×28 such as MNIST's
    tiny: `t2i train glow --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        return UnconditionalRecipe(model_options(Glow, steps=3, width=32), loop=tiny_loop("glow"))
    return UnconditionalRecipe(model_options(Glow), loop=base_loop("glow"))
