"""VQ-VAE, which encodes an image as a grid of codes from a learned codebook (van den Oord et al. 2017, arXiv
1711.00937).
"""

from __future__ import annotations

from diffusers import ModelMixin  # noqa: F401  # diffusers looks for the base class in a component's module
from diffusers.configuration_utils import register_to_config

from t2i.tokenizers.convolutional import ConvolutionalTokenizer
from t2i.tokenizers.quantizer import EMAQuantizer


class VQVAE(ConvolutionalTokenizer):
    """Convolutional encoder, vector quantizer and decoder.

    Args:
        image_size: Side of the square training images; any multiple of the stride can be encoded.
        channels: Channels of each level, from fine to coarse; the first level divides the resolution by `patch`, every
            other one by 2.
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
        patch: Stride of the first convolution and factor of the last, sub-pixel one; an even number. No layer works
            at full resolution, so 4 at 128 pixels costs what 2 costs at 64.
    """

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
        patch: int = 2,
    ):
        super().__init__()
        quantizer = EMAQuantizer(codebook_size, code_width, codebook_decay, warmup_batches=warmup_batches)
        self._build(image_size, channels, encoder_blocks, decoder_blocks, patch, quantizer)
        self.edge_weight, self.commitment_cost = edge_weight, commitment_cost
