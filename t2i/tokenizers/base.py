"""The interface of discrete image tokenizers, which encode an image as a grid of codes.

Shapes: B batch · 3 channels · S image side · s = S / stride grid side · K codes
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from torch import Tensor

from t2i.images import check_images


class ImageTokenizer(ModelMixin, ConfigMixin):
    """Images ⇄ codes. Subclasses implement `_encode` and `_decode`, and set the attributes below.

    Attributes:
        stride: pixels per code, in each direction.
        image_size: side of the images it was trained on; any multiple of the stride can be encoded.
        codebook_size: number of codes, K.
    """

    stride: int
    image_size: int
    codebook_size: int

    @property
    def grid_size(self) -> int:
        """Side s of the grid of codes of an image of `image_size`."""
        return self.image_size // self.stride

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
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
        return self._encode(images.to(self.dtype).contiguous(memory_format=torch.channels_last))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, s, s) -> images (B, 3, S, S) in [-1, 1]. Raises ValueError for codes outside the codebook."""
        K = self.codebook_size
        if codes.ndim != 3 or codes.is_floating_point():
            raise ValueError(f"codes must be integers of shape (B, s, s), not {codes.dtype} {tuple(codes.shape)}")
        if codes.numel() and not 0 <= codes.min() <= codes.max() < K:
            raise ValueError(f"codes must lie in [0, {K}), but range from {int(codes.min())} to {int(codes.max())}")
        return self._decode(codes).clamp(-1, 1)

    def reconstruct(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> reconstructions from the codes, of the same shape."""
        return self.decode(self.encode(images))

    def _encode(self, images: Tensor) -> Tensor:
        """`encode`, after the checks."""
        raise NotImplementedError

    def _decode(self, codes: Tensor) -> Tensor:
        """`decode`, after the checks and before clamping."""
        raise NotImplementedError
