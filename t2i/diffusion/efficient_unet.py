"""A U-Net for pixels, conditioned on text, in the style of Imagen's Efficient U-Net (Saharia et al. 2022, arXiv
2205.11487, § 2.4 and appendix B): for base models and for super-resolution.

Each level reduces the side before its blocks on the way down and enlarges it after them on the way up, so that no block
works at the full side; there are more blocks where the side is small; skip connections are scaled by 1/√2. The text has
two ways in: its pooled state is added to the embedding of the timestep, and the pixels of some levels attend to all of
its states. Layer norm of the states matters (§ 2.4).

Shapes: B batch · S image side · C channels of a level · h, w sides of a level · N = hw positions · E embedding width
L text positions · D width of the text states
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from t2i.diffusion.dit import TIME_WIDTH, CrossAttention, sines
from t2i.nn.attention import SelfAttention
from t2i.nn.linear import Linear

LEVEL_SCALE = 1000  # augmentation levels in [0, 1] are embedded as timesteps are


class EfficientUNet(ModelMixin, ConfigMixin):
    """A denoiser of RGB images with the call signature of diffusers' UNet2DConditionModel.

    Args:
        sample_size: S; sides that the strides of all levels divide are accepted too.
        cross_attention_dim: D.
        low_resolution: side of the low-resolution images that a super-resolution model is conditioned on; None for a
            base model.
        block_out_channels: Channels of each level, fine to coarse.
        layers_per_block: Residual blocks of each level on the way down, and as many on the way up.
        cross_attention: Whether the pixels of each level attend to the text.
        self_attention: Whether the pixels of each level attend to each other.
        first_stride: Factor by which the first level reduces the side: 2, as in Imagen's super-resolution models, or 1,
            which takes about four times as long; every further level halves it.
        head_width: Channels per attention head.
        norm_groups: Groups of each group norm.

    Raises ValueError for sizes that do not fit together.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        sample_size: int,
        cross_attention_dim: int,
        low_resolution: int | None = None,
        block_out_channels: tuple[int, ...] = (64, 96, 128),
        layers_per_block: tuple[int, ...] = (1, 2, 3),
        cross_attention: tuple[bool, ...] = (False, True, True),
        self_attention: tuple[bool, ...] = (False, False, True),
        first_stride: int = 2,
        head_width: int = 32,
        norm_groups: int = 8,
    ):
        super().__init__()
        widths = list(block_out_channels)
        levels = (layers_per_block, cross_attention, self_attention)
        _check_sizes(sample_size, low_resolution, widths, levels, first_stride, head_width, norm_groups)
        self.gradient_checkpointing = False
        self.in_channels = 3 if low_resolution is None else 6
        self.strides = [first_stride, *[2] * (len(widths) - 1)]
        E = 4 * widths[0]
        self.time = _embedding(TIME_WIDTH, E)
        self.level = None if low_resolution is None else _embedding(TIME_WIDTH, E)
        self.text_norm = nn.LayerNorm(cross_attention_dim)
        self.pooled = _embedding(cross_attention_dim, E)
        self.conv_in = nn.Conv2d(self.in_channels, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, (width, layers, crosses, attends) in enumerate(zip(widths, *levels, strict=True)):
            finer = widths[max(0, i - 1)]
            options = (E, norm_groups, head_width, cross_attention_dim if crosses else None, attends)
            self.down.append(Down(finer, width, self.strides[i], layers, *options))
            self.up.insert(0, Up(width, finer, self.strides[i], layers, *options))
        self.norm_out = AdaptiveNorm(2 * widths[0], E, norm_groups)
        self.conv_out = nn.Conv2d(2 * widths[0], 3, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        augmentation_level: Tensor | float | None = None,
        return_dict: bool = True,
        **others,
    ) -> UNet2DConditionOutput | tuple[Tensor]:
        """(B, 3, S, S), timesteps (B,) or one, states (B, L, D), mask (B, L) true where there is text -> (B, 3, S, S).

        A super-resolution model takes (B, 6, S, S), the noisy image and the upsampled low-resolution one, and the level
        of the noise in the latter, from 0 to 1, (B,) or one.

        Raises ValueError for a side that the strides do not divide, for a level that is missing or of no use, and for
        U-Net arguments that are not None.
        """
        if given := [name for name, value in others.items() if value is not None]:
            raise ValueError(f"an EfficientUNet takes no {given[0]}")
        self._check_inputs(sample, augmentation_level)
        B, dtype = len(sample), self.dtype
        text = self.text_norm(encoder_hidden_states.to(dtype))  # (B, L, D)
        mask = None if encoder_attention_mask is None else encoder_attention_mask.bool()
        e = self.time(self._sines(timestep, B, sample)) + self.pooled(masked_mean(text, mask))  # (B, E)
        if self.level is not None:
            e = e + self.level(self._sines(torch.as_tensor(augmentation_level) * LEVEL_SCALE, B, sample))
        e, keep = F.silu(e), None if mask is None else mask[:, None, None]  # (B, 1, 1, L)

        x = first = self.conv_in(sample.to(dtype))  # (B, C, S, S)
        skips = []
        for level in self.down:
            x = self._run(level, x, e, text, keep)  # (B, C, h, w)
            skips.append(x)
        for level in self.up:
            x = self._run(level, _with_skip(x, skips.pop()), e, text, keep)
        out = self.conv_out(F.silu(self.norm_out(_with_skip(x, first), e)))  # (B, 3, S, S)
        return UNet2DConditionOutput(sample=out) if return_dict else (out,)

    def _run(self, level: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(level, *inputs, use_reentrant=False)
        return level(*inputs)

    def _sines(self, numbers: Tensor | float, B: int, like: Tensor) -> Tensor:
        """(B,) or one -> (B, TIME_WIDTH)"""
        return sines(torch.as_tensor(numbers, device=like.device).expand(B), TIME_WIDTH).to(self.dtype)

    def _check_inputs(self, sample: Tensor, augmentation_level: Tensor | float | None) -> None:
        channels, h, w = sample.shape[1:]
        if channels != self.in_channels:
            raise ValueError(f"this EfficientUNet takes {self.in_channels} channels, not {channels}")
        if h % (stride := math.prod(self.strides)) or w % stride:
            raise ValueError(f"an image of {w}×{h} is not divisible by {stride}")
        if (augmentation_level is None) != (self.level is None):
            needed = "needs" if augmentation_level is None else "takes no"
            kind = "base" if self.level is None else "super-resolution"
            raise ValueError(f"a {kind} model {needed} augmentation_level")


class AdaptiveNorm(nn.Module):
    """Group norm, scaled and shifted by the embedding."""

    def __init__(self, channels: int, embedding: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)
        self.modulation = Linear(embedding, 2 * channels)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """(B, C, h, w), (B, E) -> (B, C, h, w)"""
        scale, shift = self.modulation(e)[:, :, None, None].chunk(2, 1)  # (B, C, 1, 1) each
        return self.norm(x) * (1 + scale) + shift


class Block(nn.Module):
    """Residual block with the embedding of time and text, followed by attention.

    Args:
        text: width of the text states for cross-attention; None without.
    """

    def __init__(self, inputs: int, channels: int, embedding: int, groups: int, head: int, text: int | None, own: bool):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, inputs), nn.Conv2d(inputs, channels, 3, padding=1)
        self.norm2, self.conv2 = AdaptiveNorm(channels, embedding, groups), nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Identity() if inputs == channels else nn.Conv2d(inputs, channels, 1)
        heads = channels // head
        self.own_norm, self.own = (nn.LayerNorm(channels), SelfAttention(channels, heads)) if own else (None, None)
        self.cross = None if text is None else CrossAttention(channels, heads, text)
        for last in (self.conv2, self.own and self.own.out, self.cross and self.cross.out):
            if last is not None:  # every block starts as the identity
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, e: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        """(B, C, h, w), (B, E), (B, L, D), (B, 1, 1, L) -> (B, C, h, w)"""
        hidden = self.conv1(F.silu(self.norm1(x)))
        x = self.shortcut(x) + self.conv2(F.silu(self.norm2(hidden, e)))
        if self.own is None and self.cross is None:
            return x
        size, y = x.shape[2:], x.flatten(2).transpose(1, 2)  # (B, N, C)
        if self.own is not None:
            y = y + self.own(self.own_norm(y))
        if self.cross is not None:
            y = y + self.cross(y, text, mask)
        return y.transpose(1, 2).unflatten(2, size)


class Down(nn.Module):
    """A level on the way down: first the convolution that reduces the side, then the blocks."""

    def __init__(self, inputs: int, channels: int, stride: int, layers: int, *options):
        super().__init__()
        self.reduce = nn.Conv2d(inputs, channels, 3, stride, padding=1)
        self.blocks = nn.ModuleList(Block(channels, channels, *options) for _ in range(layers))

    def forward(self, x: Tensor, e: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        x = self.reduce(x)
        for block in self.blocks:
            x = block(x, e, text, mask)
        return x


class Up(nn.Module):
    """A level on the way up, with twice the channels at its input: the blocks, then the one that enlarges the side."""

    def __init__(self, channels: int, outputs: int, stride: int, layers: int, *options):
        super().__init__()
        self.blocks = nn.ModuleList(Block(channels if i else 2 * channels, channels, *options) for i in range(layers))
        self.stride, self.enlarge = stride, nn.Conv2d(channels, outputs, 3, padding=1)

    def forward(self, x: Tensor, e: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        for block in self.blocks:
            x = block(x, e, text, mask)
        return self.enlarge(x if self.stride == 1 else F.interpolate(x, scale_factor=float(self.stride)))


def masked_mean(states: Tensor, mask: Tensor | None) -> Tensor:
    """The pooled text state: (B, L, D), mask (B, L) -> mean over the text, (B, D)"""
    if mask is None:
        return states.mean(1)
    weights = mask.to(states.dtype).unsqueeze(-1)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def _with_skip(x: Tensor, skip: Tensor) -> Tensor:
    """(B, C, h, w) twice -> (B, 2C, h, w)"""
    return torch.cat([x, skip / math.sqrt(2)], 1)


def _embedding(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(Linear(inputs, width), nn.SiLU(), Linear(width, width))


def _check_sizes(
    size: int,
    low_resolution: int | None,
    widths: list[int],
    levels: tuple[tuple, ...],
    first_stride: int,
    head_width: int,
    groups: int,
) -> None:
    names = ("layers_per_block", "cross_attention", "self_attention")
    for name, values in zip(names, levels, strict=True):
        if len(values) != len(widths):
            raise ValueError(f"block_out_channels has {len(widths)} levels and {name} {len(values)}: give as many")
    if not widths or min(levels[0]) < 1 or first_stride not in (1, 2):
        raise ValueError("give at least one level, at least one block in each, and a first_stride of 1 or 2")
    if any(width % head_width or width % groups for width in widths):
        raise ValueError(f"block_out_channels must be divisible by head_width {head_width} and norm_groups {groups}")
    if size % (stride := first_stride * 2 ** (len(widths) - 1)):
        raise ValueError(f"images of {size} pixels are not divisible by {stride}: give fewer levels or another size")
    if low_resolution is not None and (low_resolution >= size or size % low_resolution):
        raise ValueError(f"super-resolution from {low_resolution} to {size} pixels is not by a whole factor above 1")
