"""Image embeddings as numbers: their scale, their principal components, and arithmetic with texts.

Shapes: N training embeddings · B embeddings · D width · R components
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.diffusion.interpolation import slerp


class EmbeddingStatistics(nn.Module):
    """Mean, scale and principal components of the training embeddings, as buffers.

    The scale is one number for all entries, so that distances keep their ratios.

    Args:
        dim: D.
        rank: R, the number of components to keep; 0 keeps none.

    Raises ValueError for a rank above D.
    """

    def __init__(self, dim: int, rank: int = 0):
        super().__init__()
        if not 0 <= rank <= dim:
            raise ValueError(f"embeddings of width {dim} have from 0 to {dim} principal components, not {rank}")
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(()))
        self.register_buffer("basis", torch.eye(dim)[:rank].clone())  # (R, D), orthonormal rows, the largest first

    @torch.no_grad()
    def fit(self, embeds: Tensor) -> None:
        """Measure them on embeddings (N, D). Raises ValueError for fewer than two, or embeddings that are all equal."""
        x = embeds.double().cpu()
        centred = x - x.mean(0)
        std = centred.square().mean().sqrt()
        if len(x) < 2 or not std > 0:
            raise ValueError(f"the scale of embeddings is measured on two or more different ones, not on {len(x)}")
        self.mean.copy_(x.mean(0))
        self.std.copy_(std)
        if len(self.basis):
            vectors = torch.linalg.eigh(centred.T @ centred).eigenvectors  # columns, the smallest first
            self.basis.copy_(vectors.flip(1).T[: len(self.basis)])

    def scale(self, embeds: Tensor) -> Tensor:
        """(B, D) -> (B, D), of mean 0 and unit variance over the training data and all entries"""
        return (embeds - self.mean) / self.std

    def unscale(self, scaled: Tensor) -> Tensor:
        """The embeddings of length 1 nearest to the inverse of `scale`: (B, D) -> (B, D)"""
        return F.normalize(scaled * self.std + self.mean, dim=-1)

    def reduce(self, embeds: Tensor) -> Tensor:
        """Their scaled components: (B, D) -> (B, R)"""
        return self.scale(embeds) @ self.basis.T

    def expand(self, components: Tensor) -> Tensor:
        """Embeddings of length 1 from the first n ≤ R scaled components (B, n) -> (B, D).

        Raises ValueError for more components than there are.
        """
        if (n := components.shape[1]) > len(self.basis):
            raise ValueError(f"there are {len(self.basis)} principal components, not {n}")
        return self.unscale(components @ self.basis[:n])


def slerp_embeds(first: Tensor, second: Tensor, weight: float) -> Tensor:
    """Spherical interpolation of each row, at `weight` from the first to the second: (B, D) twice -> (B, D)"""
    return torch.stack([slerp(a, b, weight) for a, b in zip(first, second, strict=True)])


def text_diff(image: Tensor, base: Tensor, target: Tensor, strength: float) -> Tensor:
    """Change an image's embedding as one text differs from another (Ramesh et al. 2022, § 3.3): (B, D) each -> (B, D)

    Args:
        image: embeddings of images.
        base, target: embeddings of what the image shows, and of what it is to show.
        strength: from 0, the image, to 1, the direction of the difference alone; the paper takes 0.25 to 0.5.
    """
    return slerp_embeds(image, F.normalize(target - base, dim=-1), strength)
