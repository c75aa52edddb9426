"""Models that predict one pixel from those before it: see recipes/block.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from t2i.blocks.gated_pixelcnn import GatedPixelCNN
from t2i.blocks.pixelcnn import PixelCNN
from t2i.blocks.pixelcnn_pp import PixelCNNpp
from t2i.blocks.pixelrnn import Kind, PixelRNN
from t2i.training.block_stage import BlockDataConfig, BlockOptions
from t2i.training.recipes.block import BlockRecipe, base_loop, tiny_loop


@dataclass(frozen=True)
class PixelCNNOptions(BlockOptions):
    block: ClassVar = PixelCNN

    width: int = 32
    """Half of the residual blocks' channels."""
    blocks: int = 7
    """Residual blocks."""
    kernel: int = 3
    """Of the blocks' convolutions."""
    first_kernel: int = 7
    dropout: float = 0.1


@dataclass(frozen=True)
class PixelCNNRecipe(BlockRecipe):
    model: PixelCNNOptions = field(default_factory=PixelCNNOptions)


def pixelcnn(preset: str = "base") -> PixelCNNRecipe:
    """Masked convolutions over pixels, of binarised pictures or with --levels more.

    base: `t2i train pixelcnn --data FOLDER` of 28×28 IDX files
    tiny: `t2i train pixelcnn --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        return PixelCNNRecipe(
            data=BlockDataConfig(levels=2),
            model=PixelCNNOptions(16, blocks=3, first_kernel=5),
            loop=tiny_loop("pixelcnn"),
        )
    return PixelCNNRecipe(data=BlockDataConfig(levels=2), loop=base_loop("pixelcnn", batch=32))


@dataclass(frozen=True)
class GatedPixelCNNOptions(BlockOptions):
    block: ClassVar = GatedPixelCNN

    width: int = 48
    layers: int = 8
    """After the first."""
    kernel: int = 3
    """Of the layers after the first."""
    first_kernel: int = 7
    dropout: float = 0.1


@dataclass(frozen=True)
class GatedPixelCNNRecipe(BlockRecipe):
    model: GatedPixelCNNOptions = field(default_factory=GatedPixelCNNOptions)


def gated_pixelcnn(preset: str = "base") -> GatedPixelCNNRecipe:
    """Gated PixelCNN without a blind spot, of binarised pictures or with --levels more.

    base: `t2i train gated-pixelcnn --data FOLDER` of 28×28 IDX files
    tiny: `t2i train gated-pixelcnn --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        return GatedPixelCNNRecipe(
            data=BlockDataConfig(levels=2),
            model=GatedPixelCNNOptions(16, layers=3, first_kernel=5),
            loop=tiny_loop("gated-pixelcnn"),
        )
    return GatedPixelCNNRecipe(data=BlockDataConfig(levels=2), loop=base_loop("gated-pixelcnn", batch=32))


@dataclass(frozen=True)
class PixelCNNppOptions(BlockOptions):
    block: ClassVar = PixelCNNpp

    width: int = 48
    resolutions: int = 2
    """Each half of the one before."""
    blocks: int = 2
    """Of each resolution on the way down; one more on the way up."""
    mixtures: int = 10
    """Logistics of a pixel's mixture."""
    dropout: float = 0.2


@dataclass(frozen=True)
class PixelCNNppRecipe(BlockRecipe):
    model: PixelCNNppOptions = field(default_factory=PixelCNNppOptions)


def pixelcnn_pp(preset: str = "base") -> PixelCNNppRecipe:
    """PixelCNN++: mixtures of discretised logistics, for pictures of many levels.

    base: `t2i train pixelcnn-pp --data FOLDER` of 28×28 IDX files
    tiny: `t2i train pixelcnn-pp --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        return PixelCNNppRecipe(model=PixelCNNppOptions(16, blocks=1, mixtures=5), loop=tiny_loop("pixelcnn-pp"))
    return PixelCNNppRecipe(loop=base_loop("pixelcnn-pp", batch=32))


@dataclass(frozen=True)
class PixelRNNOptions(BlockOptions):
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


@dataclass(frozen=True)
class PixelRNNRecipe(BlockRecipe):
    model: PixelRNNOptions = field(default_factory=PixelRNNOptions)


def pixelrnn(preset: str = "base") -> PixelRNNRecipe:
    """LSTMs over pixels, row by row or (--kind diagonal) by diagonals, of binarised pictures or with --levels more.

    base: `t2i train pixelrnn --data FOLDER` of 28×28 IDX files
    tiny: `t2i train pixelrnn --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        return PixelRNNRecipe(
            data=BlockDataConfig(levels=2),
            model=PixelRNNOptions(blocks=3, first_kernel=5),
            loop=tiny_loop("pixelrnn"),
        )
    return PixelRNNRecipe(data=BlockDataConfig(levels=2), loop=base_loop("pixelrnn", batch=32))
