"""Interpolation of text states.

Shapes: n images · L text positions · D width of the text states
"""

from __future__ import annotations

from dataclasses import replace

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


def as_pair(name: str, given, kind: type) -> tuple:
    """One value twice, or two. Raises ValueError for anything else."""
    pair = (given, given) if isinstance(given, kind) else tuple(given) if isinstance(given, (list, tuple)) else ()
    if len(pair) != 2 or not all(isinstance(one, kind) for one in pair):
        raise ValueError(f"{name} must be one {kind.__name__} or two, not {given!r}")
    return pair
