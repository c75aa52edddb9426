"""PixelCNN++: mixtures of discretised logistics at several resolutions (Salimans et al. 2017, arXiv 1701.05517).

Two streams of feature maps: at (i, j), the vertical one sees the rows above i, the horizontal one also row i before j.
Both go down through the resolutions and up again, with skip connections; the horizontal one is fed by the vertical one.

Shapes: B batch · C image channels · S image side · L levels · W width · M logistics · P parameters of a pixel
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from t2i.models.autoregressive.causal import Autoregressive, CausalConv, Memory
from t2i.models.pixel_likelihoods import discretized_logistic, logistic_levels


class GatedBlock(nn.Module):
    """x + a · σ(b), where a and b come from x and from a skip connection of `skip_width` channels: §2.3 and 2.5."""

    def __init__(self, width: int, skip_width: int, classes: int, dropout: float, **how):
        super().__init__()
        self.first = CausalConv(2 * width, width, **how)
        self.beside = CausalConv(2 * skip_width, width) if skip_width else None  # its name in saved weights
        self.second = CausalConv(2 * width, 2 * width, **how)
        self.second.weight.data *= 0.1  # close to the identity at first
        self.label = nn.Embedding(classes, 2 * width) if classes else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, skip: Tensor | None, y: Tensor | None, at: Whole | Place) -> Tensor:
        """(B, W, s, s), (B, skip_width, s, s), labels (B,) -> (B, W, s, s); or the row or position set by `at`"""
        h = at(self.first, concat_elu(x))
        if self.beside is not None:
            h = h + at(self.beside, concat_elu(skip))
        a, b = self._labelled(at(self.second, self.dropout(concat_elu(h))), y).chunk(2, dim=1)
        return x + a * b.sigmoid()

    def _labelled(self, h: Tensor, y: Tensor | None) -> Tensor:
        return h if y is None else h + self.label(y)[:, :, None, None]


def concat_elu(x: Tensor) -> Tensor:
    """(B, W, …) -> (B, 2·W, …)"""
    return F.elu(torch.cat([x, -x], dim=1))


class Stream(nn.Module):
    """One of the two streams: blocks down through the resolutions, and up again."""

    def __init__(self, width: int, resolutions: int, blocks: int, horizontal: bool, classes: int, dropout: float):
        super().__init__()
        how = {"kernel": (2, 2), "columns": "left"} if horizontal else {"kernel": (2, 3), "columns": "around"}
        sides = width * horizontal  # channels from the vertical stream

        def block(skip_width: int, scale: int) -> GatedBlock:
            return GatedBlock(width, skip_width, classes, dropout, scale=scale, **how)

        last = resolutions - 1
        self.down_blocks = nn.ModuleList(
            nn.ModuleList(block(sides, s) for _ in range(blocks)) for s in range(resolutions)
        )
        self.up_blocks = nn.ModuleList(
            nn.ModuleList(block(width + sides, s) for _ in range(blocks + (s < last))) for s in range(resolutions)
        )
        self.down = nn.ModuleList(CausalConv(width, width, stride=2, scale=s, **how) for s in range(last))
        self.up = nn.ModuleList(CausalConv(width, 4 * width) for _ in range(last))

    def forward(self, x: Tensor, sides: Sides | None, y: Tensor | None, at: Whole | Place) -> tuple[Tensor, Sides]:
        """(B, W, S, S), outputs of the vertical stream's blocks -> (B, W, S, S), outputs of these blocks"""
        gave: Sides = {}
        skips: list[list[Tensor]] = []
        deepest = at.deepest(len(self.down_blocks) - 1)
        for s in range(deepest + 1):
            x = at(self.down[s - 1], x) if s else x
            skips.append([x])
            for k, block in enumerate(self.down_blocks[s]):
                x = block(x, None if sides is None else at.side(sides["down", s, k], s), y, at)
                gave["down", s, k] = x
                skips[s].append(x)
        if deepest == len(self.down):
            x = skips[deepest].pop()
        else:
            at.write(self.down[deepest], x)  # an input of the coarser resolution, which is not computed here
            x = at.kept(self, deepest)
        for s in reversed(range(deepest + 1)):
            for k, block in enumerate(self.up_blocks[s]):
                skip = skips[s].pop()
                skip = skip if sides is None else torch.cat([at.side(sides["up", s, k], s), skip], dim=1)
                x = gave["up", s, k] = block(x, skip, y, at)
            if s:
                x = at.keep(self, s - 1, F.pixel_shuffle(at(self.up[s - 1], x), 2))
        return x, gave


