"""Convolutional encoder and decoder with a quantizer between them: what VQ-VAE, FSQ and discrete VAE have in common.

Shapes: B batch · 3 channels · S image side · s = S / stride grid side · D code width
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from t2i.images import check_images
from t2i.nn.blocks import ResBlock
from t2i.tokenizers.base import ImageTokenizer
from t2i.tokenizers.losses import image_loss
from t2i.tokenizers.quantizer import Quantizer


class ConvolutionalTokenizer(ImageTokenizer):
    """Encoder, quantizer and decoder; subclasses call `_build` and set `edge_weight` and `commitment_cost`."""

    _supports_gradient_checkpointing = True
    _keep_in_fp32_modules = ("quantizer",)  # its counts would overflow float16

    quantizer: Quantizer
    edge_weight: float
    commitment_cost: float

    def _build(
        self,
        image_size: int,
        channels: Sequence[int],
        encoder_blocks: Sequence[int],
        decoder_blocks: Sequence[int],
        patch: int,
        quantizer: Quantizer,
        out: int = 3,
    ) -> None:
        """Create the networks. Raises ValueError for arguments that do not fit together."""
        check_levels(image_size, channels, encoder_blocks, decoder_blocks, patch)
        self.gradient_checkpointing = False
        self.image_size, self.stride = image_size, stride_of(channels, patch)
        self.codebook_size = quantizer.size
        self.encoder = encoder(channels, encoder_blocks, patch, quantizer.width)
        self.quantizer = quantizer
        self.decoder = decoder(channels, decoder_blocks, patch, quantizer.code_width, out)
        self.to(memory_format=torch.channels_last)  # twice as fast on a CPU at these widths, never slower on a GPU

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last layer, for the adaptive weight of an adversarial loss."""
        return self.decoder[-2].weight  # before the PixelShuffle

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, S, S) -> unclamped reconstruction (B, 3, S, S), codes (B, s, s), commitment loss (scalar)."""
        z = self._latents(images)
        B, D, h, w = z.shape
        flat, codes, commitment = self.quantizer(z.permute(0, 2, 3, 1).reshape(-1, D))
        quantized = flat.view(B, h, w, -1).permute(0, 3, 1, 2)
        return self._run(self.decoder, quantized.to(z.dtype)), codes.view(B, h, w), commitment

    def loss(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, S, S) in [-1, 1] -> scalars: `loss` to minimise, and its components.

        The reconstruction loss is in `losses.py`.
        """
        check_images(images, self.stride)
        recon, _, commitment = self(images)
        return self.add_quantization(image_loss(recon, images, self.last_layer, self.edge_weight), commitment)

    def add_quantization(self, losses: dict[str, Tensor], commitment: Tensor) -> dict[str, Tensor]:
        """The losses of a reconstruction, with the commitment loss, and how the codes are used."""
        return losses | {
            "loss": losses["loss"] + self.commitment_cost * commitment,
            "commitment": commitment.detach(),
            "perplexity": self.quantizer.perplexity(),
            "codes_used": self.quantizer.share_used(),
        }

    def _encode(self, images: Tensor) -> Tensor:
        z = self._latents(images)
        B, D, h, w = z.shape
        return self.quantizer.nearest(z.permute(0, 2, 3, 1).reshape(-1, D)).view(B, h, w)

    def _decode(self, codes: Tensor) -> Tensor:
        z = self.quantizer.lookup(codes).permute(0, 3, 1, 2)  # (B, D, s, s)
        return self._run(self.decoder, z.to(self.dtype))

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


def stride_of(channels: Sequence[int], patch: int) -> int:
    """Pixels per code: the first level divides the side by `patch`, every other one by 2."""
    return patch * 2 ** (len(channels) - 1)


def check_levels(
    image_size: int, channels: Sequence[int], encoder_blocks: Sequence[int], decoder_blocks: Sequence[int], patch: int
) -> None:
    """Raise ValueError for arguments of `encoder` and `decoder` that do not fit together."""
    if not channels or not len(channels) == len(encoder_blocks) == len(decoder_blocks):
        raise ValueError("channels, encoder_blocks and decoder_blocks must have one number for each level")
    if patch < 2 or patch % 2:
        raise ValueError(f"patch must be an even number from 2 up, not {patch}")
    if image_size % (stride := stride_of(channels, patch)):
        raise ValueError(f"image_size {image_size} is not divisible by the stride {stride}")


def encoder(channels: Sequence[int], blocks: Sequence[int], patch: int, out: int) -> nn.Sequential:
    """(B, 3, S, S) -> (B, out, s, s)"""
    layers: list[nn.Module] = []
    before, stride = 3, patch
    for width, n in zip(channels, blocks, strict=True):
        layers.append(nn.Conv2d(before, width, 2 * stride, stride, padding=stride // 2))
        layers += [ResBlock(width) for _ in range(n)]
        before, stride = width, 2
    return nn.Sequential(*layers, nn.GroupNorm(8, before), nn.SiLU(), nn.Conv2d(before, out, 1))


def decoder(channels: Sequence[int], blocks: Sequence[int], patch: int, code_width: int, out: int = 3) -> nn.Sequential:
    """(B, D, s, s) -> (B, out, S, S)"""
    layers: list[nn.Module] = [nn.Conv2d(code_width, channels[-1], 3, padding=1)]
    for level in reversed(range(len(channels))):
        width = channels[level]
        layers += [ResBlock(width) for _ in range(blocks[level])]
        if level:
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, channels[level - 1], 3, padding=1)]
    # The last upsampling is a sub-pixel convolution (Shi et al. 2016, arXiv 1609.05158): no layer at full resolution.
    last = nn.Conv2d(channels[0], out * patch**2, 3, padding=1)
    return nn.Sequential(*layers, nn.GroupNorm(8, channels[0]), nn.SiLU(), last, nn.PixelShuffle(patch))
