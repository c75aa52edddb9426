"""Multi-head self-attention: bidirectional, or causal with a preallocated key-value cache.

Shapes: B batch · L new positions · P positions already in the cache · H heads · D head width · C = H·D model width
"""

from __future__ import annotations

import importlib.util
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.nn.linear import Linear

Backend = Literal["sdpa", "xformers"]


class KVCache:
    """Keys and values of one layer, preallocated and written in place."""

    def __init__(self, batch: int, heads: int, length: int, head_width: int, *, device=None, dtype=None):
        # Keys, then values: (2, B, H, length, D). Never read before being written, so it needs no initialisation.
        self.pairs = torch.empty(2, batch, heads, length, head_width, device=device, dtype=dtype)
        self.filled = 0

    def append(self, pairs: Tensor) -> Tensor:
        """Store keys and values (2, B, H, L, D); return a view of all stored ones: (2, B, H, P + L, D)."""
        new, room = pairs.shape[3], self.pairs.shape[3]
        if self.filled + new > room:
            raise ValueError(f"the cache holds {room} positions, not position {self.filled + new - 1}")
        self.pairs.narrow(3, self.filled, new).copy_(pairs)
        self.filled += new
        return self.pairs.narrow(3, 0, self.filled)


def attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, backend: Backend = "sdpa") -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1): (B, H, L, D), (B, H, P, D) twice -> (B, H, L, D).

    Raises ValueError for a backend that is unknown, not installed, or cannot run on the tensors' device.
    """
    check_backend(backend)
    if backend == "sdpa":
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    if q.device.type != "cuda":
        raise ValueError(f"the attention backend 'xformers' needs a CUDA device, not {q.device.type}: use 'sdpa'")
    from xformers.ops import (  # pyright: ignore[reportMissingImports]  # an extra
        LowerTriangularMask,
        memory_efficient_attention,
    )

    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # xformers wants (B, L, H, D)
    return memory_efficient_attention(q, k, v, attn_bias=LowerTriangularMask() if causal else None).transpose(1, 2)


def check_backend(backend: str) -> None:
    """Raise ValueError for a backend that is unknown or not installed."""
    if backend not in ("sdpa", "xformers"):
        raise ValueError(f"unknown attention backend {backend!r}: choose 'sdpa' or 'xformers'")
    if backend == "xformers" and importlib.util.find_spec("xformers") is None:
        raise ValueError("the attention backend 'xformers' is not installed: pip install -e '.[xformers]'")


class SelfAttention(nn.Module):
    """Each position attends to all of them. Raises ValueError unless `heads` divides `width`."""

    def __init__(self, width: int, heads: int, backend: Backend = "sdpa"):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"width {width} is not divisible by {heads} heads")
        self.heads = heads
        self.backend = backend
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, C)"""
        q, k, v = self._project(x)
        return self._join(attend(q, k, v, causal=False, backend=self.backend))

    def _project(self, x: Tensor) -> Tensor:
        """(B, L, C) -> queries, keys and values (3, B, H, L, D)"""
        B, L, C = x.shape
        return self.qkv(x).view(B, L, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)

    def _join(self, y: Tensor) -> Tensor:
        """(B, H, L, D) -> (B, L, C)"""
        return self.out(y.transpose(1, 2).flatten(2))


class CausalSelfAttention(SelfAttention):
    """Each position attends to itself and the preceding ones."""

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """(B, L, C) -> (B, L, C). With a cache, x holds only the positions after those in the cache."""
        L = x.shape[1]
        if cache is not None and cache.filled and L > 1:
            # torch aligns its causal mask to the top left, which is correct only with an empty cache.
            raise ValueError("after the first call, a cache takes one position at a time")
        qkv = self._project(x)
        q, pairs = qkv[0], qkv[1:]
        k, v = pairs if cache is None else cache.append(pairs)
        return self._join(attend(q, k, v, causal=L > 1, backend=self.backend))
