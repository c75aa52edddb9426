"""PixelRNN: LSTMs over the rows of an image, or over its diagonals (van den Oord et al. 2016, arXiv 1601.06759, §3).

Shapes: B batch · C image channels · S image side · L levels · W width of the LSTMs, 2·W between them
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from t2i.models.autoregressive.causal import CausalConv, Memory, channel_groups, channel_mask
from t2i.models.autoregressive.pixelcnn import MaskedConv, Residual, check_sizes

Kind = Literal["row", "diagonal"]


def cell(gates: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM, eq. 3: gates (B, 4·W, …) before their nonlinearities, c (B, W, …) -> new h and c"""
    o, f, i, g = gates.chunk(4, dim=1)
    memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
    return o.sigmoid() * memory.tanh(), memory


class RowLSTM(nn.Module):
    """Row by row from the top (§3.1); each state sees three states of the row above, so its context is a triangle.

    Args:
        inputs: image channel of each input, (2·W,).
        width: W.
        channels: C.
    """

    def __init__(self, inputs: Tensor, width: int, channels: int):
        super().__init__()
        mask = channel_mask("B", inputs, channel_groups(width, channels).repeat(4))
        self.input = CausalConv(len(inputs), 4 * width, (1, 2), mask=mask)  # 3 × 1 under mask B
        self.state = nn.Conv1d(width, 4 * width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2·W, S, S) -> h (B, W, S, S)"""
        gates = self.input(x)
        h = c = torch.zeros_like(gates[:, : gates.shape[1] // 4, 0])  # (B, W, S)
        rows = []
        for row in gates.unbind(2):
            h, c = cell(row + self.state(h), c)
            rows.append(h)
        return torch.stack(rows, dim=2)

    def begin_row(self, memory: Memory, i: int) -> None:
        if i == 0:
            width = self.state.weight.shape[1]
            memory.maps[self] = [memory.zeros(width, 1, memory.side)[:, :, 0] for _ in range(2)]  # h and c so far
        h, c = memory.maps[self]
        memory.rows[self] = self.state(h), c.clone()

    def at(self, memory: Memory, x: Tensor, i: int, j: int) -> Tensor:
        """(B, 2·W, 1, 1), the input of place (i, j) -> h (B, W, 1, 1)"""
        gates, above = memory.rows[self]
        h, c = cell(self.input.step(memory, x, i, j)[..., 0] + gates[..., j : j + 1], above[..., j : j + 1])
        for kept, new in zip(memory.maps[self], (h, c), strict=True):
            kept[..., j : j + 1] = new
        return h[..., None]


class DiagonalLSTM(nn.Module):
    """Diagonal by diagonal from the top left corner; each state sees the ones above and to the left.

    Its cell state comes from the left. The paper skews the image so that diagonals are columns (fig. 3), half of which
    is padding; here the positions are sorted by diagonals, without padding.
    """

    def __init__(self, width: int):
        super().__init__()
        self.state = nn.Conv1d(width, 4 * width, 2, bias=False)  # of the state above, and of the one to the left

    def forward(self, gates: Tensor) -> Tensor:
        """Contribution of the input to the gates, (B, 4·W, S, S) -> h (B, W, S, S)"""
        side = gates.shape[3]
        order = by_diagonals(side).to(gates.device)
        lengths = [*range(1, side + 1), *range(side - 1, 0, -1)]
        h = c = gates.new_zeros(len(gates), gates.shape[1] // 4, 0)
        found = []
        for d, diagonal in enumerate(gates.flatten(2)[..., order].split(lengths, dim=2)):
            if d < side:  # one row more than before, with nothing to its left; and above the first row is nothing
                h, c = F.pad(h, (1, 1)), F.pad(c, (0, 1))
            else:  # one row less
                c = c[..., 1:]
            h, c = cell(diagonal + self.state(h), c)
            found.append(h)
        return torch.cat(found, dim=2)[..., order.argsort()].unflatten(2, (side, side))

    def step(self, gates: Tensor, above: Tensor, left: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """One position: (B, 4·W), the states above and left and the cell left, (B, W) each -> h and c (B, W)"""
        return cell(gates + F.linear(torch.stack([above, left], 2).flatten(1), self.state.weight.flatten(1)), memory)


def by_diagonals(side: int) -> Tensor:
    """The positions i · S + j sorted by i + j, within a diagonal from the top: (S²,)"""
    places = torch.arange(side)
    return (places[:, None] + places).flatten().argsort(stable=True)


class DiagonalBiLSTM(nn.Module):
    """Two diagonal LSTMs, from the left and from the right (§3.2).

    The right one's output is shifted down by a row, so that no pixel sees a later one; it sees all channels of the row
    above, so it has no mask. Together they see all preceding pixels but one, as in the paper: after mask A, the right
    end of the row above is visible only from the next row on, or within the kernel of the first convolution.
    """

    def __init__(self, inputs: Tensor, width: int, channels: int):
        super().__init__()
        mask = channel_mask("B", inputs, channel_groups(width, channels).repeat(4))
        self.input = CausalConv(len(inputs), 4 * width, mask=mask)
        self.right_input = CausalConv(len(inputs), 4 * width)
        self.left, self.right = DiagonalLSTM(width), DiagonalLSTM(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2·W, S, S) -> h (B, W, S, S)"""
        from_right = self.right(self.right_input(x).flip(3)).flip(3)
        return self.left(self.input(x)) + F.pad(from_right, (0, 0, 1, -1))

    def begin_row(self, memory: Memory, i: int) -> None:
        """Compute the right LSTM for the whole row i - 1, whose inputs are now known."""
        if i == 0:
            memory.maps[self] = Diagonals(memory, self.left.state.weight.shape[1])
        else:
            self._from_right(memory.maps[self])
        memory.rows[self] = memory.maps[self].h[..., 1:].clone()

    def _from_right(self, kept: Diagonals) -> None:
        h = c = torch.zeros_like(kept.right[..., 0])
        for j in reversed(range(kept.right.shape[2])):
            h, c = self.right.step(kept.right_gates[..., j], kept.right[..., j], h, c)
            kept.right[..., j] = h

    def at(self, memory: Memory, x: Tensor, i: int, j: int) -> Tensor:
        """(B, 2·W, 1, 1), the input of place (i, j) -> h (B, W, 1, 1)"""
        kept, above = memory.maps[self], memory.rows[self]
        gates = self.input.step(memory, x, i, j)[:, :, 0, 0]
        kept.right_gates[..., j] = self.right_input.step(memory, x, i, j)[:, :, 0, 0]
        h, c = self.left.step(gates, above[..., j], kept.h[..., j], kept.c[..., j])
        kept.h[..., j + 1], kept.c[..., j + 1] = h, c
        return (h + kept.right[..., j])[:, :, None, None]


