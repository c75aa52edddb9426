"""Inspect the latents of a trained model: `python scripts/latents.py RUN --data … --out DIR`.

Writes traversals.png (one latent dimension varied per row), interpolation.png, manifold.png for two latent dimensions,
and for --data toybox-factors information.png, the mutual information of each latent and factor, and prints the mutual
information gap.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tyro.conf import Positional, arg

from t2i.arguments import parse
from t2i.checks import UsageError
from t2i.cli_errors import exit_on_bad_input
from t2i.data.factors import FACTORS
from t2i.data.levels import PreparePixels
from t2i.data.splits import open_splits
from t2i.models import load_pretrained
from t2i.models.analysis.disentanglement import entropies, gaps, mutual_information
from t2i.models.analysis.traversals import has_plane, interpolations, manifold, traversals
from t2i.models.base import GenerativeModel, from_levels
from t2i.plots import new_figure, styled, to_image

BATCH = 250  # batch size for encoding


@dataclass(frozen=True)
class Latents:
    folder: Annotated[Positional[str], arg(metavar="FOLDER")] = ""
    """A trained model with latents, or a run, whose best checkpoint is used."""
    data: str = "digits"
    """Data that the model was trained on; images of its test split are used."""
    out: str = "latents"
    """Output folder for the images."""
    num_images: int = 10_000
    """Maximum number of test images to encode."""
    rows: int = 10
    """Number of latent dimensions, and of interpolations between two images, to show."""

    def __post_init__(self) -> None:
        if self.num_images < 2 or self.rows < 1:
            raise ValueError(f"num_images must be at least 2 and rows 1, not {self.num_images} and {self.rows}")


def main(args: Sequence[str]) -> None:
    ask = parse(Latents(), args, prog="latents.py", description=__doc__)
    if not ask.folder:
        raise UsageError("name the folder of a trained model: python scripts/latents.py RUN")
    model, out = load_pretrained(ask.folder), Path(ask.out)
    if not model.latents:
        raise UsageError(f"{ask.folder} holds a {type(model).__name__}, which has no latents")
    images, labels, factors = read(model, ask.data, ask.num_images)
    y = labels if model.conditional else None
    out.mkdir(parents=True, exist_ok=True)
    first, last = pairs(y, len(images), ask.rows)
    of_first = y if y is None else y[first]
    made = {
        "traversals": traversals(model, images[:1000], y if y is None else y[:1000], ask.rows),
        "interpolation": interpolations(model, images[first], images[last], of_first),
    }
    if has_plane(model):
        made["manifold"] = manifold(model)
    if factors is not None:
        information = mutual_information(codes(model, images, y), factors)
        print(table(information, entropies(factors)))
        made["information"] = heat_map(information)
    for name, image in made.items():
        image.save(path := out / f"{name}.png", optimize=True)
        print(path)


def read(model: GenerativeModel, data: str, count: int) -> tuple[Tensor, Tensor, np.ndarray | None]:
    """Test images with the model's shape and levels (N, C, S, S), labels (N,) and, if known, factors (N, K)."""
    test = open_splits(data, model.shape[1]).test
    prepare = PreparePixels(model.levels, model.shape[0])
    items = [test[i] for i in range(min(count, len(test)))]
    prepared = [prepare(item, np.random.default_rng((0, i))) for i, item in enumerate(items)]
    images = from_levels(torch.from_numpy(np.stack([d["k"] for d in prepared])), model.levels)
    factors = np.stack([item["factors"] for item in items]) if "factors" in items[0] else None
    return images, torch.tensor([d["label"] for d in prepared]), factors


def pairs(y: Tensor | None, count: int, rows: int) -> tuple[list[int], list[int]]:
    """The first images, and for each the next image, which has the same label if the model is class-conditional."""
    first, last = [], []
    for i in range(count):
        after = range(i + 1, count) if y is None else (i + 1 + (y[i + 1 :] == y[i]).nonzero()[:, 0]).tolist()
        if len(first) < rows and len(after):
            first.append(i)
            last.append(after[0])
    if not first:
        raise ValueError("no two images have the same label; give a higher --num-images")
    return first, last


@torch.no_grad()
def codes(model: GenerativeModel, images: Tensor, y: Tensor | None) -> np.ndarray:
    """(N, Z)"""
    batches = images.split(BATCH)
    labels = [None] * len(batches) if y is None else y.split(BATCH)
    return torch.cat([model.encode(*batch) for batch in zip(batches, labels, strict=True)]).float().numpy()


def table(information: np.ndarray, entropy: np.ndarray) -> str:
    """The gaps and I(z_j; v_k), factors × latents, as Markdown."""
    gap = gaps(information, entropy)
    head = ["factor", "nats", "gap", *(f"z{j}" for j in range(information.shape[1]))]
    rows = [
        [name, f"{entropy[k]:.2f}", f"{gap[k]:.3f}", *(f"{x:.2f}" for x in information[k])]
        for k, name in enumerate(FACTORS)
    ]
    lines = [" | ".join(row) for row in (head, ["---"] * len(head), *rows)]
    return "\n".join([*(f"| {line} |" for line in lines), "", f"MIG {gap.mean():.3f}"])


@styled
def heat_map(information: np.ndarray) -> Image.Image:
    """I(z_j; v_k) in nats (K, Z) as an image, with each value written in its cell."""
    figure = new_figure(2 + 0.6 * information.shape[1], 3.5)
    axes = figure.add_subplot()
    axes.grid(visible=False)
    shown = axes.imshow(information, cmap="Blues", vmin=0, aspect="auto")
    axes.set_xticks(range(information.shape[1]), [f"z{j}" for j in range(information.shape[1])])
    axes.set_yticks(range(len(FACTORS)), list(FACTORS))
    for (k, j), nats in np.ndenumerate(information):
        dark = nats > information.max() / 2
        axes.text(j, k, f"{nats:.2f}", ha="center", va="center", fontsize=8, color="white" if dark else "black")
    figure.colorbar(shown, ax=axes, label="mutual information, nats")
    return to_image(figure)


if __name__ == "__main__":
    with exit_on_bad_input():
        main(sys.argv[1:])
