"""Linear layers: torch's, but faster on a CPU for the few rows of a decoding step, and on request in 8 bits.

Shapes: R rows · I inputs · O outputs · C model width
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW = 8  # number of rows up to which W xᵀ is faster than x Wᵀ on a CPU
BLOCK = 64  # torch's kernel for weights of 8 bits reads whole blocks of inputs, past the end if they do not divide


@dataclass(frozen=True)
class Int8Weight:
    """A weight matrix in 8 bits, a quarter of the bytes: W ≈ diag(scale) · values.

    A decoding step multiplies each matrix with a few rows, so its time is mostly that of reading the weights.

    Attributes:
        values: int8 (O, I'), from −127 to 127; zero columns make I' a multiple of BLOCK.
        scale: bfloat16 (O,), one for each output.
    """

    values: Tensor
    scale: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, weight: Tensor) -> Int8Weight:
        """The nearest one to a matrix of floats (O, I) whose scales are such that no value is cut off."""
        scale = (weight.abs().amax(1).float() / 127).clamp(min=torch.finfo(torch.bfloat16).tiny).bfloat16()
        values = (weight.float() / scale.float()[:, None]).round().clamp(-127, 127)
        return cls(F.pad(values.to(torch.int8), (0, -weight.shape[1] % BLOCK)), scale)

    def __call__(self, x: Tensor) -> Tensor:
        """x Wᵀ: (R, I) -> (R, O) in x's dtype; x is rounded to bfloat16, and so is the result."""
        rounded, missing = x.bfloat16(), self.values.shape[1] - x.shape[1]
        rounded = F.pad(rounded, (0, missing)) if missing else rounded
        return torch._weight_int8pack_mm(rounded, self.values, self.scale).to(x.dtype)


Activation = Callable[[Tensor], Tensor]  # elementwise


def linear(x: Tensor, weight: Tensor, bias: Tensor, activation: Activation | None = None) -> Tensor:
    """x Wᵀ + b: (…, I), (O, I), (O,) -> (…, O), followed by an activation, if given.

    A decoding step multiplies each weight matrix with a few rows, for which torch's CPU kernel is faster for W xᵀ than
    for x Wᵀ; the result is equal up to rounding.
    """
    rows = x.numel() // x.shape[-1]
    if rows > FEW or x.device.type != "cpu" or torch.is_grad_enabled():
        y = F.linear(x, weight, bias)
        return y if activation is None else activation(y)
    return _of_few_rows(x.reshape(rows, -1), weight, bias.unsqueeze(1), activation).view(*x.shape[:-1], -1)


def _of_few_rows(x: Tensor, weight: Tensor, bias: Tensor, activation: Activation | None) -> Tensor:
    """(R, I), (O, I), (O, 1) -> (R, O)"""
    y = torch.addmm(bias, weight, x.t()).t()  # (R, O), not contiguous
    if activation is not None:
        y = activation(y)  # before the copy: for contiguous tensors, torch calls oneDNN, which is slow at this size
    return y.contiguous()


class Linear(nn.Linear):
    """`torch.nn.Linear` computed by `linear`, or without gradients with weights of 8 bits."""

    int8: Int8Weight | None = None  # set by `use_int8`; neither a parameter nor saved

    def forward(self, x: Tensor, activation: Activation | None = None) -> Tensor:
        """(…, I) -> (…, O), followed by an elementwise activation, if given."""
        if self.int8 is None or x.device.type != "cpu" or torch.is_grad_enabled():
            return linear(x, self.weight, self.bias, activation)
        return self.bound(x.numel() // x.shape[-1], activation)(x.flatten(0, -2)).view(*x.shape[:-1], -1)

    def bound(self, rows: int, activation: Activation | None = None) -> Callable[[Tensor], Tensor]:
        """`forward` for inputs (rows, I) without gradients, as a function that need not look up the weights again."""
        weight, bias, int8 = self.weight, self.bias, self.int8
        if weight.device.type != "cpu" or (int8 is None and rows > FEW):
            return lambda x: linear(x, weight, bias, activation)
        if int8 is not None:
            return (lambda x: int8(x).add_(bias)) if activation is None else lambda x: activation(int8(x).add_(bias))
        column = bias.unsqueeze(1)
        return lambda x: _of_few_rows(x, weight, column, activation)


class MLP(nn.Sequential):
    """The two-layer MLP of a transformer (Vaswani et al. 2017, eq. 2, with GELU), of hidden width 4 C."""

    def __init__(self, width: int):
        super().__init__(Linear(width, 4 * width), nn.GELU(), Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) -> (…, C)"""
        first, activation, last = self
        replaced = type(first) is not Linear  # by a LoRA, which comes before the activation
        return last(activation(first(x)) if replaced else first(x, activation))


def use_int8(model: nn.Module, use: bool = True) -> None:
    """Let all `Linear` layers of a model compute with weights of 8 bits where they need no gradient, or no longer.

    This is for CPUs only: on another device, the layers ignore it. Call it again after the weights have changed.

    Raises ValueError for a model without such layers, and for one that is not on a CPU.
    """
    layers = [module for module in model.modules() if isinstance(module, Linear)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no layers for weights of 8 bits")
    if use and (device := layers[0].weight.device.type) != "cpu":
        raise ValueError(f"weights of 8 bits are for a CPU, and the {type(model).__name__} is on {device}: move it")
    for layer in layers:
        layer.int8 = Int8Weight.of(layer.weight) if use else None
