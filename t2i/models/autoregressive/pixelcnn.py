"""PixelCNN: masked convolutions (van den Oord et al. 2016, "Pixel Recurrent Neural Networks", arXiv 1601.06759, §3).

Shapes: B batch · C image channels · S image side · L levels · W width of the blocks, 2·W between them
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from t2i.models.autoregressive.causal import Categorical, CausalConv, Memory, channel_groups, channel_mask


class MaskedConv(nn.Module):
    """A k × k convolution with mask A or B, split into the kernel rows above and the left part of the middle row.

    With the split, nothing is multiplied with zeros, and the first part is computed once per row.
    """

    def __init__(self, inputs: Tensor, outputs: Tensor, kernel: int, kind: str):
        super().__init__()
        reach, sizes = kernel // 2, (len(inputs), len(outputs))
        mask = channel_mask(kind, inputs, outputs)
        self.above = CausalConv(*sizes, (reach, kernel), "around", shift_down=True) if reach else None
        self.left = CausalConv(*sizes, (1, reach + 1), mask=mask)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, S, S) -> (B, O, S, S)"""
        return self.left(x) if self.above is None else self.left(x) + self.above(x)

    def begin_row(self, memory: Memory, i: int) -> None:
        if self.above is not None:
            memory.rows[self] = self.above.read(memory, i, None)

    def at(self, memory: Memory, value: Tensor, i: int, j: int) -> Tensor:
        """(B, I, 1, 1), the input at position (i, j) -> (B, O, 1, 1)"""
        found = self.left.step(memory, value, i, j)
        if self.above is None:
            return found
        self.above.write(memory, value, i, j)
        return found + memory.rows[self][..., j : j + 1]


class MaskedBlock(nn.Module):
    """x + 1×1(relu(3×3(relu(1×1(relu(x)))))), fig. 5 of the paper."""

    def __init__(self, width: int, channels: int, kernel: int, dropout: float):
        super().__init__()
        wide, narrow = channel_groups(2 * width, channels), channel_groups(width, channels)
        self.convs = nn.ModuleList(
            [
                MaskedConv(wide, narrow, 1, "B"),
                MaskedConv(narrow, narrow, kernel, "B"),
                MaskedConv(narrow, wide, 1, "B"),
            ]
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2·W, S, S) -> the same"""
        h = x
        for conv in self.convs:
            h = conv(F.relu(h))
        return x + self.dropout(h)

    def begin_row(self, memory: Memory, i: int) -> None:
        for conv in self.convs:
            conv.begin_row(memory, i)

    def at(self, memory: Memory, x: Tensor, i: int, j: int) -> Tensor:
        h = x
        for conv in self.convs:
            h = conv.at(memory, F.relu(h), i, j)
        return x + h


class Residual(Categorical):
    """A convolution with mask A, residual layers with mask B, two 1×1 layers, and a softmax over the levels."""

    def _assemble(self, width: int, first_kernel: int, layers: Iterable[nn.Module]) -> None:
        """Build the network. Layers take 2·W maps, divided among the channels, and have `begin_row` and `at`."""
        channels = self.shape[0]
        wide = channel_groups(2 * width, channels)
        logits = torch.arange(channels).repeat_interleave(self.levels)
        self.first = MaskedConv(torch.arange(channels), wide, first_kernel, "A")
        self.label = nn.Embedding(self.num_classes, 2 * width) if self.conditional else None
        self.layers = nn.ModuleList(layers)
        self.last = nn.ModuleList([MaskedConv(wide, wide, 1, "B"), MaskedConv(wide, logits, 1, "B")])

    def forward(self, images: Tensor, y: Tensor | None = None) -> Tensor:
        """Images of L levels (B, C, S, S) -> logits (B, C·L, S, S)"""
        h = self.first(images.to(self.dtype))
        if y is not None:
            h = h + self.label(y)[:, :, None, None]
        for layer in self.layers:
            h = layer(h)
        for layer in self.last:
            h = layer(F.relu(h))
        return h

    def _memory(self, n: int, y: Tensor | None) -> Memory:
        memory = super()._memory(n, y)
        memory.maps["label"] = 0 if y is None else self.label(y)[:, :, None, None]
        return memory

    def _begin_row(self, memory: Memory, i: int) -> None:
        self.first.begin_row(memory, i)
        for layer in self.layers:
            layer.begin_row(memory, i)

    def _seen(self, memory: Memory, pixel: Tensor, i: int, j: int) -> None:
        self.first.left.write(memory, pixel, i, j)
        self.first.above.write(memory, pixel, i, j)

    def _at(self, memory: Memory, i: int, j: int) -> Tensor:
        h = self.first.left.read(memory, i, j) + memory.rows[self.first][..., j : j + 1] + memory.maps["label"]
        for layer in self.layers:
            h = layer.at(memory, h, i, j)
        for layer in self.last:
            h = layer.at(memory, F.relu(h), i, j)
        return h[:, :, 0, 0]


class PixelCNN(Residual):
    """A 7×7 convolution with mask A, residual blocks with mask B, two 1×1 layers, and a softmax over the levels.

    Its receptive field has a blind spot: pixels above and to the right that no path reaches. `GatedPixelCNN` has none.

    Args:
        image_size, channels, levels, num_classes: Properties of the images, see `GenerativeModel`.
        width: Half of the channels between residual blocks, W, a multiple of `channels`.
        blocks: Number of residual blocks.
        kernel: Kernel size of the blocks' convolutions; odd.
        first_kernel: Kernel size of the first convolution; odd.
        dropout: Dropout probability of the blocks' outputs.

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
        blocks: int = 7,
        kernel: int = 3,
        first_kernel: int = 7,
        dropout: float = 0.1,
    ):
        super().__init__()
        self._declare(image_size, channels, levels, num_classes)
        check_sizes(width, channels, blocks, kernel, first_kernel)
        self._assemble(width, first_kernel, (MaskedBlock(width, channels, kernel, dropout) for _ in range(blocks)))


def check_sizes(width: int, channels: int, blocks: int, *kernels: int) -> None:
    """Raise ValueError unless the width is a multiple of the channels and the kernel sizes are odd."""
    if width < channels or width % channels or blocks < 1:
        raise ValueError(f"width must be a multiple of {channels} and blocks at least 1, not {width} and {blocks}")
    if any(kernel < 3 or kernel % 2 == 0 for kernel in kernels):
        raise ValueError(f"kernels must be odd and at least 3, not {kernels}")