Sides = dict[tuple[str, int, int], Tensor]  # (down or up, resolution, block): its output


class Whole:
    """All positions at once."""

    def __call__(self, conv: CausalConv, x: Tensor) -> Tensor:
        return conv(x)

    def deepest(self, coarsest: int) -> int:
        return coarsest

    def side(self, x: Tensor, scale: int) -> Tensor:
        return x

    def keep(self, stream: Stream, scale: int, x: Tensor) -> Tensor:
        return x


class Place:
    """One position, or one row if j is None; each coarser resolution is computed at every other one, and cached."""

    def __init__(self, memory: Memory, i: int, j: int | None):
        self.memory, self.i, self.j = memory, i, j

    def __call__(self, conv: CausalConv, x: Tensor) -> Tensor:
        return conv.step(self.memory, x, *self._at(conv.scale))

    def write(self, conv: CausalConv, x: Tensor) -> None:
        conv.write(self.memory, x, *self._at(conv.scale))

    def deepest(self, coarsest: int) -> int:
        """The coarsest resolution that changes here."""
        together = self.i | (self.j or 0) | 1 << coarsest
        return (together & -together).bit_length() - 1

    def side(self, x: Tensor, scale: int) -> Tensor:
        """Select this position from the vertical stream's (B, W, 1, s) of this row."""
        j = self._at(scale)[1]
        return x[..., j : j + 1]

    def keep(self, stream: Stream, scale: int, x: Tensor) -> Tensor:
        """Cache the output of a coarser resolution for two rows, (B, W, 2, 2 or s), and select this position."""
        i, j = self._at(scale)
        key = stream, scale
        if key not in self.memory.maps:
            side = self.memory.side >> scale
            self.memory.maps[key] = self.memory.zeros(x.shape[1], side, side)
        columns = slice(None) if j is None else slice(j, j + 2)
        self.memory.maps[key][:, :, i : i + 2, columns] = x
        return self.kept(stream, scale)

    def kept(self, stream: Stream, scale: int) -> Tensor:
        i, j = self._at(scale)
        row = self.memory.maps[stream, scale][:, :, i : i + 1]
        return row if j is None else row[..., j : j + 1]

    def _at(self, scale: int) -> tuple[int, int | None]:
        return self.i >> scale, None if self.j is None else self.j >> scale


