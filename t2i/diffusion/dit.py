"""A diffusion transformer with cross-attention to text (Peebles and Xie 2023, arXiv 2212.09748, § 3.2).

The latent is split into patches, which attend to each other and to the text; the timestep scales, shifts and gates
every branch (adaLN-Zero: all gates start at 0, so that each block starts as the identity). As in PixArt-α (Chen et al.
2023, arXiv 2310.00426, § 2.3), all blocks share one projection of the timestep, to which each adds a learned table:
one projection per block would be a quarter of the parameters.

Shapes: B batch · I channels in · O latent channels out · h, w sides of the latent · p patch side
N = (h/p)(w/p) patches · C width · H heads · L text positions · D width of the text states
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from t2i.nn.attention import attend
from t2i.nn.linear import MLP, Linear

TIME_WIDTH = 256  # width of the sinusoidal timestep embedding


class DiT(ModelMixin, ConfigMixin):
    """A denoiser with the call signature of diffusers' UNet2DConditionModel.

    Args:
        sample_size: side of the latents it is trained on; any multiple of the patch side is accepted.
        in_channels: I.
        cross_attention_dim: D.
        patch_size: p.
        width, depth, heads: width, number of blocks and number of attention heads.
        out_channels: O; by default I.

    Raises ValueError if the patches do not tile the latent or the heads do not divide the width.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        sample_size: int = 8,
        in_channels: int = 8,
        cross_attention_dim: int = 192,
        patch_size: int = 1,
        width: int = 256,
        depth: int = 4,
        heads: int = 4,
        out_channels: int | None = None,
    ):
        super().__init__()
        if patch_size < 1 or sample_size % patch_size:
            raise ValueError(f"patches of side {patch_size} do not tile a latent of side {sample_size}")
        if heads < 1 or width % heads or width % 4:
            raise ValueError(f"width {width} must be divisible by {heads} heads, and by 4 for its positions")
        self.gradient_checkpointing = False
        self.patches = Linear(in_channels * patch_size**2, width)
        self.time = nn.Sequential(Linear(TIME_WIDTH, width), nn.SiLU(), Linear(width, width))
        self.modulation = nn.Sequential(nn.SiLU(), Linear(width, 6 * width))
        self.text_norm = nn.LayerNorm(cross_attention_dim)
        self.blocks = nn.ModuleList(Block(width, heads, cross_attention_dim) for _ in range(depth))
        self.last_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.last = Linear(width, (out_channels or in_channels) * patch_size**2)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for silent in (self.modulation[1], self.last, *(b.cross.out for b in self.blocks)):
            nn.init.zeros_(silent.weight)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = True,
        **others,
    ) -> UNet2DConditionOutput | tuple[Tensor]:
        """(B, I, h, w), timesteps (B,) or one, states (B, L, D), mask (B, L) true where there is text -> (B, O, h, w).

        Raises ValueError for a latent that the patches do not tile, and for U-Net arguments that are not None.
        """
        if given := [name for name, value in others.items() if value is not None]:
            raise ValueError(f"a DiT takes no {given[0]}")
        B, _, h, w = sample.shape
        p = self.config.patch_size
        if h % p or w % p:
            raise ValueError(f"patches of side {p} do not tile a latent of {h}×{w}")
        time = torch.as_tensor(timestep, device=sample.device).expand(B)
        c = self.time(sines(time, TIME_WIDTH).to(self.dtype))  # (B, C)
        modulation = self.modulation(c).view(B, 6, -1)  # (B, 6, C)
        text = self.text_norm(encoder_hidden_states.to(self.dtype))
        mask = None if encoder_attention_mask is None else encoder_attention_mask.bool()[:, None, None]  # (B, 1, 1, L)
        patches = F.pixel_unshuffle(sample, p).flatten(2).transpose(1, 2)  # (B, N, I·p²)
        x = self.patches(patches.to(self.dtype)) + positions(h // p, w // p, self.config.width).to(sample)  # (B, N, C)
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, text, modulation, mask, use_reentrant=False)
            else:
                x = block(x, text, modulation, mask)
        shift, scale = (c[:, None] + self.last_table).unsqueeze(2).unbind(1)  # (B, 1, C) twice
        x = self.last(_norm(x) * (1 + scale) + shift)  # (B, N, O·p²)
        out = F.pixel_shuffle(x.transpose(1, 2).unflatten(2, (h // p, w // p)), p)  # (B, O, h, w)
        return UNet2DConditionOutput(sample=out) if return_dict else (out,)


class Block(nn.Module):
    """Transformer block: self-attention, cross-attention, MLP."""

    def __init__(self, width: int, heads: int, text_width: int):
        super().__init__()
        self.table = nn.Parameter(torch.randn(6, width) / width**0.5)
        with torch.no_grad():
            self.table[[2, 5]] = 0  # the gates
        self.heads = heads
        self.qkv, self.out = Linear(width, 3 * width), Linear(width, width)
        self.cross = CrossAttention(width, heads, text_width)
        self.mlp = MLP(width)

    def forward(self, x: Tensor, text: Tensor, modulation: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, N, C), (B, L, D), (B, 6, C), (B, 1, 1, L) -> (B, N, C)"""
        shift, scale, gate, shift2, scale2, gate2 = (modulation + self.table).unsqueeze(2).unbind(1)  # (B, 1, C) each
        q, k, v = (_heads(t, self.heads) for t in self.qkv(_norm(x) * (1 + scale) + shift).chunk(3, -1))
        x = x + gate * self.out(_joined(attend(q, k, v, causal=False)))
        x = x + self.cross(x, text, mask)
        return x + gate2 * self.mlp(_norm(x) * (1 + scale2) + shift2)


class CrossAttention(nn.Module):
    """Cross-attention from the patches to the text."""

    def __init__(self, width: int, heads: int, text_width: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.q, self.kv, self.out = Linear(width, width), Linear(text_width, 2 * width), Linear(width, width)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, N, C), (B, L, D), (B, 1, 1, L) -> (B, N, C)"""
        q = _heads(self.q(self.norm(x)), self.heads)  # (B, H, N, C/H)
        k, v = (_heads(t, self.heads) for t in self.kv(text).chunk(2, -1))  # (B, H, L, C/H)
        return self.out(_joined(F.scaled_dot_product_attention(q, k, v, attn_mask=mask)))


def sines(numbers: Tensor, width: int) -> Tensor:
    """(…,) -> their cosines and sines at width/2 frequencies from 1 down to 1/10000: float32 (…, width)"""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(width // 2, device=numbers.device) / (width // 2))
    angles = numbers.float().unsqueeze(-1) * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def positions(rows: int, columns: int, width: int) -> Tensor:
    """Positional embeddings of the patches, half of them for the row, half for the column: (rows · columns, width)"""
    row, column = sines(torch.arange(rows), width // 2), sines(torch.arange(columns), width // 2)
    row, column = row[:, None].expand(-1, columns, -1), column[None].expand(rows, -1, -1)
    return torch.cat([row, column], -1).flatten(0, 1)


def _norm(x: Tensor) -> Tensor:
    """Layer norm without scale and shift, which the timestep provides."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, C) -> (B, H, N, C/H)"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    """(B, H, N, C/H) -> (B, N, C)"""
    return x.transpose(1, 2).flatten(2)
