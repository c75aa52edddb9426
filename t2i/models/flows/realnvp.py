"""RealNVP: affine coupling, checkerboard and channel masks, several scales (Dinh et al. 2017, arXiv 1605.08803).

Shapes: B batch · C image channels · S image side · c, s channels and side of a scale
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from t2i.models.flows.layers import ActNorm, AffineCoupling, Bijection, Flow, Split, Squeeze, zeros
from t2i.nn.blocks import ResBlock

GROUPS = 8  # number of groups of the group norms


class RealNVP(Flow):
    """At each scale: checkerboard couplings, squeeze, channel-wise couplings, and half the channels factored out.

    Unlike in the paper, the batch norms of networks and flow are group norms and activation norms, so that an image's
    likelihood does not depend on its batch.

    Args:
        image_size, channels, levels, num_classes: Properties of the images, see `GenerativeModel` and `Flow`.
        scales: Number of times that the resolution is halved; a last scale has checkerboard couplings only.
        couplings: Couplings of each kind (checkerboard, channel-wise) at each scale; one more at the last.
        width: Channels of the couplings' residual networks.
        blocks: Residual blocks of each network.
        bound: Maximum absolute value of a coupling's log-scale.
        alpha: Pixels x in [0, 1] are mapped to the logits of α + (1 - 2α)·x first; 0 disables it.

    Raises ValueError for sizes that do not fit together.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 28,
        channels: int = 1,
        levels: int = 256,
        num_classes: int = 0,
        scales: int = 2,
        couplings: int = 3,
        width: int = 32,
        blocks: int = 2,
        bound: float = 2.0,
        alpha: float = 0.05,
    ):
        super().__init__()
        self._declare(image_size, channels, levels, num_classes)
        check_scales(image_size, scales, couplings)
        if width < GROUPS or width % GROUPS or blocks < 1 or not bound > 0:
            raise ValueError(
                f"width must be a multiple of {GROUPS}, blocks at least 1, bound above 0: {width=}, {blocks=}"
            )
        c, s = channels, image_size
        steps: list[nn.Module] = []
        for _ in range(scales):
            steps += self._couplings(c, s, couplings, checkerboards=True)
            c, s = 4 * c, s // 2
            steps += [Squeeze(), *self._couplings(c, s, couplings, checkerboards=False), Split((c, s, s))]
            c = c // 2
        steps += self._couplings(c, s, couplings + 1, checkerboards=True)
        self._assemble(steps, (c, s, s), "normal", alpha)

    def _couplings(self, channels: int, side: int, count: int, checkerboards: bool) -> list[nn.Module]:
        width, blocks, bound = self.config.width, self.config.blocks, self.config.bound
        steps: list[nn.Module] = []
        for i in range(count):
            if checkerboards:
                network, mask = _network(channels, 2 * channels, width, blocks), checkerboard(side, odd=i % 2 == 1)
            else:
                network, mask = _network(channels // 2, channels, width, blocks), None
            steps += [ActNorm(channels), AffineCoupling(network, bound, mask)]
            if not checkerboards:
                steps.append(Swap())
        return steps


class Swap(Bijection):
    """Swap the halves of the channels, so that the next coupling transforms the other one."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.roll(x.shape[1] // 2, dims=1), x.new_zeros(())

    def inverse(self, z: Tensor) -> Tensor:
        return z.roll(z.shape[1] // 2, dims=1)


def checkerboard(side: int, odd: bool) -> Tensor:
    """(1, 1, s, s): ones where row + column is even, or odd (fig. 3)"""
    places = torch.arange(side)
    return ((places[:, None] + places) % 2 == int(odd)).float()[None, None]


def check_scales(image_size: int, scales: int, couplings: int) -> None:
    """Raise ValueError for a side that cannot be halved so often."""
    if scales < 1 or couplings < 1 or image_size % 2**scales:
        raise ValueError(f"an image side of {image_size} cannot be halved {scales} ≥ 1 times; {couplings=} ≥ 1")


def _network(inputs: int, outputs: int, width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1),
        *(ResBlock(width) for _ in range(blocks)),
        nn.GroupNorm(GROUPS, width),
        nn.SiLU(),
        zeros(nn.Conv2d(width, outputs, 3, padding=1)),
    )
