"""Gated PixelCNN: two stacks without a blind spot, optionally class-conditional (van den Oord et al. 2016,
arXiv 1606.05328, §2).

Shapes: B batch · C image channels · S image side · L levels · W width
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from t2i.models.autoregressive.causal import Categorical, CausalConv, Memory, channel_groups, channel_mask
from t2i.models.autoregressive.pixelcnn import check_sizes


class GatedLayer(nn.Module):
    """Fig. 2: the vertical stack sees the rows above; the horizontal one the pixels to the left and the vertical stack.

    Args:
        inputs: image channel of each input of the horizontal stack; the vertical one has the same number.
        kernel: odd kernel size, of which the vertical stack uses (kernel + 1) / 2 rows, the horizontal one columns.
        first: whether the inputs are pixels: the vertical stack is then shifted by a row, and the horizontal mask is A.
    """

    def __init__(
        self, inputs: Tensor, width: int, channels: int, kernel: int, classes: int, dropout: float, first: bool
    ):
        super().__init__()
        reach, maps = kernel // 2 + 1, channel_groups(width, channels)
        both, mask = maps.repeat(2), "A" if first else "B"  # tanh's half, then sigmoid's
        self.vertical = CausalConv(len(inputs), 2 * width, (reach, kernel), "around", shift_down=first)
        self.horizontal = CausalConv(len(inputs), 2 * width, (1, reach), mask=channel_mask(mask, inputs, both))
        self.down = CausalConv(2 * width, 2 * width)
        self.out = CausalConv(width, width, mask=channel_mask("B", maps, maps))
        self.label = nn.Embedding(classes, 4 * width) if classes else None
        self.dropout = nn.Dropout(dropout)
        self.first = first

    def forward(self, v: Tensor, h: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, I, S, S) twice -> (B, W, S, S) twice"""
        for_v, for_h = self.labels(y)
        v = self.vertical(v)
        across = self.dropout(self.out(gate(self.horizontal(h) + self.down(v) + for_h)))
        return gate(v + for_v), across if self.first else h + across

    def labels(self, y: Tensor | None) -> tuple[Tensor | int, Tensor | int]:
        """The biases that labels (B,) add to the gates of the two stacks, eq. 4: (B, 2·W, 1, 1) each"""
        return (0, 0) if y is None else self.label(y)[:, :, None, None].chunk(2, dim=1)


def gate(x: Tensor) -> Tensor:
    """tanh(a) · σ(b), eq. 2: (B, 2·W, …) -> (B, W, …)"""
    a, b = x.chunk(2, dim=1)
    return a.tanh() * b.sigmoid()


class GatedPixelCNN(Categorical):
    """Gated layers, two 1×1 layers, and a softmax over the levels; with labels, p(x | y).

    Args:
        image_size, channels, levels, num_classes: Properties of the images, see `GenerativeModel`.
        width: Channels, W, a multiple of `channels`.
        layers: Number of gated layers after the first.
        kernel: Kernel size of the layers after the first; odd. Each sees kernel // 2 rows further up: if the context
            does not span an object, samples may begin a second one below it.
        first_kernel: Kernel size of the first layer; odd.
        dropout: Dropout probability of the layers' outputs.

    Raises ValueError for sizes that do not fit together.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 28,
        channels: int = 1,
        levels: int = 2,
        num_classes: int = 0,
        width: int = 32,
        layers: int = 8,
        kernel: int = 5,
        first_kernel: int = 7,
        dropout: float = 0.1,
    ):
        super().__init__()
        self._declare(image_size, channels, levels, num_classes)
        check_sizes(width, channels, layers, kernel, first_kernel)
        pixel, maps = torch.arange(channels), channel_groups(width, channels)
        logits = torch.arange(channels).repeat_interleave(levels)
        rest = (width, channels, kernel, num_classes, dropout, False)
        self.first = GatedLayer(pixel, width, channels, first_kernel, num_classes, dropout, True)
        self.stack = nn.ModuleList(GatedLayer(maps, *rest) for _ in range(layers))
        self.last = nn.ModuleList(
            [
                CausalConv(width, width, mask=channel_mask("B", maps, maps)),
                CausalConv(width, len(logits), mask=channel_mask("B", maps, logits)),
            ]
        )

    def forward(self, images: Tensor, y: Tensor | None = None) -> Tensor:
        """Images of L levels (B, C, S, S) -> logits (B, C·L, S, S)"""
        v = h = images.to(self.dtype)
        for layer in (self.first, *self.stack):
            v, h = layer(v, h, y)
        for layer in self.last:
            h = layer(F.relu(h))
        return h

    def _memory(self, n: int, y: Tensor | None) -> Memory:
        memory = super()._memory(n, y)
        memory.maps = {layer: layer.labels(y) for layer in (self.first, *self.stack)}
        return memory

    def _begin_row(self, memory: Memory, i: int) -> None:
        """Compute the vertical stack, and its contribution to the horizontal one in this row."""
        v = None
        for layer in (self.first, *self.stack):
            for_v, for_h = memory.maps[layer]
            v = layer.vertical.read(memory, i, None) if v is None else layer.vertical.step(memory, v, i, None)
            memory.rows[layer] = layer.down.step(memory, v, i, None) + for_h
            v = gate(v + for_v)

    def _seen(self, memory: Memory, pixel: Tensor, i: int, j: int) -> None:
        self.first.vertical.write(memory, pixel, i, j)
        self.first.horizontal.write(memory, pixel, i, j)

    def _at(self, memory: Memory, i: int, j: int) -> Tensor:
        h = None
        for layer in (self.first, *self.stack):
            conv = layer.horizontal
            across = conv.read(memory, i, j) if h is None else conv.step(memory, h, i, j)
            across = layer.out.step(memory, gate(across + memory.rows[layer][..., j : j + 1]), i, j)
            h = across if h is None else h + across
        for layer in self.last:
            h = layer.step(memory, F.relu(h), i, j)
        return h[:, :, 0, 0]
