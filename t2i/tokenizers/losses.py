"""The reconstruction loss of image tokenizers.

Shapes: B batch · S image side
"""

from __future__ import annotations

from torch import Tensor


def reconstruction_loss(recon: Tensor, images: Tensor, edge_weight: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """(B, 3, S, S) twice -> scalars: L1 + L2 + edge_weight · edges, and L1 and L2 alone, detached.

    All are means over pixels. The edge term is the L1 distance between the horizontal and vertical differences of
    neighbouring pixels, which keeps contours sharp.
    """
    error = recon.float() - images.float()
    l1, l2 = error.abs().mean(), error.square().mean()
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return l1 + l2 + edge_weight * edges, l1.detach(), l2.detach()
