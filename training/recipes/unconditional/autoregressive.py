"""Models that predict one pixel from those before it: see recipes/unconditional/base.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from t2i.models.autoregressive.gated_pixelcnn import GatedPixelCNN
from t2i.models.autoregressive.pixelcnn import PixelCNN
from t2i.models.autoregressive.pixelcnn_pp import PixelCNNpp
from t2i.models.autoregressive.pixelrnn import Kind, PixelRNN
from t2i.training.recipes.unconditional.base import UnconditionalRecipe, base_loop, tiny_loop
from t2i.training.unconditional import ModelOptions, UnconditionalDataConfig


@dataclass(frozen=True)
class PixelCNNOptions(ModelOptions):
    block: ClassVar = PixelCNN

    width: int = 32
    """Half of the residual blocks' channels."""
    blocks: int = 7
    """Residual blocks."""
    kernel: int = 3
    """Of the blocks' convolutions."""
    first_kernel: int = 7
    dropout: float = 0.1


def pixelcnn(preset: str = "base") -> UnconditionalRecipe:
    """Masked convolutions over pixels, of binarised pictures or with --levels more.

    base: `t2i train pixelcnn --data FOLDER` of 28×28 IDX files
    tiny: `t2i train pixelcnn --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        return UnconditionalRecipe(
            PixelCNNOptions(16, blocks=3, first_kernel=5),
            data=UnconditionalDataConfig(levels=2),
            loop=tiny_loop("pixelcnn"),
        )
    return UnconditionalRecipe(
        PixelCNNOptions(), data=UnconditionalDataConfig(levels=2), loop=base_loop("pixelcnn", batch=32)
    )


@dataclass(frozen=True)
class GatedPixelCNNOptions(ModelOptions):
    block: ClassVar = GatedPixelCNN

    width: int = 32
    layers: int = 8
    """After the first."""
    kernel: int = 5
    """Of the layers after the first. Each looks kernel // 2 rows further up: where all do not reach over a whole digit,
    samples begin a second one below it."""
    first_kernel: int = 7
    dropout: float = 0.1


def gated_pixelcnn(preset: str = "base") -> UnconditionalRecipe:
    """Gated PixelCNN without a blind spot, of binarised pictures or with --levels more.

    base: `t2i train gated-pixelcnn --data FOLDER` of 28×28 IDX files
    tiny: `t2i train gated-pixelcnn --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        return UnconditionalRecipe(
            GatedPixelCNNOptions(16, layers=3, kernel=3, first_kernel=5),
            data=UnconditionalDataConfig(levels=2),
            loop=tiny_loop("gated-pixelcnn"),
        )
    return UnconditionalRecipe(
        GatedPixelCNNOptions(), data=UnconditionalDataConfig(levels=2), loop=base_loop("gated-pixelcnn", batch=32)
    )


@dataclass(frozen=True)
class PixelCNNppOptions(ModelOptions):
    block: ClassVar = PixelCNNpp

    width: int = 48
    resolutions: int = 2
    """Each half of the one before."""
    blocks: int = 2
    """Of each resolution on the way down; one more on the way up."""
    mixtures: int = 10
    """Logistics of a pixel's mixture."""
    dropout: float = 0.2


def pixelcnn_pp(preset: str = "base") -> UnconditionalRecipe:
    """PixelCNN++: mixtures of discretised logistics, for pictures of many levels.

    base: `t2i train pixelcnn-pp --data FOLDER` of 28×28 IDX files
    tiny: `t2i train pixelcnn-pp --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        return UnconditionalRecipe(PixelCNNppOptions(16, blocks=1, mixtures=5), loop=tiny_loop("pixelcnn-pp"))
    return UnconditionalRecipe(PixelCNNppOptions(), loop=base_loop("pixelcnn-pp", batch=32))


@dataclass(frozen=True)
class PixelRNNOptions(ModelOptions):
    block: ClassVar = PixelRNN

    kind: Kind = "row"
    """LSTMs over the rows, which see a triangle of pixels, or over the diagonals, which see nearly all before and take
    three times as long."""
    width: int = 16
    """Of the LSTMs, half of what is between them."""
    blocks: int = 7
    """LSTMs."""
    first_kernel: int = 7
    dropout: float = 0.1


def pixelrnn(preset: str = "base") -> UnconditionalRecipe:
    """LSTMs over pixels, row by row or (--kind diagonal) by diagonals, of binarised pictures or with --levels more.

    base: `t2i train pixelrnn --data FOLDER` of 28×28 IDX files
    tiny: `t2i train pixelrnn --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        return UnconditionalRecipe(
            PixelRNNOptions(blocks=3, first_kernel=5),
            data=UnconditionalDataConfig(levels=2),
            loop=tiny_loop("pixelrnn"),
        )
    return UnconditionalRecipe(
        PixelRNNOptions(), data=UnconditionalDataConfig(levels=2), loop=base_loop("pixelrnn", batch=32)
    )
