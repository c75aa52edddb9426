"""Interpolation of noise and of embeddings."""

from __future__ import annotations

import torch
from torch import Tensor


def slerp(a: Tensor, b: Tensor, w: float) -> Tensor:
    """Spherical interpolation (Shoemake 1985, "Animating rotation with quaternion curves", § 3.3), from a to b.

    It keeps the norm of Gaussian noise, which linear interpolation of independent samples reduces by up to 1/√2.
    """
    cosine = torch.nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), 0).clamp(-1, 1)
    angle = cosine.arccos()
    if angle.sin() < 1e-6:  # parallel
        return torch.lerp(a, b, w)
    weights = ((1 - w) * angle).sin() / angle.sin(), (w * angle).sin() / angle.sin()
    return (weights[0] * a.double() + weights[1] * b.double()).to(a.dtype)
