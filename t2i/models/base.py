"""The interface of the unconditional models, and their likelihood scores.

Images are in [-1, 1]. An image *of L levels* has only the values -1 + 2k/(L - 1), k = 0 … L - 1: uint8 pixels have 256
levels, binarised ones two.

Shapes: B batch · C channels · S image side · N = C·S·S dimensions of an image · L levels · Z latent dimensions
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

PREVIEW_STEPS = 50  # diffusion steps: hundreds would delay training
Likelihood = Literal["exact", "bound", "none"]
Partial = Literal["any", "last", "none"]
Generators = torch.Generator | Sequence[torch.Generator] | None  # one for all images, or one for each


class GenerativeModel(ModelMixin, ConfigMixin):
    """Base class of generative models of images, with attributes that declare which methods a model supports.

    Attributes:
        likelihood: "exact" (has `log_prob`), "bound" (has `elbo`, a lower bound) or "none".
        continuous: whether these score a density of continuous images, or the probability of images of L levels.
        latents: whether the model has `encode` and `decode`.
        samples: whether the model has `sample`.
        conditional: whether the model is class-conditional; if so, labels are required everywhere.
        shape: shape of an image, (C, S, S).
        levels: number of levels of training images and samples, L.
        initializes: whether the model has `initialize(images, y=None)`, to be called with data before training.
        partial: which pixels may be unknown: "any", the "last" in raster order, or "none". If not "none", `log_prob`
            and `elbo` take `known`, bool (S, S) or (B, S, S), and score only those pixels, ignoring the others.

    `log_prob(x, y=None)` and `elbo(x, y=None, generator=None, samples=1)` return nats (B,). `sample(n, y=None,
    generator=None)` returns n new images (n, C, S, S) of L levels; given n generators, the i-th image depends only on
    the i-th generator.
    """

    likelihood: ClassVar[Likelihood]
    latents: ClassVar[bool] = False
    samples: ClassVar[bool] = True
    initializes: ClassVar[bool] = False
    partial: ClassVar[Partial] = "none"
    continuous: bool = False

    @property
    def preview_options(self) -> dict[str, int]:
        """Arguments that make `sample` fast enough for previews during training."""
        return {}

    def _declare(self, image_size: int, channels: int, levels: int, num_classes: int) -> None:
        """Check and store the arguments that all models share. Raises ValueError."""
        if image_size < 1 or channels not in (1, 3) or not 2 <= levels <= 256 or num_classes < 0:
            raise ValueError(
                "image_size must be at least 1, channels 1 or 3, levels from 2 to 256 and num_classes at least 0, not "
                f"{image_size=}, {channels=}, {levels=}, {num_classes=}"
            )
        self.shape = (channels, image_size, image_size)
        self.levels, self.num_classes = levels, num_classes
        self.conditional = num_classes > 0

    def loss(self, images: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Images of L levels (B, C, S, S), labels (B,) -> scalars: `loss`, nats/dim; `nats` per image; `bits`/dim."""
        nats = -log_likelihood(self, images, y).mean()
        return self._scalars(nats, nats)

    def _scalars(self, minimised: Tensor, nats: Tensor) -> dict[str, Tensor]:
        """The result of `loss`, from nats per image (scalars). Averaging over dimensions keeps the gradients' scale."""
        numbers = math.prod(self.shape)
        nats = nats.detach()
        return {"loss": minimised / numbers, "nats": nats, "bits": nats / (numbers * math.log(2))}

    def _check(self, images: Tensor, y: Tensor | None) -> None:
        """Raise ValueError unless the images have the model's shape and range, with labels if it is conditional."""
        check_images(images, self.shape)
        self._check_labels(y, len(images))

    def _check_known(self, known: Tensor, n: int) -> Tensor:
        """bool (S, S) or (n, S, S) -> (n, C, S, S). Raises ValueError for other types and shapes."""
        side = self.shape[1]
        if known.dtype != torch.bool or known.shape not in ((side, side), (n, side, side)):
            shapes = f"({side}, {side}) or ({n}, {side}, {side})"
            raise ValueError(f"known must be bool {shapes}, not {known.dtype} {tuple(known.shape)}")
        return known.unsqueeze(-3).expand(n, *self.shape)

    def _check_labels(self, y: Tensor | None, n: int) -> None:
        if n < 1:
            raise ValueError(f"there must be one image at least, not {n}")
        if (y is not None) != self.conditional:
            wanted = f"a label for each image, 0 to {self.num_classes - 1}" if self.conditional else "no labels"
            raise ValueError(f"this model takes {wanted}")
        if y is not None and (y.shape != (n,) or y.is_floating_point()):
            raise ValueError(f"labels must be {n} integers, not {y.dtype} {tuple(y.shape)}")
        if y is not None and n and not 0 <= y.min() <= y.max() < self.num_classes:
            raise ValueError(f"labels must lie in [0, {self.num_classes}), not [{int(y.min())}, {int(y.max())}]")


