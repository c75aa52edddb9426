"""GAN losses, as pure functions of the discriminator's scores D, which are higher for real than for generated images.

The decision threshold is 0 for "minimax", "non_saturating" and "hinge", ½ for "least_squares"; for "wasserstein" only
differences of scores are meaningful.
Shapes: B batch; losses take D of any shape and return a scalar
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i.nn import discriminator as hinge

LossKind = Literal["minimax", "non_saturating", "hinge", "wasserstein", "least_squares"]


def check_kind(kind: str) -> None:
    """Raise ValueError for an unknown loss."""
    if kind not in get_args(LossKind):
        raise ValueError(f"unknown loss {kind!r}: choose one of {', '.join(get_args(LossKind))}")


def discriminator_loss(kind: LossKind, real: Tensor, made: Tensor) -> Tensor:
    """The discriminator's loss, from its scores for real and generated images.

    "minimax", "non_saturating": −E ln σ(D(x)) − E ln(1 − σ(D(x̂))), Goodfellow et al. 2014, arXiv 1406.2661, eq. 1
    "hinge": ½ E max(0, 1 − D(x)) + ½ E max(0, 1 + D(x̂)), Lim and Ye 2017, arXiv 1705.02894
    "wasserstein": E D(x̂) − E D(x), Arjovsky et al. 2017, arXiv 1701.07875, eq. 2, for a Lipschitz D
    "least_squares": ½ E (D(x) − 1)² + ½ E D(x̂)², Mao et al. 2017, arXiv 1611.04076, eq. 9
    """
    real, made = real.float(), made.float()
    if kind == "hinge":
        return hinge.discriminator_loss(real, made)
    if kind == "wasserstein":
        return made.mean() - real.mean()
    if kind == "least_squares":
        return 0.5 * ((real - 1).square().mean() + made.square().mean())
    return F.softplus(-real).mean() + F.softplus(made).mean()  # −ln σ(t) = softplus(−t)


def generator_loss(kind: LossKind, made: Tensor) -> Tensor:
    """The generator's loss, from the discriminator's scores for generated images.

    "minimax": E ln(1 − σ(D(x̂))), whose gradient vanishes where the discriminator is confident
    "non_saturating": −E ln σ(D(x̂)), with the same optimum and a gradient there (Goodfellow et al. 2014, §3)
    "hinge", "wasserstein": −E D(x̂)
    "least_squares": ½ E (D(x̂) − 1)²
    """
    made = made.float()
    if kind == "minimax":
        return -F.softplus(made).mean()
    if kind == "non_saturating":
        return F.softplus(-made).mean()
    if kind == "least_squares":
        return 0.5 * (made - 1).square().mean()
    return hinge.generator_loss(made)


def gradient_penalty(judge: Callable[[Tensor], Tensor], real: Tensor, made: Tensor, mix: Tensor) -> Tensor:
    """E (‖∇D(x̄)‖ − 1)² with x̄ between real and generated images: Gulrajani et al. 2017, arXiv 1704.00028, eq. 3.

    It enables gradients itself, since its gradient is a second derivative, and so also works under `no_grad`.

    Args:
        judge: images (B, …) -> scores (B,), each depending only on its own image: no batch norm.
        real, made: (B, …).
        mix: weight of the real image in x̄, in [0, 1], (B,).
    """
    wide = torch.promote_types(real.dtype, made.dtype)  # under autocast, generated images are bfloat16
    real, made, share = (x.detach().to(wide) for x in (real, made, mix.view(-1, *[1] * (real.ndim - 1))))
    between = torch.lerp(made, real, share).requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(judge(between).float().sum(), between, create_graph=True)
        # The gradient of a norm at 0 is 0/0, NaN.
        return ((slope.flatten(1).square().sum(1) + 1e-12).sqrt() - 1).square().mean()
