"""The unconditional models: `t2i train BLOCK --data digits|mnist|fashion|toybox|FOLDER`.

Options of a model are its class's arguments, see there. The checkpoint that did best on held-out training pictures is
kept in the run's `best`, with its score on the test pictures: `t2i.blocks.load_block` opens it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from t2i.blocks.autoencoder import Autoencoder
from t2i.blocks.base import Block
from t2i.blocks.gated_pixelcnn import GatedPixelCNN
from t2i.blocks.glow import Glow
from t2i.blocks.hvae import HierarchicalVAE
from t2i.blocks.likelihoods import Pixels
from t2i.blocks.nice import NICE
from t2i.blocks.pixelcnn import PixelCNN
from t2i.blocks.pixelcnn_pp import PixelCNNpp
from t2i.blocks.realnvp import RealNVP
from t2i.blocks.vae import VAE
from t2i.training.block_stage import BlockDataConfig, BlockStage
from t2i.training.config import LoopConfig


@dataclass(frozen=True)
class BlockRecipe:
    """What every block's recipe is made of; each names its own model's options."""

    conditional: bool = False
    """Train p(x | y) on the data's labels."""
    data: BlockDataConfig = field(default_factory=BlockDataConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def stage(self) -> BlockStage:
        return BlockStage(self.data, self.model, self.loop, self.conditional)


@dataclass(frozen=True)
class AutoencoderOptions:
    widths: tuple[int, ...] = (32, 64, 64)
    """Channels of each level, fine to coarse; every level but the first halves the side."""
    blocks: int = 1
    """Residual blocks a level."""
    latent_dim: int = 32
    dropout: float = 0.0

    def make(self, **geometry: int) -> Block:
        return Autoencoder(**geometry, **dataclasses.asdict(self))


@dataclass(frozen=True)
class AutoencoderRecipe(BlockRecipe):
    model: AutoencoderOptions = field(default_factory=AutoencoderOptions)


def autoencoder(preset: str = "base") -> AutoencoderRecipe:
    """Autoencoder: pictures through a few numbers and back.

    base: `t2i train autoencoder --data FOLDER` of 28×28 IDX files
    tiny: `t2i train autoencoder --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        return AutoencoderRecipe(model=AutoencoderOptions((16, 32), latent_dim=8), loop=tiny_loop("autoencoder"))
    return AutoencoderRecipe(loop=base_loop("autoencoder"))


@dataclass(frozen=True)
class VAEOptions:
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

    def make(self, **geometry: int) -> Block:
        return VAE(**geometry, **dataclasses.asdict(self))


@dataclass(frozen=True)
class VAERecipe(BlockRecipe):
    model: VAEOptions = field(default_factory=VAEOptions)


def vae(preset: str = "base") -> VAERecipe:
    """Variational autoencoder of binarised pictures (or of grey and colour ones: --levels 256 --pixels logistic).

    base: `t2i train vae --data FOLDER` of 28×28 IDX files
    tiny: `t2i train vae --preset tiny`, 8×8 digits, half a minute on one core
    """
    data = BlockDataConfig(levels=2)
    if preset == "tiny":
        return VAERecipe(data=data, model=VAEOptions((16, 32), latent_dim=10), loop=tiny_loop("vae"))
    return VAERecipe(data=data, loop=base_loop("vae"))


@dataclass(frozen=True)
class HVAEOptions:
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
    warmup: int = 1000
    """Forward passes in which the KL's weight rises to 1."""
    dropout: float = 0.1

    def make(self, **geometry: int) -> Block:
        return HierarchicalVAE(**geometry, **dataclasses.asdict(self))


@dataclass(frozen=True)
class HVAERecipe(BlockRecipe):
    model: HVAEOptions = field(default_factory=HVAEOptions)


def hvae(preset: str = "base") -> HVAERecipe:
    """Hierarchical variational autoencoder: groups of latents from coarse to fine.

    base: `t2i train hvae --data FOLDER` of 28×28 IDX files
    tiny: `t2i train hvae --preset tiny`, 8×8 digits, half a minute on one core
    """
    data = BlockDataConfig(levels=2)
    if preset == "tiny":
        model = HVAEOptions((16, 32), (1, 1), 2, warmup=50)
        return HVAERecipe(data=data, model=model, loop=tiny_loop("hvae"))
    return HVAERecipe(data=data, loop=base_loop("hvae"))


@dataclass(frozen=True)
class PixelCNNOptions:
    width: int = 32
    """Half of the residual blocks' channels."""
    blocks: int = 7
    """Residual blocks."""
    kernel: int = 3
    """Of the blocks' convolutions."""
    first_kernel: int = 7
    dropout: float = 0.1

    def make(self, **geometry: int) -> Block:
        return PixelCNN(**geometry, **dataclasses.asdict(self))


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
class GatedPixelCNNOptions:
    width: int = 48
    layers: int = 8
    """After the first."""
    kernel: int = 3
    """Of the layers after the first."""
    first_kernel: int = 7
    dropout: float = 0.1

    def make(self, **geometry: int) -> Block:
        return GatedPixelCNN(**geometry, **dataclasses.asdict(self))


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
class PixelCNNppOptions:
    width: int = 48
    resolutions: int = 2
    """Each half of the one before."""
    blocks: int = 2
    """Of each resolution on the way down; one more on the way up."""
    mixtures: int = 10
    """Logistics of a pixel's mixture."""
    dropout: float = 0.2

    def make(self, **geometry: int) -> Block:
        return PixelCNNpp(**geometry, **dataclasses.asdict(self))


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
class NICEOptions:
    couplings: int = 4
    """Additive ones."""
    width: int = 512
    """Of the couplings' networks."""
    hidden: int = 4
    """Layers of a network."""
    alpha: float = 0.0
    """Of the logit before it all; 0: none."""

    def make(self, **geometry: int) -> Block:
        return NICE(**geometry, **dataclasses.asdict(self))


@dataclass(frozen=True)
class NICERecipe(BlockRecipe):
    model: NICEOptions = field(default_factory=NICEOptions)


def nice(preset: str = "base") -> NICERecipe:
    """NICE: additive coupling, of dequantised pictures.

    base: `t2i train nice --data FOLDER` of 28×28 IDX files
    tiny: `t2i train nice --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        return NICERecipe(model=NICEOptions(width=128, hidden=2), loop=tiny_loop("nice"))
    return NICERecipe(loop=base_loop("nice"))


@dataclass(frozen=True)
class RealNVPOptions:
    scales: int = 2
    """How often the side is halved."""
    couplings: int = 3
    """Of each kind at each scale."""
    width: int = 32
    """Of the couplings' residual networks."""
    blocks: int = 2
    """Of a network."""
    bound: float = 2.0
    """Of a coupling's log-scale."""
    alpha: float = 0.05
    """Of the logit before it all; 0: none."""

    def make(self, **geometry: int) -> Block:
        return RealNVP(**geometry, **dataclasses.asdict(self))


@dataclass(frozen=True)
class RealNVPRecipe(BlockRecipe):
    model: RealNVPOptions = field(default_factory=RealNVPOptions)


def realnvp(preset: str = "base") -> RealNVPRecipe:
    """RealNVP: affine coupling at several scales, of dequantised pictures.

    base: `t2i train realnvp --data FOLDER` of 28×28 IDX files
    tiny: `t2i train realnvp --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        return RealNVPRecipe(model=RealNVPOptions(scales=1, couplings=2, width=16, blocks=1), loop=tiny_loop("realnvp"))
    return RealNVPRecipe(loop=base_loop("realnvp"))


@dataclass(frozen=True)
class GlowOptions:
    scales: int = 2
    """Levels of resolution."""
    steps: int = 8
    """Of flow at each."""
    width: int = 64
    """Of the couplings' networks."""
    bound: float = 2.0
    """Of a coupling's log-scale."""
    alpha: float = 0.0
    """Of the logit before it all; 0: none."""

    def make(self, **geometry: int) -> Block:
        return Glow(**geometry, **dataclasses.asdict(self))


@dataclass(frozen=True)
class GlowRecipe(BlockRecipe):
    model: GlowOptions = field(default_factory=GlowOptions)


def glow(preset: str = "base") -> GlowRecipe:
    """Glow: activation norms and invertible 1×1 convolutions, of dequantised pictures.

    base: `t2i train glow --data FOLDER` of 28×28 IDX files
    tiny: `t2i train glow --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        return GlowRecipe(model=GlowOptions(steps=3, width=32), loop=tiny_loop("glow"))
    return GlowRecipe(loop=base_loop("glow"))


def tiny_loop(name: str, learning_rate: float = 2e-3) -> LoopConfig:
    steps = {"max_train_steps": 200, "checkpointing_steps": 50, "lr_warmup_steps": 20, "train_batch_size": 64}
    return LoopConfig(f"runs/tiny-{name}", learning_rate=learning_rate, **steps)


def base_loop(name: str, learning_rate: float = 1e-3, batch: int = 64) -> LoopConfig:
    steps = {"max_train_steps": 10_000, "checkpointing_steps": 250}
    return LoopConfig(f"runs/{name}", learning_rate=learning_rate, train_batch_size=batch, **steps)
