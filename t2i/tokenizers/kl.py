"""The KL autoencoder of latent diffusion, which encodes an image as a small grid of latents.

Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", arXiv 2112.10752, §3.1.

The network is diffusers' `AutoencoderKL`, so that trained models load in any of its pipelines; this module adds the
training objective and the interface of an image tokenizer.
Shapes: B batch · 3 channels · S image side · C latent channels · s = S / stride side of the latents
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from t2i.images import check_images
from t2i.tokenizers.adversarial import Adversary
from t2i.tokenizers.losses import image_loss
from t2i.tokenizers.perceptual import PerceptualLoss

Autoencoder = TypeVar("Autoencoder", AutoencoderKL, AutoencoderTiny)

GROUPS = 8  # number of groups of the group norms


def make_autoencoder(
    image_size: int = 64,
    channels: tuple[int, ...] = (16, 32, 64, 128),
    layers: int = 1,
    latent_channels: int = 8,
    attention: bool = True,
    linear_levels: int = 0,
) -> AutoencoderKL:
    """A new `AutoencoderKL`.

    Args:
        image_size: Side of the training images; any multiple of the stride can be encoded.
        channels: Channels of each level, from fine to coarse; every level but the first halves the resolution.
        layers: Residual blocks per level of the encoder; the decoder has one more per level.
        latent_channels: Number of latent channels.
        attention: Use self-attention in the middle blocks.
        linear_levels: Number of levels, from fine to coarse, whose residual blocks are the identity (see
            `IdentityBlock`): these blocks take most of the time and few of the weights.

    Raises ValueError for channels that the group norms cannot divide, an image size that the stride does not divide,
    and more linear levels than there are.
    """
    if not channels or any(c < GROUPS or c % GROUPS for c in channels):
        raise ValueError(f"channels must be multiples of {GROUPS}, at least one of them, not {tuple(channels)}")
    if image_size % (stride := 2 ** (len(channels) - 1)):
        raise ValueError(f"image_size {image_size} is not divisible by the stride {stride}")
    if not 0 <= linear_levels <= len(channels):
        raise ValueError(f"linear_levels must be from 0 to {len(channels)}, the number of levels, not {linear_levels}")
    model = AutoencoderKL(
        block_out_channels=tuple(channels),
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=layers,
        latent_channels=latent_channels,
        norm_num_groups=GROUPS,
        sample_size=image_size,
        scaling_factor=1.0,
        mid_block_add_attention=attention,
    )
    for level in range(linear_levels):
        for block in _blocks_of(model, level):
            _make_identity(block)
    return make_fast(model)


class IdentityBlock(ResnetBlock2D):
    """A residual block whose last convolution is zero. It has the weights of any other, but computes only the shortcut.

    The identity, or, between different numbers of channels, a linear map of each pixel.
    """

    def forward(self, input_tensor: Tensor, temb: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)"""
        shortcut = input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor)
        return shortcut / self.output_scale_factor


def make_fast(autoencoder: Autoencoder) -> Autoencoder:
    """The same autoencoder with the same results, which from now on computes them faster. Files store nothing of this.

    The memory format is channels-last, which is faster on a CPU and no slower on a GPU, and residuals that are zero
    whatever the image is are no longer computed: at full resolution they would take most of the time.
    """
    for module in autoencoder.modules():
        if type(module) is ResnetBlock2D and _is_zero(module.conv2):
            module.__class__ = IdentityBlock
    return autoencoder.to(memory_format=torch.channels_last)


def _is_zero(layer: nn.Conv2d) -> bool:
    here = not any(p.is_meta for p in layer.parameters())  # as those of an offloaded model are
    return here and not any(p.any() for p in layer.parameters())


def _blocks_of(autoencoder: AutoencoderKL, level: int) -> list[ResnetBlock2D]:
    """The residual blocks of one level, 0 at full resolution."""
    encoder, decoder = autoencoder.encoder.down_blocks[level], autoencoder.decoder.up_blocks[-1 - level]
    return [*encoder.resnets, *decoder.resnets]


def _make_identity(block: ResnetBlock2D) -> None:
    nn.init.zeros_(block.conv2.weight)
    nn.init.zeros_(block.conv2.bias)
    for part in (block.norm1, block.conv1, block.norm2, block.conv2):
        part.requires_grad_(False)


def stride_of(autoencoder: AutoencoderKL | AutoencoderTiny) -> int:
    """The downsampling factor between images and latents."""
    return 2 ** (len(autoencoder.config.block_out_channels) - 1)


def posterior(autoencoder: AutoencoderKL, images: Tensor) -> DiagonalGaussianDistribution:
    """(B, 3, S, S) in [-1, 1] -> Gaussian posterior over unscaled latents (B, C, s, s), in float32.

    Raises ValueError for images of another shape or range.
    """
    check_images(images, stride_of(autoencoder))
    images = images.to(autoencoder.dtype).contiguous(memory_format=torch.channels_last)
    # In half precision, exp(log-variance) and its sum over the latents would be too inaccurate.
    return DiagonalGaussianDistribution(autoencoder.encode(images).latent_dist.parameters.float())


