"""Losses of image tokenizers.

Shapes: B batch · S image side
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from t2i.tokenizers.adversarial import Adversary
from t2i.tokenizers.perceptual import PerceptualLoss

EPSILON = 0.1  # of the logit-Laplace distribution: pixels are mapped to [ε, 1 − ε]


def reconstruction_loss(recon: Tensor, images: Tensor, edge_weight: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """(B, 3, S, S) twice -> scalars: L1 + L2 + edge_weight · edges, and L1 and L2 alone, detached.

    All are means over pixels. The edge term is the L1 distance between the horizontal and vertical differences of
    neighbouring pixels, which keeps contours sharp.
    """
    error = recon.float() - images.float()
    l1, l2 = error.abs().mean(), error.square().mean()
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return l1 + l2 + edge_weight * edges, l1.detach(), l2.detach()


def image_loss(
    recon: Tensor,
    images: Tensor,
    last_layer: Tensor,
    edge_weight: float = 1.0,
    perceptual: PerceptualLoss | None = None,
    perceptual_weight: float = 1.0,
    adversary: Adversary | None = None,
) -> dict[str, Tensor]:
    """Pixel + perceptual + adversarial loss (Esser et al. 2021, arXiv 2012.09841, eq. 6 and 7).

    Args:
        recon, images: (B, 3, S, S) in about [-1, 1].
        last_layer: weight of the decoder's last layer, for the adaptive weight of the adversarial loss.

    Returns:
        scalars: `loss` to minimise, and its components, detached.
    """
    reconstruction, l1, mse = reconstruction_loss(recon, images, edge_weight)
    parts = {"l1": l1, "mse": mse}
    if perceptual is not None:
        distance = perceptual.to(images.device)(recon, images)
        reconstruction = reconstruction + perceptual_weight * distance
        parts["perceptual"] = distance.detach()
    if adversary is None:
        return {"loss": reconstruction} | parts
    game = adversary(recon, images, reconstruction, last_layer)
    return {"loss": reconstruction + game.pop("loss")} | parts | game


def logit_laplace_loss(parameters: Tensor, images: Tensor) -> Tensor:
    """Mean of −ln p(x | μ, b) per value, in nats (Ramesh et al. 2021, appendix A.3).

    p(x | μ, b) = 1 / (2 b x (1 − x)) · exp(−|logit(x) − μ| / b) is a density on (0, 1); those of the L1 and L2 loss
    lie in part outside the range of pixels.

    Args:
        parameters: (B, 6, S, S), μ of the three channels, then ln b.
        images: (B, 3, S, S) in [-1, 1].
    """
    mu, log_b = parameters.float().chunk(2, 1)
    x = to_unit_interval(images.float())
    distance = (x.logit() - mu).abs() * torch.exp(-log_b)
    return (distance + log_b + math.log(2) + (x * (1 - x)).log()).mean()


def logit_laplace_image(parameters: Tensor) -> Tensor:
    """(B, 6, S, S), as above -> the image of the medians, (B, 3, S, S) in about [-1, 1]."""
    mu, _ = parameters.chunk(2, 1)
    return (2 * mu.sigmoid() - 1) / (1 - 2 * EPSILON)


def to_unit_interval(images: Tensor) -> Tensor:
    """φ of the appendix: [-1, 1] -> [ε, 1 − ε], where the logit is finite."""
    return (1 - 2 * EPSILON) * (images + 1) / 2 + EPSILON
