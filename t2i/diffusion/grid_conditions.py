"""Spatial conditions on the latent's grid, which a denoiser takes as channels concatenated to the latents.

Rombach et al. 2022 (arXiv 2112.10752, § 4.3.2 and 4.4): "by concatenating spatially aligned conditioning information to
the input", for super-resolution and for generation from label maps.

Shapes: B batch · H, W image · h, w latent · f factor · r = stride / f side of a block
K condition channels
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from t2i.diffusion.dit import DiT


@dataclass(frozen=True)
class LowResolution:
    """A low-resolution image with sides H/f, W/f. Each block of r × r pixels becomes the 3·r² channels of one latent
    position, without loss; if the factor is the stride, r = 1 and the image is unchanged.

    Raises ValueError for a factor below 2 or one that does not divide the stride.
    """

    factor: int
    stride: int

    def __post_init__(self) -> None:
        if self.factor < 2 or self.stride % self.factor:
            known = ", ".join(str(f) for f in range(2, self.stride + 1) if self.stride % f == 0)
            raise ValueError(f"factor must divide the autoencoder's stride {self.stride} ({known}), not {self.factor}")

    @classmethod
    def of(cls, channels: int, stride: int) -> LowResolution | None:
        """The condition with K = `channels`; None if there is none."""
        side = isqrt(max(0, channels) // 3)
        if side < 1 or 3 * side**2 != channels or stride % side or side == stride:
            return None
        return cls(stride // side, stride)

    @property
    def block(self) -> int:
        """r"""
        return self.stride // self.factor

    @property
    def channels(self) -> int:
        """K"""
        return 3 * self.block**2

    def grid(self, images: Tensor) -> Tensor:
        """(B, 3, H/f, W/f) in [-1, 1] -> (B, K, h, w). Raises ValueError for sides that r does not divide."""
        h, w = images.shape[2:]
        if h % self.block or w % self.block:
            raise ValueError(f"an image of {w}×{h} is not divisible by {self.block}: scale it first")
        return F.pixel_unshuffle(images, self.block)


@dataclass(frozen=True)
class LabelMap:
    """A label for each pixel of the image: for each latent position, the fraction of its pixels with each label.

    Raises ValueError for fewer than 2 or more than 256 labels.
    """

    labels: int
    stride: int

    def __post_init__(self) -> None:
        if not 2 <= self.labels <= 256:
            raise ValueError(f"a map has from 2 to 256 labels, not {self.labels}")

    @property
    def channels(self) -> int:
        """K: one per label."""
        return self.labels

    def grid(self, maps: Tensor) -> Tensor:
        """Integers (B, H, W) from 0 to K - 1 -> fractions (B, K, h, w) that sum to 1 over K.

        Raises ValueError for sides that the stride does not divide and for unknown labels.
        """
        H, W = maps.shape[1:]
        if H % self.stride or W % self.stride:
            raise ValueError(f"a map of {W}×{H} is not divisible by {self.stride}: scale it first")
        if (highest := int(maps.max())) >= self.labels:
            raise ValueError(f"a map holds label {highest}, but there are only {self.labels}, from 0 on")
        one_hot = F.one_hot(maps.long(), self.labels).permute(0, 3, 1, 2)  # (B, K, H, W)
        return F.avg_pool2d(one_hot.float(), self.stride)


GridCondition = LowResolution | LabelMap


def widen(denoiser: UNet2DConditionModel | DiT, channels: int) -> None:
    """Append `channels` input channels to a denoiser in place. Their weights are 0, so that the output is unchanged
    until it is fine-tuned to condition on them. The number of output channels stays the same.
    """
    first = "patches" if isinstance(denoiser, DiT) else "conv_in"
    old = getattr(denoiser, first)
    if isinstance(denoiser, DiT):
        new = type(old)(old.in_features + channels * denoiser.config.patch_size**2, old.out_features)
    else:
        new = nn.Conv2d(old.in_channels + channels, old.out_channels, old.kernel_size, old.stride, old.padding)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, : old.weight.shape[1]] = old.weight
        new.bias.copy_(old.bias)
    setattr(denoiser, first, new.to(old.weight))
    in_channels, out_channels = denoiser.config.in_channels, denoiser.config.out_channels or denoiser.config.in_channels
    denoiser.register_to_config(in_channels=in_channels + channels, out_channels=out_channels)
