"""A patch discriminator, the hinge losses, and joint training of two networks in one backward pass.

Isola et al. 2017, arXiv 1611.07004, §3.2.2 (patches); Lim and Ye 2017, arXiv 1705.02894 (hinge losses).
Shapes: B batch · S image side · h, w sides of the map of patches
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call


class PatchDiscriminator(nn.Module):
    """One score for each overlapping patch of an image, higher for real than for generated images.

    The decision threshold depends on the loss; it is 0 for the hinge losses here.

    Every level of `channels` halves the side. Group norms instead of batch norms make the score of an image independent
    of the others in the batch and of the number of processes.
    """

    def __init__(self, channels: tuple[int, ...] = (32, 64, 128), groups: int = 8):
        super().__init__()
        if not channels or any(c % groups for c in channels):
            raise ValueError(f"channels must be multiples of {groups}, at least one of them, not {channels}")
        layers: list[nn.Module] = [nn.Conv2d(3, channels[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for before, width in pairwise(channels):
            layers += [nn.Conv2d(before, width, 4, stride=2, padding=1), nn.GroupNorm(groups, width), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels[-1], 1, 3, padding=1))
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> (B, 1, h, w)"""
        return self.layers(images.contiguous(memory_format=torch.channels_last))


def discriminator_loss(real: Tensor, made: Tensor) -> Tensor:
    """Hinge loss of the discriminator's scores (any shape): ½ E[max(0, 1 − D(x))] + ½ E[max(0, 1 + D(x̂))]."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + made.float()).mean())


def generator_loss(made: Tensor) -> Tensor:
    """Generator loss −E[D(x̂)] of the discriminator's scores (any shape)."""
    return -made.float().mean()


def held(player: nn.Module, *inputs: Tensor | None) -> Tensor:
    """player(*inputs) with detached weights: gradients flow through it to the inputs, but not to its weights.

    So the gradient of the summed losses of two networks is, for each of them, that of its own loss.
    """
    return functional_call(player, {name: p.detach() for name, p in player.named_parameters()}, inputs)
