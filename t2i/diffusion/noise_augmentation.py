"""Noise conditioning augmentation of cascades (Ho et al. 2022, arXiv 2106.15282, § 4; Saharia et al. 2022, arXiv
2205.11487, § 2.4).

A super-resolution model is trained on low-resolution images with noise, whose level it is told. So it learns not to
rely on the details of the images that the stage before generates, and the level can be chosen at sampling.

Shapes: B batch · s side of the low-resolution image · S image side
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def augment(images: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
    """Images and noise (B, 3, s, s), levels (B,) in [0, 1] -> cos(πl/2) · image + sin(πl/2) · noise, (B, 3, s, s)

    Level 0 is the image, level 1 almost only noise: the forward process with a cosine schedule, without its offset.
    """
    angles = (levels.double().cpu() * (math.pi / 2)).to(images.device, images.dtype)[:, None, None, None]
    return angles.cos() * images + angles.sin() * noise


def upsample(images: Tensor, size: int) -> Tensor:
    """(B, 3, s, s) -> (B, 3, S, S), bilinearly; images of this size stay as they are."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


def condition_on(images: Tensor, noise: Tensor, levels: Tensor, size: int) -> Tensor:
    """What a super-resolution model is given: low-resolution images, augmented, at its own size S = `size`.

    Images in [-1, 1] and noise (B, 3, s, s), levels (B,) -> (B, 3, S, S)
    """
    return upsample(augment(images, noise, levels), size)
