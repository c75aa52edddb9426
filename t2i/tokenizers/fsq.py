"""Finite scalar quantization: no codebook is learned, each dimension is rounded to a few levels (Mentzer et al. 2023,
arXiv 2309.15505).

Shapes: N vectors · D dimensions · K = product of the numbers of levels
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from diffusers import ModelMixin  # noqa: F401  # diffusers looks for the base class in a component's module
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from t2i.tokenizers.convolutional import ConvolutionalTokenizer
from t2i.tokenizers.quantizer import Quantizer

MARGIN = 1e-3  # tanh does not reach the outermost levels exactly


class FSQuantizer(Quantizer):
    """Rounds dimension d of a vector to one of levels[d] values, evenly spaced in [-1, 1]."""

    def __init__(self, levels: Sequence[int], usage_window: int = 100):
        if not levels or min(levels) < 2:
            raise ValueError(f"levels must be numbers from 2 up, one for each dimension, not {tuple(levels)}")
        super().__init__(math.prod(levels), len(levels), usage_window=usage_window)
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        places = torch.tensor([math.prod(levels[:d]) for d in range(len(levels))])
        self.register_buffer("places", places, persistent=False)  # place values of a code's digits

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, D) -> quantized (N, D) with the straight-through gradient, codes (N,), commitment loss: always 0."""
        with torch.autocast(z.device.type, enabled=False):
            bounded = self._bounded(z.float())  # (N, D)
            digits = bounded.round()
            if self.training:
                self.track(self._codes(digits))
            rounded = bounded + (digits - bounded).detach()
            return self._scaled(rounded), self._codes(digits), z.new_zeros(())

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """(N, D) -> code (N,)"""
        with torch.autocast(z.device.type, enabled=False):
            return self._codes(self._bounded(z.float()).round())

    def lookup(self, codes: Tensor) -> Tensor:
        """(...) -> (..., D)"""
        digits = codes[..., None] // self.places % self.levels
        return self._scaled(digits - self._half())

    def _half(self) -> Tensor:
        return self.levels // 2

    def _bounded(self, z: Tensor) -> Tensor:
        """(N, D) -> values that round to levels: f(z) of §3.1, for even numbers of levels shifted by a half."""
        half = (self.levels - 1) * (1 + MARGIN) / 2
        offset = 0.5 * (self.levels % 2 == 0)
        return (z + (offset / half).atanh()).tanh() * half - offset

    def _scaled(self, digits: Tensor) -> Tensor:
        return digits / self._half()

    def _codes(self, digits: Tensor) -> Tensor:
        return ((digits + self._half()).long() * self.places).sum(-1)


class FSQVAE(ConvolutionalTokenizer):
    """Convolutional encoder, finite scalar quantizer and decoder.

    Args:
        image_size: Side of the square training images; any multiple of the stride can be encoded.
        channels: Channels of each level, from fine to coarse; the first level divides the resolution by `patch`, every
            other one by 2.
        encoder_blocks: Number of residual blocks at each level of the encoder.
        decoder_blocks: Number of residual blocks at each level of the decoder.
        levels: Number of levels of each dimension of a code; their product is the codebook size (table 1 of the paper).
        edge_weight: Weight of the edge term of the reconstruction loss, which keeps contours sharp.
        patch: Stride of the first convolution and factor of the last, sub-pixel one; an even number.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 64,
        channels: tuple[int, ...] = (64, 128, 192),
        encoder_blocks: tuple[int, ...] = (0, 1, 2),
        decoder_blocks: tuple[int, ...] = (1, 2, 2),
        levels: tuple[int, ...] = (8, 5, 5, 5),
        edge_weight: float = 1.0,
        patch: int = 2,
    ):
        super().__init__()
        self._build(image_size, channels, encoder_blocks, decoder_blocks, patch, FSQuantizer(levels))
        self.edge_weight, self.commitment_cost = edge_weight, 0.0
