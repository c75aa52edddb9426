"""The discrete VAE of DALL·E: a categorical posterior over codes, relaxed by Gumbel-softmax in training.

Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation", arXiv 2102.12092, §2.1 and appendix A; the relaxation is by
Jang et al. 2016 (arXiv 1611.01144) and Maddison et al. 2016 (arXiv 1611.00712).
Shapes: B batch · 3 channels · S image side · s = S / stride grid side · N vectors · K codes · D code width
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers import ModelMixin  # noqa: F401  # diffusers looks for the base class in a component's module
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from t2i.images import check_images
from t2i.tokenizers.convolutional import ConvolutionalTokenizer
from t2i.tokenizers.losses import logit_laplace_image, logit_laplace_loss, reconstruction_loss
from t2i.tokenizers.quantizer import Quantizer


class GumbelQuantizer(Quantizer):
    """Samples a code from logits; in training the sample is relaxed to a mixture of codebook vectors (K, D).

    Args:
        size: number of codes, K.
        code_width: D.
        temperature: final temperature τ of the relaxation.
        annealed_batches: number of training calls in which τ falls from 1 to `temperature`, along a cosine.
    """

    def __init__(
        self,
        size: int,
        code_width: int,
        temperature: float = 1 / 16,
        annealed_batches: int = 0,
        usage_window: int = 100,
    ):
        super().__init__(size, size, code_width, usage_window)
        self.final_temperature, self.annealed_batches = temperature, annealed_batches
        self.codebook = nn.Parameter(torch.randn(size, code_width))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))  # in training mode; saved, so that runs resume

    @property
    def temperature(self) -> float:
        """Current τ."""
        final = self.final_temperature
        return final + (1 - final) * cosine_share(int(self.calls), self.annealed_batches)

    def forward(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, K) -> relaxed samples (N, D), most probable codes (N,), KL to the uniform prior in nats/code (scalar).

        In evaluation mode the samples are the vectors of the most probable codes.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float()
            log_q = logits.log_softmax(-1)
            kl = (log_q.exp() * (log_q + math.log(self.size))).sum(-1).mean()
            codes = self.nearest(logits)
            if not self.training:
                return self.lookup(codes), codes, kl
            relaxed = F.gumbel_softmax(logits, self.temperature)  # (N, K)
            self.track(codes)
            self.calls += 1
            return relaxed @ self.codebook, codes, kl

    @torch.no_grad()
    def nearest(self, logits: Tensor) -> Tensor:
        """(N, K) -> most probable code (N,)"""
        return logits.argmax(-1)

    def lookup(self, codes: Tensor) -> Tensor:
        return F.embedding(codes, self.codebook)


class DiscreteVAE(ConvolutionalTokenizer):
    """Convolutional encoder to logits of codes, and decoder from codebook vectors to a distribution of pixels.

    Args:
        image_size: Side of the square training images; any multiple of the stride can be encoded.
        channels: Channels of each level, from fine to coarse; the first level divides the resolution by `patch`, every
            other one by 2.
        encoder_blocks: Number of residual blocks at each level of the encoder.
        decoder_blocks: Number of residual blocks at each level of the decoder.
        codebook_size: Number of codebook entries, K.
        code_width: Dimensions of a codebook vector, D.
        likelihood: Distribution of pixels: "logit-laplace" as in the paper's appendix A.3, or "l2" for the pixel loss
            of the other tokenizers.
        kl_weight: Weight β of the KL divergence between the codes' posterior and the uniform prior (6.6 in the paper).
        kl_batches: Number of forward passes in which β grows from 0 to `kl_weight`, along a cosine.
        temperature: Final temperature of the Gumbel-softmax relaxation (1/16 in the paper).
        annealed_batches: Number of forward passes in which the temperature falls from 1 to its final value.
        edge_weight: Weight of the edge term of the pixel loss "l2".
        patch: Stride of the first convolution and factor of the last, sub-pixel one; an even number.
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
        likelihood: Literal["logit-laplace", "l2"] = "logit-laplace",
        kl_weight: float = 6.6,
        kl_batches: int = 500,
        temperature: float = 1 / 16,
        annealed_batches: int = 2000,
        edge_weight: float = 1.0,
        patch: int = 2,
    ):
        super().__init__()
        if likelihood not in ("logit-laplace", "l2"):
            raise ValueError(f"unknown likelihood {likelihood!r}: choose logit-laplace or l2")
        if not 0 < temperature <= 1:
            raise ValueError(f"temperature must lie in (0, 1], not {temperature}")
        quantizer = GumbelQuantizer(codebook_size, code_width, temperature, annealed_batches)
        out = 6 if likelihood == "logit-laplace" else 3
        self._build(image_size, channels, encoder_blocks, decoder_blocks, patch, quantizer, out)
        self.edge_weight = edge_weight

    def loss(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, S, S) in [-1, 1] -> scalars: `loss` to minimise, and its components; KL in nats/code.

        The loss is −ELBO / (3 S²) with the KL divergence times β, so that it does not depend on the image size
        (appendix A.2).
        """
        check_images(images, self.stride)
        decoded, _, kl = self(images)
        if self.config.likelihood == "logit-laplace":
            pixels = logit_laplace_loss(decoded, images)
            mse = F.mse_loss(self._image(decoded.detach()).float(), images.float())
        else:
            pixels, _, mse = reconstruction_loss(decoded, images, self.edge_weight)
        calls = int(self.quantizer.calls)
        beta = self.config.kl_weight * (1 - cosine_share(calls, self.config.kl_batches))
        return {
            "loss": pixels + beta * kl / (3 * self.stride**2),  # a code stands for stride² pixels
            "reconstruction": pixels.detach(),
            "mse": mse,
            "kl": kl.detach(),
            "temperature": kl.new_tensor(self.quantizer.temperature),
            "perplexity": self.quantizer.perplexity(),
            "codes_used": self.quantizer.share_used(),
        }

    def _decode(self, codes: Tensor) -> Tensor:
        return self._image(super()._decode(codes))

    def _image(self, decoded: Tensor) -> Tensor:
        return logit_laplace_image(decoded) if self.config.likelihood == "logit-laplace" else decoded


def cosine_share(step: int, steps: int) -> float:
    """From 1 at step 0 to 0 from `steps` on, along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))) if steps else 0.0
