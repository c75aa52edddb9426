"""Muon: momentum orthogonalised matrix by matrix (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

torch.optim.Muon accepts only matrices. Here a convolution kernel is treated as one: outputs × (inputs · kernel size).

Shapes: O outputs · I inputs (for a kernel: times the number of kernel positions)
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from t2i.training.sharding import sharded_as, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # quintic that maps [0, 1] near 1 with the steepest slope at 0 (Jordan)
STEPS = 5
EPS = 1e-7


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum; each update is orthogonalised and scaled to match the RMS of AdamW's updates.

    The scale 0.2 √max(O, I) is that of Liu et al. 2025 (arXiv 2502.16982, eq. 4), so that Muon and AdamW can
    share a learning rate and weight decay. For matrices, updates equal those of torch.optim.Muon(…, "match_rms_adamw").
    Momentum is sharded as the parameter is; every process gathers the matrix to orthogonalise and takes its part.
    At this scale, the best learning rate falls with 1/√width; `--mup-base-width` multiplies it by what is missing to a
    spectral norm proportional to √(O / I) (see `mup.py`).

    Args:
        params: tensors with at least two axes, outputs first, or groups of them.
        lr, weight_decay: as in AdamW.
        momentum: decay of the moving average of gradients.

    Raises ValueError for parameters with fewer than two axes.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        if odd := [tuple(p.shape) for group in self.param_groups for p in group["params"] if p.ndim < 2]:
            raise ValueError(f"Muon takes matrices and kernels, not a parameter of shape {odd[0]}")

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                mean = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p.grad))
                mean.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(whole(p.grad.lerp(mean, group["momentum"])).flatten(1))  # (O, I)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(sharded_as(update.view(p.shape), p), alpha=-group["lr"] * 0.2 * max(update.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """Approximately U Vᵀ of the SVD U S Vᵀ (singular values between about 0.7 and 1.2): (O, I) -> (O, I).

    Uses a quintic Newton–Schulz iteration in bfloat16: only matrix products.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.bfloat16()
    x = x.T if tall else x
    x = x / x.norm().clamp(min=EPS)
    for _ in range(STEPS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)