class Diagonals:
    """The cache of a `DiagonalBiLSTM` between positions.

    Attributes:
        h, c: states of the left LSTM, (B, W, S + 1), the latest of each column, after a column of zeros.
        right: h of the right LSTM in the row above, (B, W, S); right_gates: its input's gates in this row.
    """

    def __init__(self, memory: Memory, width: int):
        self.h, self.c = (memory.zeros(width, 1, memory.side + 1)[:, :, 0] for _ in range(2))
        self.right = memory.zeros(width, 1, memory.side)[:, :, 0]
        self.right_gates = memory.zeros(4 * width, 1, memory.side)[:, :, 0]


class LSTMBlock(nn.Module):
    """x + 1×1(LSTM(x)), §3.3 and fig. 5."""

    def __init__(self, kind: Kind, width: int, channels: int, dropout: float):
        super().__init__()
        wide = channel_groups(2 * width, channels)
        self.lstm = (RowLSTM if kind == "row" else DiagonalBiLSTM)(wide, width, channels)
        self.up = MaskedConv(channel_groups(width, channels), wide, 1, "B")
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2·W, S, S) -> the same"""
        return x + self.dropout(self.up(self.lstm(x)))

    def begin_row(self, memory: Memory, i: int) -> None:
        self.lstm.begin_row(memory, i)

    def at(self, memory: Memory, x: Tensor, i: int, j: int) -> Tensor:
        return x + self.up.at(memory, self.lstm.at(memory, x, i, j), i, j)


class PixelRNN(Residual):
    """A 7×7 convolution with mask A, residual LSTMs, two 1×1 layers, and a softmax over the levels (table 1).

    Args:
        image_size, channels, levels, num_classes: Properties of the images, see `GenerativeModel`.
        kind: 'row': LSTMs over the rows, whose context is a triangle of pixels; 'diagonal': over the diagonals, whose
            context is nearly all preceding pixels, at three times the cost.
        width: Channels of the LSTMs, W, a multiple of `channels`; half of those between them.
        blocks: Number of LSTMs, each with a residual connection.
        first_kernel: Kernel size of the first convolution; odd.
        dropout: Dropout probability of the layers' outputs.

    Raises ValueError for an unknown kind and sizes that do not fit together.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 28,
        channels: int = 1,
        levels: int = 2,
        num_classes: int = 0,
        kind: Kind = "row",
        width: int = 16,
        blocks: int = 7,
        first_kernel: int = 7,
        dropout: float = 0.1,
    ):
        super().__init__()
        self._declare(image_size, channels, levels, num_classes)
        if kind not in ("row", "diagonal"):
            raise ValueError(f"unknown kind {kind!r}: choose 'row' or 'diagonal'")
        check_sizes(width, channels, blocks, first_kernel)
        self._assemble(width, first_kernel, (LSTMBlock(kind, width, channels, dropout) for _ in range(blocks)))
