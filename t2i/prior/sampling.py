"""From logits to a token: guidance, temperature, top-k, top-p, and a draw that belongs to one generator alone.

Shapes: B batch · K vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance on logits: u + scale · (c − u); 1 is the conditional model, more follows the text more.

    Ho and Salimans 2022 (arXiv 2207.12598, eq. 6), for autoregressive models as in Gafni et al. 2022 (2203.13131).
    """
    return unconditional + scale * (conditional - unconditional)


def filter_logits(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """(B, K) -> (B, K), with what may not be drawn at −∞. Returns a new tensor.

    Temperature divides the logits; top-k keeps the k largest; top-p (nucleus, Holtzman et al. 2020, arXiv 1904.09751)
    keeps the smallest set of the most probable tokens whose probability reaches p.
    """
    logits = logits.float() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        kth = logits.topk(top_k).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(descending=True)
        p = ordered.softmax(-1)
        beyond = p.cumsum(-1) - p >= top_p  # what precedes a token already reaches p; the first is never beyond
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
    return logits


def draw(logits: Tensor, generators: Sequence[torch.Generator] | None) -> Tensor:
    """One token a row, (B, K) -> (B,), row i from generator i alone (None: the global one).

    The exponential race: argmax of p / e with e ~ Exp(1) is a draw from p; only the noise needs a loop over rows.
    """
    if generators is None:
        noise = torch.empty_like(logits).exponential_()
    else:
        rows = [torch.empty(logits.shape[-1], device=g.device).exponential_(generator=g) for g in generators]
        noise = torch.stack(rows).to(logits.device)
    return (logits - noise.log()).argmax(-1)


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise ValueError, saying what to give instead, for a temperature, top-k or top-p that selects nothing."""
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}; for the likeliest token use top_k=1")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}; for no limit use None")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], not {top_p}")
