"""Visualisations of latents: traversals of one dimension, the plane of two, and interpolations between images.

For every model with `encode` and `decode`. Higgins et al. 2017 (β-VAE), fig. 2 (traversals); Kingma and Welling 2014,
arXiv 1312.6114, fig. 4 (the plane).
Shapes: B batch · C channels · S image side · Z latent dimensions · T steps of a row
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from t2i.contact_sheet import contact_sheet
from t2i.images import to_pil
from t2i.models.base import GenerativeModel
from t2i.notes import with_article

REACH = 2.0  # range of traversals, in standard deviations of the prior to both sides


@torch.no_grad()
def use_of_latents(model: GenerativeModel, images: Tensor, y: Tensor | None = None) -> Tensor:
    """How informative each latent dimension is about images (B, C, S, S): (Z,), 0 for unused ones.

    The mean KL divergence of its posterior from the prior, in nats, if the model has `kl`, else the variance of its
    codes. Raises ValueError for a model without latents, or whose latents are not vectors.
    """
    _check_latents(model)
    if hasattr(model, "kl"):
        return model.kl(images, y).mean(0)
    codes = model.encode(images, y)
    if codes.ndim != 2:
        raise ValueError(
            f"the latents of {with_article(type(model).__name__)} are no vectors but {tuple(codes.shape[1:])}"
        )
    return codes.var(0, correction=0)


@torch.no_grad()
def traversal(model: GenerativeModel, z: Tensor, latent: int, values: Tensor, y: Tensor | None = None) -> Tensor:
    """Decode z (Z,) with one dimension set to each of the values (T,): mean images (T, C, S, S); y: ()"""
    codes = z.expand(len(values), -1).clone()
    codes[:, latent] = values.to(codes)
    return model.decode(codes, None if y is None else y.expand(len(values)))


@torch.no_grad()
def traversals(
    model: GenerativeModel, images: Tensor, y: Tensor | None = None, rows: int = 10, steps: int = 9
) -> Image.Image:
    """Traversals of the first image's code: one dimension per row, from low to high, the most informative one first.

    Values range from -2 to 2 for a standard normal prior, else over as many standard deviations of the codes of all
    images (B, C, S, S), which also determine the order. Raises ValueError as `use_of_latents` does.
    """
    used = use_of_latents(model, images, y)
    codes = model.encode(images, y)
    mean, std = codes.mean(0), codes.std(0, correction=0)
    if _is_standard(model):
        mean, std = torch.zeros_like(mean), torch.ones_like(std)
    ramp = torch.linspace(-REACH, REACH, steps, device=codes.device)
    label = None if y is None else y[0]
    unit = "nats" if hasattr(model, "kl") else "variance"
    shown, labels = [], []
    for latent in used.argsort(descending=True)[:rows].tolist():
        values = mean[latent] + std[latent] * ramp
        shown.append(traversal(model, codes[0], latent, values, label))
        labels += [f"z{latent}: {used[latent]:.2f} {unit}", *[""] * (steps - 1)]
    return _sheet(torch.cat(shown), labels, steps)


@torch.no_grad()
def plane(model: GenerativeModel, side: int = 20) -> Tensor:
    """Decode a grid over a two-dimensional latent space: mean images (side², C, S, S), row by row.

    The grid is uniform on the unit square, mapped by the inverse normal distribution function. The first dimension
    increases to the right, the second upwards. Raises ValueError unless the prior is a two-dimensional N(0, 1).
    """
    _check_latents(model)
    if not has_plane(model):
        raise ValueError("only two latents with a standard normal prior have a plane; train a VAE with --latent-dim 2")
    shares = (torch.arange(side, device=model.device, dtype=model.dtype) + 0.5) / side
    at = torch.special.ndtri(shares)
    up, right = torch.meshgrid(at.flip(0), at, indexing="ij")
    return model.decode(torch.stack([right, up], dim=2).view(-1, 2))


def manifold(model: GenerativeModel, side: int = 20) -> Image.Image:
    """`plane` as one image without gaps."""
    images = plane(model, side)
    rows = images.unflatten(0, (side, side)).permute(2, 0, 3, 1, 4)  # (C, side, S, side, S)
    return to_pil(rows.flatten(3).flatten(1, 2)[None].expand(-1, 3, -1, -1))[0]


@torch.no_grad()
def between(model: GenerativeModel, first: Tensor, last: Tensor, steps: int = 9, y: Tensor | None = None) -> Tensor:
    """Linear interpolation between the codes of images (B, C, S, S) each: mean images (B, T, C, S, S)

    Labels y (B,) apply to both ends.
    """
    _check_latents(model)
    a, b = model.encode(first, y), model.encode(last, y)
    share = torch.linspace(0, 1, steps, device=a.device, dtype=a.dtype)
    return torch.stack([model.decode(torch.lerp(a, b, s), y) for s in share], dim=1)


def interpolations(
    model: GenerativeModel, first: Tensor, last: Tensor, y: Tensor | None = None, steps: int = 9
) -> Image.Image:
    """`between`, with a row for each pair of images (B, C, S, S), enclosed by the two images themselves."""
    made = between(model, first, last, steps, y)
    rows = torch.cat([first[:, None], made, last[:, None]], dim=1)
    return _sheet(rows.flatten(0, 1), ["given", *[""] * steps, "given"] * len(first), steps + 2)


def _sheet(images: Tensor, labels: Sequence[str], columns: int) -> Image.Image:
    return contact_sheet(to_pil(images.float().expand(-1, 3, -1, -1)), labels, columns=columns, cell=64, font_size=10)


def _check_latents(model: GenerativeModel) -> None:
    if not model.latents:
        raise ValueError(f"{with_article(type(model).__name__)} has no latents")


def has_plane(model: GenerativeModel) -> bool:
    """Whether the model has two latent dimensions with the prior N(0, 1)."""
    return _is_standard(model) and model.latent_dim == 2


def _is_standard(model: GenerativeModel) -> bool:
    """Whether the model's prior is N(0, 1); with labels, a VAE learns one per class."""
    return hasattr(model, "kl") and not model.conditional
