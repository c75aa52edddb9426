"""Interpolation of text states and of noise.

Shapes: n images · L text positions · D width of the text states
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from t2i.diffusion.conditioning import Conditioning


def lerp_text(text: Conditioning, weights: Tensor) -> Conditioning:
    """States of two prompts (2, L, D), weights (n,) of the second -> (n, L, D).

    Between the two a position counts as text where either of them has text.
    """
    w = weights.to(text.states.device, text.states.dtype).view(-1, 1, 1)
    states = (1 - w) * text.states[:1] + w * text.states[1:]
    if text.mask is None:
        return replace(text, states=states)
    mask = text.mask.any(0, keepdim=True).repeat(len(weights), 1)
    mask[0], mask[-1] = text.mask[0], text.mask[1]
    return replace(text, states=states, mask=mask)


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


def as_pair(name: str, given, kind: type) -> tuple:
    """One value twice, or two. Raises ValueError for anything else."""
    pair = (given, given) if isinstance(given, kind) else tuple(given) if isinstance(given, (list, tuple)) else ()
    if len(pair) != 2 or not all(isinstance(one, kind) for one in pair):
        raise ValueError(f"{name} must be one {kind.__name__} or two, not {given!r}")
    return pair
