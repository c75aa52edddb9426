"""Inference-time caching for U-Nets: what is constant over the sampling steps is computed once.

    with constants_kept(unet):
        for t in timesteps:
            prediction = unet(x, t, encoder_hidden_states=states)

The keys and values of the text are cached, the three projections of self-attention are fused into one matrix product,
and the weights of convolutions are reordered once for their kernel. The results are equal up to rounding.

Shapes: B rows · N positions · L text positions · C width · H heads · d head width
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from t2i.diffusion.packed_convolutions import keeps_its_weights, pack_convolutions

PLAIN = (AttnProcessor, AttnProcessor2_0)  # the processors that are replaced; others are kept


class CachedCrossAttention:
    """Cross-attention that caches the keys and values of a text until another is given, or it is modified in place."""

    def __init__(self) -> None:
        # text (B, L, D) and its version; keys, values (B, H, L, d)
        self._known: tuple[Tensor, int, Tensor, Tensor] | None = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """(B, N, C), (B, L, D), bias (B, 1, L) -> (B, N, C); the arguments' names are diffusers'."""
        known = self._known  # read once: another thread may use this U-Net in another pipeline
        version = _version(encoder_hidden_states)
        if known is None or known[0] is not encoder_hidden_states or known[1] != version or torch.is_grad_enabled():
            keys, values = (_heads(part(encoder_hidden_states), attn.heads) for part in (attn.to_k, attn.to_v))
            known = encoder_hidden_states, version, keys, values
            if not torch.is_grad_enabled():  # cached values would carry no gradient
                self._known = known
        bias = None if attention_mask is None else attention_mask[:, None]  # (B, 1, 1, L)
        return _attend(attn, _heads(attn.to_q(hidden_states), attn.heads), *known[2:], bias)


class FusedQKV:
    """Self-attention with the projections to queries, keys and values fused into one product."""

    def __init__(self) -> None:
        self._weight: Tensor | None = None  # (3C, C)

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: None = None,
        attention_mask: None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """(B, N, C) -> (B, N, C)"""
        if self._weight is None:  # lazily: hooks may move the whole U-Net to its device in the first pass
            self._weight = torch.cat([attn.to_q.weight, attn.to_k.weight, attn.to_v.weight]).detach()
        q, k, v = (_heads(t, attn.heads) for t in F.linear(hidden_states, self._weight).chunk(3, -1))
        return _attend(attn, q, k, v)


@contextmanager
def constants_kept(denoiser: nn.Module) -> Iterator[None]:
    """Context manager within which a U-Net caches its constants; it is restored on exit.

    For sampling: gradients reach the inputs of the U-Net, as guidance in a callback needs, but not all of its weights.
    Not affected are other denoisers, attention processors other than diffusers' two default ones, weights that are
    adapted or moved by hooks, and a U-Net already cached by an enclosing context.
    """
    with ExitStack() as undo:
        if isinstance(denoiser, UNet2DConditionModel):
            _install(denoiser, undo)
        yield


def _install(unet: UNet2DConditionModel, undo: ExitStack) -> None:
    for module in unet.modules():
        if isinstance(module, Attention) and (cached := _cached_processor(module)):
            undo.callback(module.set_processor, module.processor)
            module.set_processor(cached)
    pack_convolutions(unet, undo)


def _cached_processor(attn: Attention) -> CachedCrossAttention | FusedQKV | None:
    """The equivalent processor with a cache, or None if there is none."""
    special = attn.group_norm, attn.spatial_norm, attn.norm_cross, attn.norm_q, attn.norm_k, attn.residual_connection
    if type(attn.processor) not in PLAIN or any(special) or attn.rescale_output_factor != 1:
        return None
    if attn.is_cross_attention:
        return CachedCrossAttention()
    parts = attn.to_q, attn.to_k, attn.to_v
    return FusedQKV() if all(type(p) is nn.Linear and p.bias is None and keeps_its_weights(p) for p in parts) else None


def _attend(attn: Attention, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """(B, H, N, d), keys and values (B, H, L, d), bias (B, 1, 1, L) -> (B, N, C)"""
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=attn.scale)
    project, dropout = attn.to_out
    return dropout(project(attended.transpose(1, 2).flatten(2)))


def _version(x: Tensor) -> int:
    """A number that grows when the tensor is changed in place; tensors of torch.inference_mode have none."""
    return 0 if x.is_inference() else x._version


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, C) -> (B, H, N, d)"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
