"""Sampling of captions and image codes from the prior, token by token, with a key-value cache.

Shapes: R rows · T text length · N = s² codes · n kept codes · K codebook size · V text vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t2i.checks import check_real
from t2i.diffusion.guidance import guide
from t2i.prior.decoding import Decoder
from t2i.prior.sampling import check_probabilities, check_sampling, sample_tokens, shortlist
from t2i.prior.transformer import TextImageTransformer

AfterCode = Callable[[int, Tensor, Tensor], bool]


@dataclass(frozen=True)
class CodeSampling:
    """How codes are sampled; see DallePipeline. Raises ValueError, with the remedy, for values out of range."""

    guidance_scale: float
    temperature: float
    top_k: int | None
    top_p: float | None

    def __post_init__(self) -> None:
        check_sampling(self.temperature, self.top_k, self.top_p)
        check_real("guidance_scale", self.guidance_scale)

    @property
    def guided(self) -> bool:
        return self.guidance_scale != 1


@torch.no_grad()
def sample_codes(
    prior: TextImageTransformer,
    text: Tensor,
    negative_text: Tensor,
    kept: Tensor,
    how: CodeSampling,
    generators: Sequence[torch.Generator] | None = None,
    after_code: AfterCode | None = None,
) -> Tensor:
    """Texts (R, T) and the first codes (R, n) of each image -> all codes (R, N), which begin with those.

    Args:
        negative_text: (R, T), for guidance.
        generators: one per row; None for torch's global one.
        after_code: called as f(index, codes (R, N), logits (R, K) after guidance) after each sampled code; it may
            change the codes, apart from kept ones, and returns whether to stop. Codes not yet sampled are 0.

    Raises FloatingPointError for probabilities that are not finite.
    """
    (R, n), N = kept.shape, prior.image_length
    codes = torch.zeros(R, N, dtype=torch.long, device=text.device)
    codes[:, :n] = kept
    if n == N:
        return codes
    # With guidance both halves, with and without the prompt, run as one batch.
    texts = torch.cat([text, negative_text]) if how.guided else text
    copies = 2 if how.guided else 1
    decoder = Decoder(prior, len(texts))
    logits = decoder.prefill(texts, kept.repeat(copies, 1))  # (R, K), guided (2R, K)
    for i in range(n, N):
        if how.guided:
            logits = guide(*logits.chunk(2), how.guidance_scale)  # (R, K)
        codes[:, i] = sample_tokens(*shortlist(logits, how.temperature, how.top_k, how.top_p), generators)
        stop = after_code is not None and after_code(i, codes, logits)
        if n:
            codes[:, :n] = kept
        if stop or i == N - 1:
            break
        logits = decoder.step(codes[:, i].repeat(copies), i)
    check_probabilities(logits.isfinite().all(), prior.dtype)
    return codes


@torch.no_grad()
def sample_text(
    prior: TextImageTransformer,
    count: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generators: Sequence[torch.Generator] | None = None,
) -> Tensor:
    """Captions from p(text) -> tokens (R, T), R = `count`, each of at least one token and then only padding.

    A row takes random numbers from its own generator until its padding begins, so that it depends on no other row.

    Raises FloatingPointError for probabilities that are not finite.
    """
    T, V = prior.config.text_length, prior.config.text_vocab_size
    text = torch.zeros(count, T, dtype=torch.long, device=prior.device)
    going = torch.arange(count, device=prior.device)  # the rows without padding so far
    decoder = Decoder(prior, count)
    logits = decoder.start_text()  # (R, V + T)
    for t in range(T):
        check_probabilities(logits.isfinite().all(), prior.dtype)
        possible = prior.mask_impossible_text(logits[going], t)
        own = None if generators is None else [generators[row] for row in going.tolist()]
        tokens = sample_tokens(*shortlist(possible, temperature, top_k, top_p), own)
        going, tokens = going[tokens < V], tokens[tokens < V]  # from V on they are padding
        text[going, t] = tokens
        if len(going) == 0 or t == T - 1:
            break
        logits = decoder.step_text(text[:, t], t)
    return text
