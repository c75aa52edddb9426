"""Decoding of the prior, position by position, with a key-value cache.

Shapes: R rows · T text length · n given codes · N = s² codes · V text vocabulary · K codebook size · C width
"""

from __future__ import annotations

import torch
from torch import Tensor

from t2i.nn.attention import KVCache
from t2i.prior.transformer import PAD, TextImageTransformer


class Decoder:
    """The positions of R sequences so far: BOS, then text tokens, then codes, which are added in this order.

    Logits are those of `TextImageTransformer.forward`, up to rounding. Weights that change afterwards may not be used.
    """

    def __init__(self, prior: TextImageTransformer, rows: int):
        c, how = prior.config, {"device": prior.device, "dtype": prior.dtype}
        length = 1 + c.text_length + prior.image_length - 1  # the last code predicts nothing
        self.prior, self.rows = prior, rows
        self._caches = [KVCache(rows, c.heads, length, c.width // c.heads, **how) for _ in prior.blocks]
        self._steps = [block.decoding_step(rows) for block in prior.blocks]
        self._positions = prior.code_positions().detach()  # (N, C)

    @torch.no_grad()
    def prefill(self, text: Tensor, codes: Tensor | None = None) -> Tensor:
        """Add BOS, the text (R, T), and the first n < N codes (R, n) if given, in one pass.

        Returns:
            The logits of the next code, (R, K).
        """
        x = self.prior.embed_text(text)
        if codes is not None and codes.shape[1]:
            x = torch.cat([x, self.prior.embed_codes(codes)], dim=1)
        for block, cache in zip(self.prior.blocks, self._caches, strict=True):
            x = block(x, cache)
        return self.prior.image_logits(self.prior.norm(x[:, -1]))

    @torch.no_grad()
    def step(self, code: Tensor, index: int) -> Tensor:
        """Add codes (R,), of position `index`; return the logits of the next code, (R, K)."""
        return self.prior.image_logits(self._add(self.prior.image_tokens(code) + self._positions[index]))

    @torch.no_grad()
    def start_text(self) -> Tensor:
        """Add BOS; return the logits of the first text token, (R, V + T)."""
        return self.prior.text_logits(self._add(self.prior.bos.expand(self.rows, -1)))

    @torch.no_grad()
    def step_text(self, token: Tensor, index: int) -> Tensor:
        """Add text tokens (R,), of position `index`; return the logits of the next, (R, V + T)."""
        own = torch.where(token == PAD, self.prior.config.text_vocab_size + index, token)
        return self.prior.text_logits(self._add(self.prior.text_tokens(own) + self.prior.text_positions[index]))

    def _add(self, x: Tensor) -> Tensor:
        """Add one position (R, C); return its output, (R, C)."""
        for step, cache in zip(self._steps, self._caches, strict=True):
            x = step(x, cache)
        return self.prior.norm(x)
