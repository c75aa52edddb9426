"""diffusers' VQModel as an image tokenizer: the VQGAN of Esser et al. 2021, arXiv 2012.09841.

It has the architecture of taming-transformers and latent diffusion (`taming.py` converts their checkpoints), and opens
what diffusers' class saved. The VQGAN that t2i trains is in `vqgan.py`.

Shapes: B batch · S image side · s = S / stride grid side · K codes · D code width · C latent channels
"""

from __future__ import annotations

from functools import wraps

import diffusers
import torch.nn.functional as F
from diffusers import ModelMixin  # noqa: F401  # diffusers looks for the base class in a component's module
from torch import Tensor, nn

from t2i.tokenizers.base import ImageTokenizer
from t2i.tokenizers.quantizer import nearest


class VQModel(ImageTokenizer, diffusers.VQModel):
    """Arguments, files and weights are those of diffusers' VQModel, so each of the two opens what the other saved."""

    @property
    def stride(self) -> int:
        return 2 ** (len(self.config.block_out_channels) - 1)

    @property
    def image_size(self) -> int:
        return self.config.sample_size

    @property
    def codebook_size(self) -> int:
        return self.config.num_vq_embeddings

    def forward(self, images: Tensor) -> Tensor:
        """`reconstruct`"""
        return self.reconstruct(images)

    def _encode(self, images: Tensor) -> Tensor:
        images = (images + 1) / 2 if self._in_unit_range else images
        return self._nearest(self.quant_conv(self.encoder(images)))

    def _decode(self, codes: Tensor) -> Tensor:
        z = self._lookup(codes).permute(0, 3, 1, 2)  # (B, D, s, s)
        images = self.decoder(self.post_quant_conv(z), z if self.config.norm_type == "spatial" else None)
        return images * 2 - 1 if self._in_unit_range else images

    @property
    def _in_unit_range(self) -> bool:
        """Whether its images are in [0, 1]: aMUSEd's (Patil et al. 2024, arXiv 2401.01808), whose pipelines are the
        only ones to look codes up."""
        return bool(self.config.lookup_from_codebook)

    def _nearest(self, z: Tensor) -> Tensor:
        """(B, D, s, s) -> the nearest codes (B, s, s)"""
        B, D, h, w = z.shape
        return nearest(z.permute(0, 2, 3, 1).reshape(-1, D), self.quantize.embedding.weight).view(B, h, w)

    def _lookup(self, codes: Tensor) -> Tensor:
        """(B, s, s) -> (B, s, s, D)"""
        return self.quantize.embedding(codes)


class GumbelQuantizer(nn.Module):
    """Logits of the codes from latents, and vectors of the codes (Jang et al. 2016, arXiv 1611.01144)."""

    def __init__(self, channels: int, codes: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, codes, 1)  # (B, C, s, s) -> (B, K, s, s)
        self.embed = nn.Embedding(codes, width)


class GumbelVQModel(VQModel):
    """VQModel whose codes are the argmax of logits, as it was trained with the Gumbel-softmax (GumbelVQ of
    taming-transformers). Arguments as VQModel's; diffusers has no such class.
    """

    quantize: GumbelQuantizer

    @wraps(diffusers.VQModel.__init__)
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        width = self.quant_conv.out_channels
        self.quantize = GumbelQuantizer(width, self.codebook_size, width)

    def _nearest(self, z: Tensor) -> Tensor:
        proj = self.quantize.proj
        assert proj.bias is not None
        return F.conv2d(z.float(), proj.weight.float(), proj.bias.float()).argmax(1)

    def _lookup(self, codes: Tensor) -> Tensor:
        return self.quantize.embed(codes)
