"""NICE: additive coupling (Dinh et al. 2015, "Non-linear Independent Components Estimation", arXiv 1410.8516).

Shapes: B batch · N dimensions of an image · H hidden width
"""

from __future__ import annotations

import math

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from t2i.models.flows.layers import Bijection, Flow, zeros


class AdditiveCoupling(Bijection):
    """Additive coupling: every other value determines a shift of the rest, with determinant 1 (eq. 6 and 7)."""

    def __init__(self, numbers: int, width: int, hidden: int, even: bool):
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(hidden):
            layers += [nn.Linear(width if i else numbers // 2, width), nn.ReLU()]
        self.network = nn.Sequential(*layers, zeros(nn.Linear(width, numbers // 2)))
        self.even = even

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) -> (B, N), 0"""
        return self._shifted(x, 1), x.new_zeros(())

    def inverse(self, z: Tensor) -> Tensor:
        return self._shifted(z, -1)

    def _shifted(self, x: Tensor, sign: int) -> Tensor:
        first, second = x[:, ::2], x[:, 1::2]
        if self.even:
            second = second + sign * self.network(first)
        else:
            first = first + sign * self.network(second)
        return torch.stack([first, second], dim=2).flatten(1)


class Scaling(Bijection):
    """A scale per dimension: the only layer of NICE that is not volume-preserving (§3.3)."""

    def __init__(self, numbers: int):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(numbers))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * self.log_scale.exp(), self.log_scale.sum()

    def inverse(self, z: Tensor) -> Tensor:
        return z * (-self.log_scale).exp()


class Flatten(Bijection):
    """(B, C, S, S) -> (B, N)"""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.flatten(1), x.new_zeros(())

    def inverse(self, z: Tensor) -> Tensor:
        return z.view(-1, *self.shape)


class NICE(Flow):
    """Additive couplings of fully connected networks, a scaling, and a logistic prior.

    Args:
        image_size, channels, levels, num_classes: Properties of the images, see `GenerativeModel` and `Flow`.
        couplings: Number of additive coupling layers; at least 3, so that every value can depend on every other.
        width: Hidden units of the couplings' networks.
        hidden: Hidden layers of each network.
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
        couplings: int = 4,
        width: int = 512,
        hidden: int = 4,
        alpha: float = 0.0,
    ):
        super().__init__()
        self._declare(image_size, channels, levels, num_classes)
        numbers = math.prod(self.shape)
        if numbers % 2 or couplings < 3 or width < 1 or hidden < 1:
            raise ValueError(
                f"the numbers of an image must be even: {numbers}; {couplings=} ≥ 3, {width=}, {hidden=} ≥ 1"
            )
        steps = [AdditiveCoupling(numbers, width, hidden, even=i % 2 == 0) for i in range(couplings)]
        self._assemble([Flatten(self.shape), *steps, Scaling(numbers)], (numbers,), "logistic", alpha)
