"""VQ-VAE, which encodes an image as a grid of codes (van den Oord et al. 2017, arXiv 1711.00937).

Shapes: B batch · 3 channels · S image side · s = S / stride grid side · D code width · K codes
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from t2i.images import check_images
from t2i.nn.blocks import ResBlock
from t2i.tokenizers.losses import reconstruction_loss
from t2i.tokenizers.quantizer import EMAQuantizer


class VQVAE(ModelMixin, ConfigMixin):
    """Convolutional encoder, vector quantiser and decoder; every level of `channels` halves the side.

    Args:
        image_size: Side of the square training images; any multiple of the stride can be encoded.
        channels: Channels of each level, from fine to coarse; every level halves the resolution.
        encoder_blocks: Number of residual blocks at each level of the encoder.
        decoder_blocks: Number of residual blocks at each level of the decoder.
        codebook_size: Number of codebook entries, K.
        code_width: Dimensions of a codebook vector, D.
        commitment_cost: Weight of the commitment loss, which keeps the encoder's outputs close to their codebook
            vectors, β of eq. 3.
        edge_weight: Weight of the edge term of the reconstruction loss, which keeps contours sharp.
        codebook_decay: Decay of the quantizer's moving averages.
        warmup_batches: Number of forward passes before quantization starts; until then the model is a plain
            autoencoder.
    """

    _supports_gradient_checkpointing = True
    _keep_in_fp32_modules = ("quantizer",)  # its counts would overflow float16

    @register_to_config
    def __init__(
        self,
        image_size: int = 64,
        channels: tuple[int, ...] = (64, 128, 192),
        encoder_blocks: tuple[int, ...] = (0, 1, 2),
        decoder_blocks: tuple[int, ...] = (1, 2, 2),
        codebook_size: int = 1024,
        code_width: int = 32,
        commitment_cost: float = 0.25,
        edge_weight: float = 1.0,
        codebook_decay: float = 0.99,
        warmup_batches: int = 0,
    ):
        super().__init__()
        if not len(channels) == len(encoder_blocks) == len(decoder_blocks):
            raise ValueError("channels, encoder_blocks and decoder_blocks must have one number for each level")
        if image_size % 2 ** len(channels):
            raise ValueError(f"image_size {image_size} is not divisible by the stride {2 ** len(channels)}")
        self.gradient_checkpointing = False
        self.stride = 2 ** len(channels)
        self.grid_size = image_size // self.stride
        self.encoder = _encoder(channels, encoder_blocks, code_width)
        self.quantizer = EMAQuantizer(codebook_size, code_width, codebook_decay, warmup_batches=warmup_batches)
        self.decoder = _decoder(channels, decoder_blocks, code_width)
        self.to(memory_format=torch.channels_last)  # twice as fast on a CPU at these widths, never slower on a GPU

    @classmethod
    def from_pretrained(cls, *args, **kwargs) -> VQVAE | tuple[VQVAE, dict]:
        """As in diffusers, with the channels-last memory format, which files do not store."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info
        model.to(memory_format=torch.channels_last)
        return loaded

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> codes (B, s, s), integers in [0, K).

        Raises ValueError for another number of axes or channels, a side that the stride does not divide, or values
        outside the range.
        """
        check_images(images, self.stride)
        z = self._latents(images)
        B, D, h, w = z.shape
        return self.quantizer.nearest(z.permute(0, 2, 3, 1).reshape(-1, D)).view(B, h, w)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, s, s) -> images (B, 3, S, S) in [-1, 1]. Raises ValueError for codes outside the codebook."""
        K = self.config.codebook_size
        if codes.ndim != 3 or codes.is_floating_point():
            raise ValueError(f"codes must be integers of shape (B, s, s), not {codes.dtype} {tuple(codes.shape)}")
        if codes.numel() and not 0 <= codes.min() <= codes.max() < K:
            raise ValueError(f"codes must lie in [0, {K}), but range from {int(codes.min())} to {int(codes.max())}")
        z = self.quantizer.lookup(codes).permute(0, 3, 1, 2)  # (B, D, s, s)
        return self._run(self.decoder, z.to(self.dtype)).clamp(-1, 1)

    def reconstruct(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> reconstructions from the codes, of the same shape."""
        return self.decode(self.encode(images))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, S, S) -> unclamped reconstruction (B, 3, S, S), codes (B, s, s), commitment loss (scalar)."""
        z = self._latents(images)
        B, D, h, w = z.shape
        flat, codes, commitment = self.quantizer(z.permute(0, 2, 3, 1).reshape(-1, D))
        quantized = flat.view(B, h, w, D).permute(0, 3, 1, 2)
        return self._run(self.decoder, quantized.to(z.dtype)), codes.view(B, h, w), commitment

    def loss(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, S, S) in [-1, 1] -> scalars: `loss` to minimise, and its components.

        The reconstruction loss is in `losses.py`.
        """
        check_images(images, self.stride)
        recon, _, commitment = self(images)
        reconstruction, l1, mse = reconstruction_loss(recon, images, self.config.edge_weight)
        return {
            "loss": reconstruction + self.config.commitment_cost * commitment,
            "l1": l1,
            "mse": mse,
            "commitment": commitment.detach(),
            "perplexity": self.quantizer.perplexity(),
            "codes_used": self.quantizer.share_used(),
        }

    def _latents(self, images: Tensor) -> Tensor:
        images = images.to(self.dtype).contiguous(memory_format=torch.channels_last)
        return self._run(self.encoder, images)  # (B, D, s, s)

    def _run(self, network: nn.Sequential, x: Tensor) -> Tensor:
        for layer in network:
            if self.gradient_checkpointing and isinstance(layer, ResBlock) and torch.is_grad_enabled():
                x = checkpoint(layer, x, use_reentrant=False)
            else:
                x = layer(x)
        return x


def _encoder(channels: tuple[int, ...], blocks: tuple[int, ...], code_width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 3
    for width, n in zip(channels, blocks, strict=True):
        layers.append(nn.Conv2d(before, width, 4, stride=2, padding=1))
        layers += [ResBlock(width) for _ in range(n)]
        before = width
    return nn.Sequential(*layers, nn.GroupNorm(8, before), nn.SiLU(), nn.Conv2d(before, code_width, 1))


def _decoder(channels: tuple[int, ...], blocks: tuple[int, ...], code_width: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(code_width, channels[-1], 3, padding=1)]
    for level in reversed(range(len(channels))):
        width = channels[level]
        layers += [ResBlock(width) for _ in range(blocks[level])]
        if level:
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, channels[level - 1], 3, padding=1)]
    # The last upsampling is a sub-pixel convolution (Shi et al. 2016, arXiv 1609.05158): no layer at full resolution.
    layers += [nn.GroupNorm(8, channels[0]), nn.SiLU(), nn.Conv2d(channels[0], 12, 3, padding=1), nn.PixelShuffle(2)]
    return nn.Sequential(*layers)