def encode(
    autoencoder: AutoencoderKL | AutoencoderTiny,
    images: Tensor,
    generator: torch.Generator | None = None,
    sample: bool = True,
) -> Tensor:
    """(B, 3, S, S) in [-1, 1] -> latents (B, C, s, s), scaled, in float32.

    Args:
        generator: generator for sampling; by default torch's.
        sample: whether to sample from the posterior instead of taking its mean; ignored without one (TAESD).

    Raises ValueError for images of another shape or range.
    """
    if isinstance(autoencoder, AutoencoderTiny):
        check_images(images, stride_of(autoencoder))
        latents = autoencoder.encode(images.to(autoencoder.dtype)).latents.float()
    else:
        q = posterior(autoencoder, images)
        latents = q.sample(generator) if sample else q.mode()
    return latents * autoencoder.config.scaling_factor


class KLObjective(nn.Module):
    """The autoencoder with its training objective: pixel + perceptual + adversarial loss + kl_weight · KL.

    Args:
        autoencoder: The network.
        kl_weight: Weight of the KL divergence from the standard normal, summed over an image's latents (the
            reconstruction loss is averaged over pixels; with a sum, as in the paper, the equivalent weight is 3·S²
            times as large).
        edge_weight: Weight of the loss on differences between neighbouring pixels, see `reconstruction_loss`.
        perceptual_weight: Weight of the perceptual loss; 0: none.
        perceptual: The perceptual loss, or None.
        adversary: The discriminator with its losses, or None.
    """

    def __init__(
        self,
        autoencoder: AutoencoderKL,
        kl_weight: float = 1e-6,
        edge_weight: float = 1.0,
        perceptual_weight: float = 0.0,
        perceptual: PerceptualLoss | None = None,
        adversary: Adversary | None = None,
    ):
        super().__init__()
        if min(kl_weight, edge_weight, perceptual_weight) < 0:
            raise ValueError(f"weights must not be negative: {kl_weight=}, {edge_weight=}, {perceptual_weight=}")
        self.autoencoder, self.adversary = autoencoder, adversary
        self._perceptual = (perceptual,)  # not a submodule: it is not trained, averaged or saved
        self.kl_weight, self.edge_weight, self.perceptual_weight = kl_weight, edge_weight, perceptual_weight

    def enable_gradient_checkpointing(self) -> None:
        self.autoencoder.enable_gradient_checkpointing()

    def loss(self, images: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Scalars: `loss` to minimise, and its components; KL in nats per image.

        Args:
            images: (B, 3, S, S) in [-1, 1].
            noise: (B, C, s, s), standard normal, for sampling the latents.

        Raises ValueError as `posterior` does, and for noise of another shape than the latents'.
        """
        q = posterior(self.autoencoder, images)
        if noise.shape != q.mean.shape:
            raise ValueError(f"noise must have the latents' shape {tuple(q.mean.shape)}, not {tuple(noise.shape)}")
        latents = q.mean + q.std * noise
        recon = self.autoencoder.decode(latents.to(self.autoencoder.dtype)).sample
        last_layer, extra = self.autoencoder.decoder.conv_out.weight, (*self._perceptual, self.perceptual_weight)
        losses, kl = image_loss(recon, images, last_layer, self.edge_weight, *extra, self.adversary), q.kl().mean()
        return losses | {"loss": losses["loss"] + self.kl_weight * kl, "kl": kl.detach()}


class KLTokenizer(nn.Module):
    """Images ⇄ latents of standard deviation 1: the autoencoder with its scaling factor."""

    def __init__(self, autoencoder: AutoencoderKL):
        super().__init__()
        self.autoencoder = autoencoder

    @classmethod
    def from_pretrained(cls, folder: str, **kwargs) -> KLTokenizer:
        """The `AutoencoderKL` in `folder` or on the Hub, frozen. Arguments and errors are those of diffusers."""
        return cls(make_fast(AutoencoderKL.from_pretrained(folder, **kwargs))).eval().requires_grad_(False)

    @property
    def config(self):
        return self.autoencoder.config

    @property
    def device(self) -> torch.device:
        return self.autoencoder.device

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> scaled latents (B, C, s, s), sampled with `generator`, or the mean without one.

        Raises ValueError for images of another shape or range.
        """
        return encode(self.autoencoder, images, generator, sample=generator is not None)

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, s, s) -> images (B, 3, S, S) in [-1, 1]. Raises ValueError for another shape."""
        if latents.ndim != 4 or latents.shape[1] != self.config.latent_channels:
            raise ValueError(
                f"latents must have the shape (B, {self.config.latent_channels}, s, s), not {tuple(latents.shape)}"
            )
        z = (latents / self.config.scaling_factor).to(self.autoencoder.dtype)
        return self.autoencoder.decode(z).sample.clamp(-1, 1)

    def reconstruct(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> reconstructions from the posterior mean, of the same shape."""
        return self.decode(self.encode(images))


@torch.no_grad()
def measure_scaling_factor(autoencoder: AutoencoderKL, batches: Iterable[Tensor], seed: int = 0) -> float:
    """1 / standard deviation of the latents of `batches`, each of images (B, 3, S, S) in [-1, 1].

    Computed over all channels and positions, as in the paper's appendix G, from samples of the posterior, not its mean.
    Raises ValueError for no images, or constant latents.
    """
    generator = torch.Generator().manual_seed(seed)  # separate, so as not to advance the run's generator
    latents = [posterior(autoencoder, images.to(autoencoder.device)).sample(generator) for images in batches]
    if not latents:
        raise ValueError("the scaling factor needs at least one batch of images")
    std = torch.cat(latents).cpu().double().std().item()  # on the CPU: not every device has float64
    if not std > 0:
        raise ValueError("the latents are all the same, so they have no scale: train the autoencoder first")
    return 1 / std