def check_images(images: Tensor, shape: Sequence[int]) -> None:
    """Raise ValueError unless `images` are (B, C, S, S) of this shape, in [-1, 1], with B at least 1."""
    if images.shape[1:] != tuple(shape):
        raise ValueError(f"images must have the shape (B, {', '.join(map(str, shape))}), not {tuple(images.shape)}")
    if not len(images):
        raise ValueError("there must be one image at least: the batch is empty")
    low, high = images.detach().aminmax()
    if not -1.001 <= low <= high <= 1.001:  # NaN fails too
        raise ValueError(f"images must lie in [-1, 1], but range from {low:.3g} to {high:.3g}")


def to_levels(images: Tensor, levels: int) -> Tensor:
    """Images (…) of L levels -> level indices, integers in [0, L). Raises ValueError for values between levels."""
    scaled = (images + 1) * ((levels - 1) / 2)
    k = scaled.round()
    if images.numel() and (scaled - k).abs().max() > 0.01:
        raise ValueError(f"the images do not have {levels} levels: some values lie between -1 + 2k/{levels - 1}")
    return k.long()


def from_levels(k: Tensor, levels: int) -> Tensor:
    """Integers (…) in [0, L) -> float images in [-1, 1]"""
    return k.float() * (2 / (levels - 1)) - 1


def nearest_levels(images: Tensor, levels: int) -> Tensor:
    """Quantise images (…) to L levels: [-1, 1] is divided into L equal bins, the inverse of `dequantize`."""
    return from_levels(((images.clamp(-1, 1) + 1) * (levels / 2)).floor().clamp(max=levels - 1), levels)


def dequantize(images: Tensor, levels: int, generator: Generators = None) -> Tensor:
    """Images of L levels -> continuous images, each value sampled uniformly from its bin (L equal bins of [-1, 1]).

    Uria et al. 2013 (arXiv 1306.0186), §2; Theis et al. 2016 (arXiv 1511.01844), §3.1.
    """
    noise = uniform(images.shape, generator, images.device, images.dtype)
    return (to_levels(images, levels) + noise) * (2 / levels) - 1


def log_likelihood(
    model: GenerativeModel, images: Tensor, y: Tensor | None = None, generator: Generators = None, samples: int = 1
) -> Tensor:
    """ln P of images of L levels, or a lower bound of it: (B, C, S, S) -> nats (B,).

    A density p is scored on dequantised images: ln P(x) ≥ E ln p(x + u) + N ln(2 / L), where 2 / L is the bin width
    (Theis et al. 2016, eq. 2). `samples` is the number of samples in bounds that improve with it.
    Raises ValueError for a model without likelihood, and as the model does.
    """
    if model.likelihood == "none":
        raise ValueError(f"{type(model).__name__} has neither a likelihood nor a bound")
    x, offset = density_images(model, images, generator)
    return (model.log_prob(x, y) if model.likelihood == "exact" else model.elbo(x, y, generator, samples)) + offset


def density_images(model: GenerativeModel, images: Tensor, generator: Generators = None) -> tuple[Tensor, float]:
    """The images that the model scores, (B, C, S, S), and the constant to add to the score, in nats per image."""
    if not model.continuous:
        return images, 0.0
    return dequantize(images, model.levels, generator), math.prod(model.shape) * math.log(2 / model.levels)


def bits_per_dim(
    model: GenerativeModel, images: Tensor, y: Tensor | None = None, generator: Generators = None, samples: int = 1
) -> Tensor:
    """-log₂ P per dimension of images of L levels: (B, C, S, S) -> (B,). See `log_likelihood`."""
    return -log_likelihood(model, images, y, generator, samples) / (math.prod(model.shape) * math.log(2))


def normal(shape: Sequence[int], generator: Generators, device, dtype=None) -> Tensor:
    """Standard normal numbers; with a list of generators, the i-th row is from the i-th generator."""
    return randn_tensor(tuple(shape), _listed(generator, shape[0]), device, dtype)


def uniform(shape: Sequence[int], generator: Generators, device, dtype=None) -> Tensor:
    """Uniform numbers in [0, 1); with a list of generators, the i-th row is from the i-th generator."""
    generator = _listed(generator, shape[0])
    if isinstance(generator, list):
        return torch.cat([uniform((1, *shape[1:]), g, device, dtype) for g in generator])
    where = device if generator is None else generator.device
    return torch.rand(tuple(shape), generator=generator, device=where, dtype=dtype).to(device)


def _listed(generator: Generators, n: int) -> Generators:
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    if len(generator) != n:
        raise ValueError(f"{len(generator)} generators for {n} images: give one, or one for each")
    return list(generator)
