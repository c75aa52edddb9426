"""Sampling of tokens from logits: temperature, top-k and top-p, with one generator per row.

Shapes: B batch · … further axes, such as positions · K vocabulary · k candidate tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real

import torch
from torch import Tensor

from t2i.checks import check_real, check_whole


def shortlist(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> tuple[Tensor, Tensor]:
    """The candidates: logits (B, …, K) -> logits (B, …, k) and their tokens (B, …, k). The input is not modified.

    Temperature divides the logits; top-k keeps the k largest; top-p (nucleus sampling, Holtzman et al. 2020,
    arXiv 1904.09751) keeps the smallest set of most probable tokens whose probability reaches p; others are set to −∞.
    """
    logits = logits.float() / temperature
    K = logits.shape[-1]
    k = min(top_k or K, K)
    nucleus = top_p is not None and top_p < 1
    if k == K and not nucleus:
        return logits, torch.arange(K, device=logits.device).expand_as(logits)
    logits, tokens = logits.topk(k, sorted=nucleus)
    if nucleus:
        p = logits.softmax(-1)
        beyond = p.cumsum(-1) - p >= top_p  # the preceding tokens already reach p; never true for the first
        logits = logits.masked_fill(beyond, -torch.inf)
    return logits, tokens


def sample_tokens(logits: Tensor, tokens: Tensor, generators: Sequence[torch.Generator] | None) -> Tensor:
    """Sample one of the tokens (B, …, k) by logits (B, …, k) -> (B, …); row i uses only generator i (None: the global).

    Exponential race: argmax of p / e with e ~ Exp(1) is a sample from p.
    """
    noise = exponential_noise(logits, generators)
    winner = (logits - noise.log()).argmax(-1, keepdim=True)  # (B, …, 1)
    return tokens.gather(-1, winner).squeeze(-1)


def exponential_noise(like: Tensor, generators: Sequence[torch.Generator] | None) -> Tensor:
    """Exp(1) noise of the shape of `like`, (B, …); row i uses only generator i (None: the global)."""
    if generators is None:
        return torch.empty_like(like).exponential_()
    rows = [torch.empty(like.shape[1:], device=g.device).exponential_(generator=g) for g in generators]
    return torch.stack(rows).to(like.device)


def check_sampling(temperature: float, top_k: int | None, top_p: float | None, prefix: str = "") -> None:
    """Raise ValueError, with the remedy, for an invalid temperature, top-k or top-p; `prefix` begins their names."""
    if isinstance(temperature, Real) and temperature <= 0:
        raise ValueError(
            f"{prefix}temperature must be above 0, not {temperature}; for the likeliest token use {prefix}top_k=1"
        )
    if isinstance(top_k, Integral) and top_k < 1:
        raise ValueError(f"{prefix}top_k must be at least 1, not {top_k}; for no limit use None")
    check_real(f"{prefix}temperature", temperature, above=True)
    if top_k is not None:
        check_whole(f"{prefix}top_k", top_k)
    if top_p is not None:
        check_real(f"{prefix}top_p", top_p, most=1.0, above=True)


def check_probabilities(finite: Tensor, dtype: torch.dtype) -> None:
    """Raise FloatingPointError unless logits or log-likelihoods of a prior in `dtype` were all `finite`."""
    if not finite:
        raise FloatingPointError(
            f"the prior's probabilities are not finite in {dtype}: its weights are damaged, or float16 is too narrow "
            "for them: open the pipeline in float32, or train or copy its weights again"
        )
