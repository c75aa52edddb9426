"""Base classes of the autoregressive pixel models: causal convolutions, and sampling with and without a cache.

Pixels are in raster order, the channels within a pixel in sequence. A cached convolution computes one row or one
position of its output and stores its inputs, so that for a new pixel nothing is computed twice (Ramachandran et al.
2017, arXiv 1704.06001).

Shapes: B batch · C image channels · S image side · P parameters of a pixel's distribution · I, O channels of a layer
· s side of its maps · D uniform numbers for sampling a pixel
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.models.base import GenerativeModel, Generators, Likelihood, Partial, from_levels, to_levels, uniform


class Memory:
    """Cache of the inputs of a model's convolutions, for one batch of images."""

    def __init__(self, batch: int, side: int, like: Tensor):
        self.batch, self.side, self.like = batch, side, like
        self.buffers: dict[nn.Module, Tensor] = {}
        self.weights: dict[nn.Module, Tensor] = {}
        self.rows: dict = {}  # for the current row: what depends only on the rows above
        self.maps: dict = {}

    def zeros(self, channels: int, height: int, width: int) -> Tensor:
        return self.like.new_zeros(self.batch, channels, height, width)


class CausalConv(nn.Module):
    """A causal convolution: its output at (i, j) depends on rows up to i and, in row i, on columns as set by `columns`.

    Args:
        inputs, outputs: I and O.
        kernel: rows and columns; the rows end at i, or at i - 1 with `shift_down`.
        columns: "around" centres the kernel at j (valid only if the inputs of row i do not depend on row i's pixels);
            "left" ends it at j, or at j - 1 with `shift_right`.
        stride: stride of rows and columns.
        scale: number of times the image side is halved at the input.
        mask: (O, I) of zeros and ones, for the kernel's last column: which channels of the pixel itself are visible.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int] = (1, 1),
        columns: str = "left",
        shift_down: bool = False,
        shift_right: bool = False,
        stride: int = 1,
        scale: int = 0,
        mask: Tensor | None = None,
    ):
        super().__init__()
        height, width = kernel
        self.weight = nn.Parameter(torch.empty(outputs, inputs, height, width))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.kernel, self.stride, self.scale = kernel, stride, scale
        self.top = height - 1 + shift_down
        self.left = width // 2 if columns == "around" else width - 1 + shift_right
        self.right = width // 2 if columns == "around" else 0
        self.register_buffer("mask", None if mask is None else _last_column(mask, kernel), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, s, s) -> (B, O, s / stride, s / stride)"""
        side = x.shape[2] // self.stride
        x = F.pad(x, (self.left, self.right, self.top, 0))
        return F.conv2d(x, self._weight(), self.bias, self.stride)[:, :, :side, :side]

    def write(self, memory: Memory, value: Tensor, i: int, j: int | None) -> None:
        """Store the input at position (i, j), (B, I, 1, 1), or of the whole row i, (B, I, 1, s)."""
        buffer = self._buffer(memory)[:, :, i + self.top]
        if j is None:
            buffer[:, :, self.left : self.left + value.shape[3]] = value[:, :, 0]
        else:
            buffer[:, :, j + self.left] = value[:, :, 0, 0]

    def read(self, memory: Memory, i: int, j: int | None) -> Tensor:
        """The output at position (i, j), (B, O, 1, 1), or of the whole row i, (B, O, 1, s / stride)."""
        rows = self._buffer(memory).narrow(2, i * self.stride, self.kernel[0])
        if self not in memory.weights:
            memory.weights[self] = self._weight().contiguous()
        weight = memory.weights[self]
        if j is None:
            return F.conv2d(rows, weight, self.bias, (1, self.stride))[
                ..., : (memory.side >> self.scale) // self.stride
            ]
        patch = rows.narrow(3, j * self.stride, self.kernel[1])
        return F.linear(patch.reshape(memory.batch, -1), weight.flatten(1), self.bias)[:, :, None, None]

    def step(self, memory: Memory, value: Tensor, i: int, j: int | None) -> Tensor:
        """`write`, then `read` at the same position; i and j are those of the input, divisible by the stride."""
        if self.kernel == (1, 1):
            if j is None:
                return F.conv2d(value, self._weight(), self.bias)
            return F.linear(value.flatten(1), self._weight().flatten(1), self.bias)[:, :, None, None]
        self.write(memory, value, i, j)
        return self.read(memory, i // self.stride, None if j is None else j // self.stride)

    def _weight(self) -> Tensor:
        return self.weight if self.mask is None else self.weight * self.mask

    def _buffer(self, memory: Memory) -> Tensor:
        if self not in memory.buffers:
            side, inputs = memory.side >> self.scale, self.weight.shape[1]
            memory.buffers[self] = memory.zeros(inputs, side + self.top, side + self.left + self.right)
        return memory.buffers[self]


def channel_mask(kind: str, inputs: Tensor, outputs: Tensor) -> Tensor:
    """Mask of the inputs visible to each output within a pixel: image channels (I,) and (O,) -> (O, I).

    "A": preceding channels only; "B": also the same channel, for layers after one with mask A (van den Oord et al.
    2016, arXiv 1601.06759, §3.4).
    """
    before = inputs[None] < outputs[:, None]
    return (before if kind == "A" else before | (inputs[None] == outputs[:, None])).float()


def channel_groups(width: int, channels: int) -> Tensor:
    """Assignment of `width` feature maps to the image channels: (width,) integers in [0, channels)"""
    return torch.arange(width) * channels // width


def _last_column(mask: Tensor, kernel: tuple[int, int]) -> Tensor:
    whole = torch.ones(*mask.shape, *kernel)
    whole[:, :, -1, -1] = mask
    return whole


class Autoregressive(GenerativeModel):
    """p(x) = Π p(x_i | x_1 … x_{i-1}) over pixels.

    Subclasses compute the parameters of every pixel's distribution in one pass (`forward`), and for one position at a
    time (`_begin_row`, `_at`, `_seen`).
    """

    likelihood: ClassVar[Likelihood] = "exact"
    partial: ClassVar[Partial] = "last"
    draws: int  # D
    channel_by_channel: bool  # whether the network must be updated after each channel of a pixel

    def forward(self, images: Tensor, y: Tensor | None = None) -> Tensor:
        """Images of L levels (B, C, S, S) -> parameters (B, P, S, S); those at (i, j) depend on preceding pixels."""
        raise NotImplementedError

    def log_prob(self, images: Tensor, y: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """ln P(x | y), exact: images of L levels (B, C, S, S) -> nats (B,).

        With `known`, ln P of those pixels; the pixels after them are marginalised out.
        Raises ValueError for other images, and if an unknown pixel precedes a known one.
        """
        self._check(images, y)
        nats = self._nats(images, y)  # (B, S, S)
        if known is not None:
            known = self._check_known(known, len(images))[:, 0].to(nats.device)
            if (known.flatten(1).diff(dim=1) & known.flatten(1)[:, 1:]).any():  # from unknown to known
                raise ValueError("a pixel's probability is given all before it: only the last pixels may be unknown")
            nats = nats.where(known, 0.0)
        return nats.flatten(1).sum(1)

    def _nats(self, images: Tensor, y: Tensor | None) -> Tensor:
        """Log-probability of each pixel given the preceding ones: (B, C, S, S) -> (B, S, S)"""
        raise NotImplementedError

    def _choose(self, parameters: Tensor, channel: int, u: Tensor, pixel: Tensor) -> Tensor:
        """Sample one channel: parameters (B, P), uniform (B, D), the pixel (B, C) so far -> (B,) in [-1, 1]"""
        raise NotImplementedError

    def _memory(self, n: int, y: Tensor | None) -> Memory:
        """An empty cache for n images."""
        return Memory(n, self.shape[1], next(self.parameters()))

    def _begin_row(self, memory: Memory, i: int) -> None:
        """Called when all rows before i are known."""
        raise NotImplementedError

    def _at(self, memory: Memory, i: int, j: int) -> Tensor:
        """Parameters (B, P) at (i, j), given all preceding pixels and the channels passed to `_seen`."""
        raise NotImplementedError

    def _seen(self, memory: Memory, pixel: Tensor, i: int, j: int) -> None:
        """Pass the pixel's channels so far, (B, C, 1, 1), to the network."""
        raise NotImplementedError

    def sample(self, n: int, y: Tensor | None = None, generator: Generators = None, cached: bool = True) -> Tensor:
        """See `GenerativeModel`; without `cached`, every pixel takes a full forward pass, with the same result."""
        nothing = torch.zeros(n, *self.shape, device=self.device, dtype=self.dtype)
        return self.complete(nothing, torch.zeros(self.shape[1:], dtype=torch.bool), y, generator, cached)

    @torch.no_grad()
    def complete(
        self,
        images: Tensor,
        known: Tensor,
        y: Tensor | None = None,
        generator: Generators = None,
        cached: bool = True,
    ) -> Tensor:
        """Sample the unknown pixels, each given all preceding pixels, known or sampled.

        Args:
            images: (B, C, S, S) of L levels; only their known pixels are used.
            known: bool (S, S).

        Returns:
            (B, C, S, S). Raises ValueError for other shapes.
        """
        channels, side = self.shape[:2]
        if known.shape != self.shape[1:] or known.dtype != torch.bool:
            raise ValueError(f"known must be bool {tuple(self.shape[1:])}, not {known.dtype} {tuple(known.shape)}")
        self._check(images, y)
        images = torch.where(known.to(images.device), images, torch.zeros_like(images))
        u = uniform((len(images), self.draws, side, side), generator, images.device, images.dtype)
        memory = self._memory(len(images), y) if cached else None
        for i in range(side):
            if memory is not None:
                self._begin_row(memory, i)
            for j in range(side):
                for c in range(0 if not known[i, j] else channels, channels):
                    if c == 0 or self.channel_by_channel:
                        parameters = self(images, y)[:, :, i, j] if memory is None else self._at(memory, i, j)
                    images[:, c, i, j] = self._choose(parameters, c, u[:, :, i, j], images[:, :, i, j])
                    if memory is not None:
                        self._seen(memory, images[:, :, i : i + 1, j : j + 1], i, j)
                if known[i, j] and memory is not None:
                    self._seen(memory, images[:, :, i : i + 1, j : j + 1], i, j)
                    self._at(memory, i, j)
        return images


class Categorical(Autoregressive):
    """Pixels with a softmax over the L levels of each channel: P = C · L, with the logits of a channel adjacent."""

    channel_by_channel = True

    @property
    def draws(self) -> int:
        return self.shape[0]

    def _nats(self, images: Tensor, y: Tensor | None) -> Tensor:
        k = to_levels(images, self.levels)
        logits = self(images, y).unflatten(1, (self.shape[0], self.levels)).transpose(1, 2)  # (B, L, C, S, S)
        return -F.cross_entropy(logits.float(), k, reduction="none").sum(1)

    def _choose(self, parameters: Tensor, channel: int, u: Tensor, pixel: Tensor) -> Tensor:
        logits = parameters.unflatten(1, (self.shape[0], self.levels))[:, channel]  # (B, L)
        below = logits.float().softmax(1).cumsum(1)[:, :-1] <= u[:, channel, None]
        return from_levels(below.sum(1), self.levels)
