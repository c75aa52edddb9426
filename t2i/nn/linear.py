"""Linear layers, the same as torch's, with a shorter way for the few rows of a decoding step.

Shapes: R rows · I inputs · O outputs · C model width
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW = 8  # rows up to which W xᵀ is the faster order of the product on a CPU


def linear(x: Tensor, weight: Tensor, bias: Tensor, activation: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """x Wᵀ + b: (…, I), (O, I), (O,) -> (…, O), and an elementwise activation of it, if one is given.

    A decoding step multiplies each weight matrix with a few rows. For W xᵀ, torch's CPU library has a
    faster kernel than for x Wᵀ; the result is the same up to rounding.
    """
    rows = x.numel() // x.shape[-1]
    if rows > FEW or x.device.type != "cpu" or torch.is_grad_enabled():
        y = F.linear(x, weight, bias)
        return y if activation is None else activation(y)
    y = torch.addmm(bias.unsqueeze(1), weight, x.reshape(rows, -1).t()).t()  # (R, O), not contiguous
    if activation is not None:
        y = activation(y)  # before the copy: of a contiguous one, torch calls oneDNN, which is slow on so little
    return y.contiguous().view(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """`torch.nn.Linear` by way of `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) -> (…, O)"""
        return linear(x, self.weight, self.bias)


class MLP(nn.Sequential):
    """A transformer's two-layer perceptron (Vaswani et al. 2017, eq. 2, with GELU): hidden width 4 C."""

    def __init__(self, width: int):
        super().__init__(Linear(width, 4 * width), nn.GELU(), Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) -> (…, C)"""
        first, activation, last = self
        return last(linear(x, first.weight, first.bias, activation))
