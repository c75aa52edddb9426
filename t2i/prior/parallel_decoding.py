"""Parallel decoding of masked codes (Chang et al. 2022, MaskGIT, arXiv 2202.04200, § 3.2), and the Halton order
(Besnier et al. 2025, arXiv 2503.17076).

Every step samples all masked codes at once and keeps some of them; the others are masked again. MaskGIT keeps those of
which the model is most certain. The Halton order instead keeps the next positions of a fixed, evenly spread sequence,
because codes sampled in the same step do not know of each other, and neighbours depend on each other most.

Shapes: B batch · N = s² codes of an image · s grid side · K codebook size
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import count

import torch
from torch import Tensor

from t2i.prior.masked import mask_ratio
from t2i.prior.sampling import exponential_noise, sample_tokens, shortlist


def num_masked(step: int, steps: int, initially: Tensor) -> Tensor:
    """How many codes are still masked after a step (from 0) of `steps`, by the cosine schedule: the numbers of masked
    codes at the start (B,) -> (B,)

    Each step fixes at least one code, so that an image with fewer masked codes than steps is complete earlier.
    """
    by_schedule = (mask_ratio((step + 1) / steps) * initially.double()).long()  # ⌊γ(r) M⌋
    return torch.minimum(by_schedule, initially - (step + 1)).clamp(min=0)


def guidance_at(step: int, steps: int, scale: float, schedule: str) -> float:
    """The guidance scale of a step: constant, or increasing linearly from 1 (none) to `scale` (Muse, § 2.7)."""
    if schedule == "constant" or steps == 1:
        return scale
    return 1 + (scale - 1) * step / (steps - 1)


def fix_codes(
    logits: Tensor,
    codes: Tensor,
    num_masked: Tensor,
    *,
    order: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    choice_temperature: float = 0.0,
    generators: Sequence[torch.Generator] | None = None,
) -> Tensor:
    """One step: logits (B, N, K), codes (B, N) with K for masked ones -> codes with `num_masked` (B,) masked ones.

    Args:
        order: positions (N,) in the order in which they are kept; by default the most certain codes are.
        temperature, top_k, top_p: see `shortlist`.
        choice_temperature: scale of the Gumbel noise added to the log-probabilities by which codes are kept: 0 keeps
            the most certain ones, larger values choose more randomly.
        generators: one per row, which then depends on no other.
    """
    masked = codes == logits.shape[-1]
    sampled = sample_tokens(*shortlist(logits, temperature, top_k, top_p), generators)  # (B, N)
    if order is None:
        confidence = logits.float().log_softmax(-1).gather(-1, sampled[..., None]).squeeze(-1)  # (B, N)
        if choice_temperature > 0:
            confidence = confidence - choice_temperature * exponential_noise(confidence, generators).log()  # Gumbel
    else:
        confidence = -order.argsort().to(logits.device).expand_as(codes)  # the later in the order, the lower
    lowest = torch.finfo if confidence.is_floating_point() else torch.iinfo
    confidence = confidence.masked_fill(~masked, lowest(confidence.dtype).max)
    rank = confidence.argsort(dim=1).argsort(dim=1)
    again = masked & (rank < num_masked[:, None])
    return torch.where(masked & ~again, sampled, codes)


@cache
def halton_order(side: int) -> tuple[int, ...]:
    """The positions of a grid of `side`² codes in raster numbering, in the order in which the Halton sequence of bases
    2 and 3 first visits them. Every stretch of it is spread evenly over the grid.
    """
    visited: dict[int, None] = {}
    for i in count(1):
        if len(visited) == side**2:
            break
        row, column = int(_radical_inverse(i, 2) * side), int(_radical_inverse(i, 3) * side)
        visited[row * side + column] = None
    return tuple(visited)


def _radical_inverse(i: int, base: int) -> float:
    """The digits of i mirrored at the point: 6 = 110 in base 2 -> 0.011 in base 2."""
    inverse, power = 0, 1
    while i:
        i, digit = divmod(i, base)
        inverse, power = inverse * base + digit, power * base
    return inverse / power
