"""Linear layers equivalent to torch's, but faster on a CPU for the few rows of a decoding step.

Shapes: R rows · I inputs · O outputs · C model width
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW = 8  # number of rows up to which W xᵀ is faster than x Wᵀ on a CPU


def linear(x: Tensor, weight: Tensor, bias: Tensor, activation: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """x Wᵀ + b: (…, I), (O, I), (O,) -> (…, O), followed by an elementwise activation, if given.

    A decoding step multiplies each weight matrix with a few rows, for which torch's CPU kernel is faster for W xᵀ than
    for x Wᵀ; the result is equal up to rounding.
    """
    rows = x.numel() // x.shape[-1]
    if rows > FEW or x.device.type != "cpu" or torch.is_grad_enabled():
        y = F.linear(x, weight, bias)
        return y if activation is None else activation(y)
    y = torch.addmm(bias.unsqueeze(1), weight, x.reshape(rows, -1).t()).t()  # (R, O), not contiguous
    if activation is not None:
        y = activation(y)  # before the copy: for contiguous tensors, torch calls oneDNN, which is slow at this size
    return y.contiguous().view(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """`torch.nn.Linear` computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) -> (…, O)"""
        return linear(x, self.weight, self.bias)


class MLP(nn.Sequential):
    """The two-layer MLP of a transformer (Vaswani et al. 2017, eq. 2, with GELU), of hidden width 4 C."""

    def __init__(self, width: int):
        super().__init__(Linear(width, 4 * width), nn.GELU(), Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) -> (…, C)"""
        first, activation, last = self
        return last(linear(x, first.weight, first.bias, activation))
