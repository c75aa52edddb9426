"""Recipes of models that predict each pixel from the preceding ones; see recipes/unconditional/base.py."""

from __future__ import annotations

from t2i.models.autoregressive.gated_pixelcnn import GatedPixelCNN
from t2i.models.autoregressive.pixelcnn import PixelCNN
from t2i.models.autoregressive.pixelcnn_pp import PixelCNNpp
from t2i.models.autoregressive.pixelrnn import PixelRNN
from t2i.training.model_options import model_options
from t2i.training.recipes.unconditional.base import UnconditionalRecipe, base_loop, tiny_loop
from t2i.training.unconditional import UnconditionalDataConfig


def pixelcnn(preset: str = "base") -> UnconditionalRecipe:
    """PixelCNN: masked convolutions, on binarised images (more levels with --levels).

    base: `t2i train pixelcnn --data FOLDER`, for images of 28×28 such as MNIST's
    tiny: `t2i train pixelcnn --preset tiny`, 8×8 digits, half a minute on one core
    """
    data = UnconditionalDataConfig(levels=2)
    if preset == "tiny":
        model = model_options(PixelCNN, width=16, blocks=3, first_kernel=5)
        return UnconditionalRecipe(model, data=data, loop=tiny_loop("pixelcnn"))
    return UnconditionalRecipe(model_options(PixelCNN), data=data, loop=base_loop("pixelcnn", batch=32))


def gated_pixelcnn(preset: str = "base") -> UnconditionalRecipe:
    """Gated PixelCNN, without a blind spot, on binarised images (more levels with --levels).

    base: `t2i train gated-pixelcnn --data FOLDER`, for images of 28×28 such as MNIST's
    tiny: `t2i train gated-pixelcnn --preset tiny`, 8×8 digits, half a minute on one core
    """
    data = UnconditionalDataConfig(levels=2)
    if preset == "tiny":
        model = model_options(GatedPixelCNN, width=16, layers=3, kernel=3, first_kernel=5)
        return UnconditionalRecipe(model, data=data, loop=tiny_loop("gated-pixelcnn"))
    return UnconditionalRecipe(model_options(GatedPixelCNN), data=data, loop=base_loop("gated-pixelcnn", batch=32))


def pixelcnn_pp(preset: str = "base") -> UnconditionalRecipe:
    """PixelCNN++: mixtures of discretised logistics, for images with many levels.

    base: `t2i train pixelcnn-pp --data FOLDER`, for images of 28×28 such as MNIST's
    tiny: `t2i train pixelcnn-pp --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        model = model_options(PixelCNNpp, width=16, blocks=1, mixtures=5)
        return UnconditionalRecipe(model, loop=tiny_loop("pixelcnn-pp"))
    return UnconditionalRecipe(model_options(PixelCNNpp), loop=base_loop("pixelcnn-pp", batch=32))


def pixelrnn(preset: str = "base") -> UnconditionalRecipe:
    """PixelRNN: LSTMs over rows or (--kind diagonal) diagonals, on binarised images (more levels with --levels).

    base: `t2i train pixelrnn --data FOLDER`, for images of 28×28 such as MNIST's
    tiny: `t2i train pixelrnn --preset tiny`, 8×8 digits, half a minute on one core
    """
    data = UnconditionalDataConfig(levels=2)
    if preset == "tiny":
        model = model_options(PixelRNN, blocks=3, first_kernel=5)
        return UnconditionalRecipe(model, data=data, loop=tiny_loop("pixelrnn"))
    return UnconditionalRecipe(model_options(PixelRNN), data=data, loop=base_loop("pixelrnn", batch=32))