class PixelCNNpp(Autoregressive):
    """The two streams, with a mixture of discretised logistics for every pixel.

    Unlike the paper, without weight normalisation and its data-dependent initialisation.

    Args:
        image_size, channels, levels, num_classes: Properties of the images, see `GenerativeModel`.
        width: Channels, W.
        resolutions: Number of resolutions, each half of the one before; the image side must be divisible by
            2 ** (resolutions - 1).
        blocks: Blocks of each resolution on the way down; one more on the way up.
        mixtures: Number of logistics in a pixel's mixture, M.
        dropout: Dropout probability within blocks.

    Raises ValueError for sizes that do not fit together.
    """

    channel_by_channel = False

    @register_to_config
    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        levels: int = 256,
        num_classes: int = 0,
        width: int = 48,
        resolutions: int = 2,
        blocks: int = 2,
        mixtures: int = 10,
        dropout: float = 0.2,
    ):
        super().__init__()
        self._declare(image_size, channels, levels, num_classes)
        if min(width, resolutions, blocks, mixtures) < 1:
            raise ValueError(f"must be at least 1: {width=}, {resolutions=}, {blocks=}, {mixtures=}")
        if image_size % 2 ** (resolutions - 1):
            raise ValueError(f"an image side of {image_size} cannot be halved {resolutions - 1} times")
        self.draws = channels + 1  # one selects the mixture component
        inputs, parts = channels + 1, (width, resolutions, blocks)  # a channel of ones tells pixels from padding
        self.above = CausalConv(inputs, width, (2, 3), "around", shift_down=True)
        self.row_above = CausalConv(inputs, width, (1, 3), "around", shift_down=True)
        self.left = CausalConv(inputs, width, (2, 1), shift_right=True)
        self.vertical = Stream(*parts, False, num_classes, dropout)
        self.horizontal = Stream(*parts, True, num_classes, dropout)
        self.head = CausalConv(width, mixtures * (1 + 2 * channels + channels * (channels - 1) // 2))

    def forward(self, images: Tensor, y: Tensor | None = None) -> Tensor:
        """Images of L levels (B, C, S, S) -> parameters (B, P, S, S)"""
        x = _with_ones(images.to(self.dtype))
        _, sides = self.vertical(self.above(x), None, y, whole := Whole())
        h, _ = self.horizontal(self.row_above(x) + self.left(x), sides, y, whole)
        return self.head(F.elu(h))

    def _nats(self, images: Tensor, y: Tensor | None) -> Tensor:
        weights, means, log_scales = self._mixture(self(images, y).float(), images)
        x = images[:, None].expand_as(means)  # (B, M, C, S, S)
        nats = discretized_logistic(x, means, log_scales, self.levels).sum(2)
        return (nats + weights).logsumexp(1)

    def _mixture(self, parameters: Tensor, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, P, …), (B, C, …) -> log-weights (B, M, …), means and log-scales (B, M, C, …), eq. 3."""
        C, M = self.shape[0], self.config.mixtures
        logits, means, log_scales, mixing = parameters.split([M, M * C, M * C, M * C * (C - 1) // 2], dim=1)
        means, log_scales = (p.unflatten(1, (M, C)) for p in (means, log_scales))
        if C == 3:  # a channel's mean is linear in the channels before it
            a, b, c = mixing.tanh().unflatten(1, (M, 3)).unbind(2)
            red, green = images[:, None, 0], images[:, None, 1]
            shift = torch.stack([torch.zeros_like(a), a * red, b * red + c * green], dim=2)
            means = means + shift
        return logits.log_softmax(1), means, log_scales

    def _choose(self, parameters: Tensor, channel: int, u: Tensor, pixel: Tensor) -> Tensor:
        weights, means, log_scales = self._mixture(parameters.float(), pixel)
        one = (weights.exp().cumsum(1)[:, :-1] <= u[:, -1:]).sum(1)  # (B,), the same for all channels
        each = torch.arange(len(one), device=one.device)
        return logistic_levels(means[each, one, channel], log_scales[each, one, channel], u[:, channel], self.levels)

    def _memory(self, n: int, y: Tensor | None) -> Memory:
        memory = super()._memory(n, y)
        memory.maps["y"] = y
        return memory

    def _begin_row(self, memory: Memory, i: int) -> None:
        _, gave = self.vertical(self.above.read(memory, i, None), None, memory.maps["y"], Place(memory, i, None))
        memory.rows |= gave
        memory.rows["above"] = self.row_above.read(memory, i, None)

    def _seen(self, memory: Memory, pixel: Tensor, i: int, j: int) -> None:
        for conv in (self.above, self.row_above, self.left):
            conv.write(memory, _with_ones(pixel), i, j)

    def _at(self, memory: Memory, i: int, j: int) -> Tensor:
        x = memory.rows["above"][..., j : j + 1] + self.left.read(memory, i, j)
        h, _ = self.horizontal(x, memory.rows, memory.maps["y"], place := Place(memory, i, j))
        return place(self.head, F.elu(h))[:, :, 0, 0]


def _with_ones(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
