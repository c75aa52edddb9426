"""What a U-Net computes again at every step of a sampler though it never changes: computed once, while a loop lasts.

    with constants_kept(unet):
        for t in timesteps:
            said = unet(x, t, encoder_hidden_states=states)

The text's keys and values follow from the text alone; the three projections of self-attention are one product; and a
convolution's weights are brought into the layout of its kernel once. The results are the same up to rounding.

Shapes: B rows · N positions · L text positions · C width · H heads · d head width
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

PLAIN = (AttnProcessor, AttnProcessor2_0)  # what ours stand in for; others are left alone
PACKED_BYTES = 2**28  # of convolution weights at most: packed they are a second copy
FEW_POSITIONS = 512  # rows · sides of the input, above which packed weights are no faster


class KnownText:
    """Cross-attention that projects a text once: keys and values are kept until another text is given, or this one
    changed in place."""

    def __init__(self) -> None:
        # text (B, L, D) and which of its versions; keys, values (B, H, L, d)
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
        known = self._known  # looked up once: another pipeline with this U-Net may draw in another thread
        version = _version(encoder_hidden_states)
        if known is None or known[0] is not encoder_hidden_states or known[1] != version or torch.is_grad_enabled():
            keys, values = (_heads(part(encoder_hidden_states), attn.heads) for part in (attn.to_k, attn.to_v))
            known = encoder_hidden_states, version, keys, values
            if not torch.is_grad_enabled():  # a gradient may be asked for, which what is kept would not hand on
                self._known = known
        bias = None if attention_mask is None else attention_mask[:, None]  # (B, 1, 1, L)
        return _attend(attn, _heads(attn.to_q(hidden_states), attn.heads), *known[2:], bias)


class OneProduct:
    """Self-attention whose queries, keys and values are one product."""

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
        if self._weight is None:  # not before: hooks may bring the whole U-Net to its device for the first pass
            self._weight = torch.cat([attn.to_q.weight, attn.to_k.weight, attn.to_v.weight]).detach()
        q, k, v = (_heads(t, attn.heads) for t in F.linear(hidden_states, self._weight).chunk(3, -1))
        return _attend(attn, q, k, v)


@contextmanager
def constants_kept(denoiser: nn.Module) -> Iterator[None]:
    """While it lasts, a U-Net's constants are computed once; afterwards it is as it was.

    For sampling: gradients reach what goes into the U-Net, as guidance in a callback asks for, but not all of its
    weights. Other denoisers, other attention processors than diffusers'
    two plain ones, and weights that are adapted or moved about by hooks are left alone, and so is a U-Net whose
    constants are kept already, by a loop around this one.
    """
    with ExitStack() as undo:
        if isinstance(denoiser, UNet2DConditionModel):
            _install(denoiser, undo)
        yield


def _install(unet: UNet2DConditionModel, undo: ExitStack) -> None:
    for module in unet.modules():
        if isinstance(module, Attention) and (quick := _quick(module)):
            undo.callback(module.set_processor, module.processor)
            module.set_processor(quick)
    for conv in _worth_packing(unet):
        conv._conv_forward = partial(_packed_convolution, conv, _Packed())
        undo.callback(conv.__dict__.pop, "_conv_forward", None)


def _quick(attn: Attention) -> KnownText | OneProduct | None:
    """The processor that does the same, or None where it would not."""
    special = attn.group_norm, attn.spatial_norm, attn.norm_cross, attn.norm_q, attn.norm_k, attn.residual_connection
    if type(attn.processor) not in PLAIN or any(special) or attn.rescale_output_factor != 1:
        return None
    if attn.is_cross_attention:
        return KnownText()
    parts = attn.to_q, attn.to_k, attn.to_v
    return OneProduct() if all(type(p) is nn.Linear and p.bias is None and _at_home(p) for p in parts) else None


def _attend(attn: Attention, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """(B, H, N, d), keys and values (B, H, L, d), bias (B, 1, 1, L) -> (B, N, C)"""
    found = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=attn.scale)
    project, dropout = attn.to_out
    return dropout(project(found.transpose(1, 2).flatten(2)))


def _version(x: Tensor) -> int:
    """A number that grows as the tensor is changed in place; those of torch.inference_mode have none."""
    return 0 if x.is_inference() else x._version


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, C) -> (B, H, N, d)"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _at_home(module: nn.Module) -> bool:
    """Whether it has no hook of its own that brings its weights for its forward pass alone."""
    return not any(hasattr(module, name) for name in ("_hf_hook", "_diffusers_hook"))


# --- convolutions ---------------------------------------------------------------------------------------------------


class _Packed:
    """A convolution's weights in the layout that oneDNN's kernel takes, for one shape of its input."""

    known: tuple[torch.Size, Tensor] | None = None


def _worth_packing(unet: nn.Module) -> list[nn.Conv2d]:
    """The convolutions of float32 on a CPU, where torch has oneDNN; none where a second copy of them is large."""
    if not torch.backends.mkldnn.is_available():
        return []
    convs = [m for m in unet.modules() if type(m) is nn.Conv2d and m.padding_mode == "zeros"]
    convs = [m for m in convs if "_conv_forward" not in m.__dict__]
    convs = [m for m in convs if m.weight.dtype == torch.float32 and m.weight.device.type == "cpu" and _at_home(m)]
    return convs if sum(m.weight.nbytes for m in convs) <= PACKED_BYTES else []


def _packed_convolution(conv: nn.Conv2d, packed: _Packed, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """In place of `conv._conv_forward`, where torch reorders the weights at every call: (B, I, h, w) -> (B, O, h, w)"""
    many = x.shape[0] * x.shape[2] * x.shape[3] > FEW_POSITIONS
    if many or torch.is_grad_enabled() or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return nn.Conv2d._conv_forward(conv, x, weight, bias)
    how = conv.padding, conv.stride, conv.dilation, conv.groups
    known = packed.known
    if known is None or known[0] != x.shape:
        plain = weight.detach().contiguous().to_mkldnn()
        packed.known = known = x.shape, torch._C._nn.mkldnn_reorder_conv2d_weight(plain, *how, x.shape)
    return torch.ops.mkldnn._convolution_pointwise(x, known[1], bias, *how, "none", [], "")
