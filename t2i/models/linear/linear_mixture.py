"""PCA with a mixture of Gaussians over the scores: a generative model without a neural network.

The density is exact: p(x) = p(scores) · N(residual; 0, σ²). With one Gaussian and full rank this is a normal
distribution, with one Gaussian and a lower rank probabilistic PCA (Tipping and Bishop 1999, eq. 6 and 7). With labels,
every class has its own mixture over the scores of the same components.
Shapes: B batch · C channels · S image side · N = C·S·S · R rank · K Gaussians · Y classes, 1 without labels
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.distributions import MultivariateNormal

from t2i.models.base import (
    GenerativeModel,
    Generators,
    Likelihood,
    Partial,
    dequantize,
    nearest_levels,
    normal,
    uniform,
)

MIN_NOISE = 1e-6  # minimum variance of the residual


class LinearMixture(GenerativeModel):
    """A linear model fitted with scikit-learn's `PCA` and `GaussianMixture` (EM), without gradients.

    Args:
        image_size, channels, levels, num_classes: Properties of the images, see `GenerativeModel`.
        rank: Number of principal components, R.
        components: Number of Gaussians in the mixture over their scores, K; with labels, for each class. 1 is PCA.
        ridge: Added to the diagonal of the covariances.

    Raises ValueError for sizes that do not fit together.
    """

    likelihood: ClassVar[Likelihood] = "exact"
    latents: ClassVar[bool] = True
    partial: ClassVar[Partial] = "any"
    continuous = True

    @register_to_config
    def __init__(
        self,
        image_size: int = 28,
        channels: int = 1,
        levels: int = 256,
        num_classes: int = 0,
        rank: int = 50,
        components: int = 1,
        ridge: float = 1e-4,
    ):
        super().__init__()
        self._declare(image_size, channels, levels, num_classes)
        numbers, classes = math.prod(self.shape), max(1, num_classes)
        if not 1 <= rank <= numbers or components < 1 or not ridge >= 0:
            raise ValueError(f"rank must lie in [1, {numbers}], components be ≥ 1: {rank=}, {components=}, {ridge=}")
        self.register_buffer("center", torch.zeros(numbers))
        self.register_buffer("basis", torch.eye(numbers)[:rank])  # (R, N), orthonormal rows
        self.register_buffer("noise", torch.ones(()))  # variance per dimension outside the span of the rows
        self.register_buffer("shares", torch.full((classes, components), 1 / components))
        self.register_buffer("means", torch.zeros(classes, components, rank))
        self.register_buffer("scales", torch.eye(rank).repeat(classes, components, 1, 1))  # Cholesky factors

    def fit(self, images: Tensor, y: Tensor | None = None, seed: int = 0) -> list[list[float]]:
        """Fit to images of L levels (B, C, S, S) and, if class-conditional, labels (B,).

        Returns EM's mean log-likelihood of the scores after each iteration, for the mixture of each class.
        Raises ValueError for too few images for the rank or the Gaussians, and for invalid images.
        """
        from sklearn.base import clone  # slow to import
        from sklearn.decomposition import PCA
        from sklearn.mixture import GaussianMixture

        self._check(images, y)
        rank, components = self.config.rank, self.config.components
        of_class = (torch.zeros(len(images), dtype=torch.long) if y is None else y.cpu()).numpy()
        counts = np.bincount(of_class, minlength=len(self.shares))
        if len(images) <= rank or counts.min() <= components:
            each = f", {counts.min()} of a class," if self.conditional else ""
            raise ValueError(f"{len(images)} images{each} are too few for rank {rank} and {components} components")
        generator = torch.Generator().manual_seed(seed)
        x = dequantize(images.cpu(), self.levels, generator).flatten(1).double().numpy()
        pca = PCA(rank, svd_solver="full").fit(x)
        scores = pca.transform(x)
        empty = GaussianMixture(components, reg_covar=self.config.ridge, random_state=seed)
        mixtures = [clone(empty).fit(scores[of_class == k]) for k in range(len(self.shares))]
        found = {
            "center": pca.mean_,
            "basis": pca.components_,
            "noise": np.maximum(pca.noise_variance_, MIN_NOISE),
            "shares": np.stack([mixture.weights_ for mixture in mixtures]),
            "means": np.stack([mixture.means_ for mixture in mixtures]),
            "scales": np.linalg.cholesky([mixture.covariances_ for mixture in mixtures]),
        }
        for name, value in found.items():
            getattr(self, name).copy_(torch.as_tensor(value))
        return [[float(bound) for bound in mixture.lower_bounds_] for mixture in mixtures]

    def log_prob(self, images: Tensor, y: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """ln p(x | y), exact, of continuous images (B, C, S, S) in [-1, 1] -> nats (B,). Raises ValueError for others.

        With `known` (see `GenerativeModel`), ln p of those pixels, since marginals of Gaussians are Gaussian.
        """
        self._check(images, y)
        centred = images.to(self.center.dtype).flatten(1) - self.center
        parts = [torch.zeros(len(images), 1, dtype=torch.long) if y is None else y[:, None].cpu()]
        if known is not None:
            parts.append(self._check_known(known, len(images)).flatten(1).long().cpu())
        # The densities depend on the class and on which values are known.
        kinds, kind_of = torch.cat(parts, 1).unique(dim=0, return_inverse=True)
        nats = centred.new_empty(len(images))
        for i, (k, *mask) in enumerate(kinds.tolist()):
            of_kind = (kind_of == i).to(centred.device)
            x = centred[of_kind]
            each = self._nats(x, k) if known is None else self._nats_of(x, k, torch.tensor(mask, dtype=torch.bool))
            nats[of_kind] = (each + self.shares[k].log()).logsumexp(1)
        return nats

    def _nats(self, centred: Tensor, k: int) -> Tensor:
        """ln p of images (b, N) under each Gaussian of class k: (b, K)"""
        scores = centred @ self.basis.t()  # (B, R)
        outside = len(self.center) - len(self.basis)
        # Near full rank the residual is tiny: computed as a difference of squares, it would be only rounding error.
        left = (centred - scores @ self.basis).square().sum(1) if outside else 0.0
        nats = -0.5 * left / self.noise - 0.5 * outside * (2 * math.pi * self.noise).log()
        deviations = (scores[:, None] - self.means[k]).permute(1, 2, 0)  # (K, R, b)
        standard = torch.linalg.solve_triangular(self.scales[k], deviations, upper=False)
        each = -0.5 * standard.square().sum(1) - 0.5 * len(self.basis) * math.log(2 * math.pi)  # (K, b)
        each = each - self.scales[k].diagonal(dim1=1, dim2=2).log().sum(1)[:, None]
        return (nats + each).t()

    def _nats_of(self, centred: Tensor, k: int, known: Tensor) -> Tensor:
        """ln p of the known values, bool (N,), of images (b, N) under each Gaussian of class k: (b, K)"""
        if not known.any():
            return centred.new_zeros(len(centred), len(self.shares[k]))
        parts = (self.basis[:, known], self.scales[k], self.means[k], self.noise, centred[:, None, known])
        basis, scales, means, noise, x = (part.cpu().double() for part in parts)
        spread = scales.mT @ basis  # (K, R, known numbers)
        left = noise * (torch.eye(basis.shape[1]) - basis.t() @ basis)
        return MultivariateNormal(means @ basis, spread.mT @ spread + left, validate_args=False).log_prob(x).to(centred)

    def encode(self, images: Tensor, y: Tensor | None = None) -> Tensor:
        """Images (B, C, S, S) -> scores (B, R)"""
        self._check(images, y)
        return (images.to(self.center.dtype).flatten(1) - self.center) @ self.basis.t()

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Scores (B, R) -> images (B, C, S, S) in [-1, 1]. Raises ValueError for other shapes."""
        if z.ndim != 2 or z.shape[1] != len(self.basis):
            raise ValueError(f"latents must have the shape (B, {len(self.basis)}), not {tuple(z.shape)}")
        self._check_labels(y, len(z))
        return (z @ self.basis + self.center).view(-1, *self.shape).clamp(-1, 1)

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None, generator: Generators = None, leftover: bool = True) -> Tensor:
        """See `GenerativeModel`; without `leftover`, no residual noise is added outside the components' span."""
        self._check_labels(y, n)
        device, dtype = self.center.device, self.center.dtype
        y = torch.zeros(n, dtype=torch.long, device=device) if y is None else y
        which = (self.shares[y].cumsum(1)[:, :-1] <= uniform((n, 1), generator, device, dtype)).sum(1)
        z = normal((n, len(self.basis)), generator, device, dtype)
        scores = self.means[y, which] + torch.einsum("nij,nj->ni", self.scales[y, which], z)
        x = scores @ self.basis + self.center
        if leftover:
            noise = normal(x.shape, generator, device, dtype)
            x = x + self.noise.sqrt() * (noise - noise @ self.basis.t() @ self.basis)
        return nearest_levels(x.view(n, *self.shape), self.levels)


def nearest(images: Tensor, among: Tensor) -> Tensor:
    """The nearest neighbour of each image, Euclidean: (B, C, S, S), (M, C, S, S) -> indices (B,) into `among`"""
    return torch.cdist(images.flatten(1), among.flatten(1)).argmin(1)
