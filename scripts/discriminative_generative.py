"""Discriminative against generative: `python scripts/discriminative_generative.py --data FOLDER --blocks RUN …`.

Test accuracy by number of labels, with all pixels and with half of them missing: naive Bayes and logistic regression on
pixels and on the latents of given models (autoencoders); and Bayes' rule with given models of p(x | y) (trained with
--conditional), which have seen all labels, or those that --per-class selects. Naive Bayes and Bayes' rule marginalise
missing pixels: mixtures exactly, VAEs within their bound, autoregressive models exactly if the lower half is missing;
logistic regression and encoders have them replaced by the mean of the training images.
Writes OUT/accuracies.csv and accuracies.png and prints medians over the seeds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from experiments.accuracies import write
from experiments.images import Labelled, labelled
from torch import Tensor
from tqdm import tqdm

from t2i.arguments import parse
from t2i.checks import UsageError
from t2i.cli_errors import exit_on_bad_input
from t2i.models import load_pretrained
from t2i.models.analysis.discriminative import (
    bayes_classify,
    fit_bernoulli,
    fit_gaussian,
    fit_logistic,
    impute,
    naive_bayes,
)
from t2i.models.base import GenerativeModel
from t2i.runs import read_recipe

LOWER, RANDOM = "lower half", "random half"


@dataclass(frozen=True)
class Compare:
    data: str = "digits"
    """Data that the models were trained on: 'digits', 'mnist', a folder of IDX files, or other data with labels."""
    blocks: tuple[str, ...] = ()
    """Folders of trained models: conditional ones with a likelihood, and ones with latents. Several runs of a
    conditional model, trained with different --per-class, form a curve."""
    labels: tuple[int, ...] = (10, 30, 100)
    """Numbers of labels per class; all labels are added as the last setting."""
    out: Path = Path("reports/discriminative-generative")
    seeds: int = 3
    """Number of seeds, each of which selects other images."""
    train: int = 10_000
    """Maximum number of training images."""
    test: int = 1_000
    """Maximum number of test images."""
    samples: int = 1
    """Latent samples per VAE bound; more samples make the bound tighter."""

    def __post_init__(self) -> None:
        if not self.labels or min(*self.labels, self.seeds, self.train, self.test, self.samples) < 1:
            raise ValueError("labels, seeds, train, test and samples must be at least 1")


def main(args: Sequence[str]) -> None:
    ask = parse(Compare(), args, prog="discriminative_generative.py", description=__doc__)
    blocks = [(folder, named(folder), load_pretrained(folder)) for folder in ask.blocks]
    for _, name, block in blocks:
        if not has_features(block) and not (block.conditional and block.likelihood != "none"):
            raise UsageError(f"{name} has neither latents without labels nor a likelihood given labels: --conditional")
    rows = list(fitted(ask, labelled(ask.data, ask.train, ask.test)))
    for folder, name, block in blocks:
        data = labelled(ask.data, ask.train, ask.test, block)
        if has_features(block):
            rows += fitted(ask, data, name, block)
        else:
            rows += by_bayes(name, block, data, read_recipe(folder).get("per_class"), ask.samples)
    print(write(rows, ask.out, f"{Path(ask.data).name}: p(x | y) and p(y | x)"))
    print(f"written to {ask.out}")


def named(folder: str) -> str:
    """runs/gated-pixelcnn/best -> gated-pixelcnn"""
    path = Path(folder).absolute()
    return path.parent.name if path.name in ("best", "latest") else path.name


def has_features(block: GenerativeModel) -> bool:
    return block.latents and not block.conditional


def masks(images: Tensor) -> dict[str, np.ndarray]:
    """Which entries of (B, C, S, S) are known, bool (B, N): all, the upper half, or a random half of the pixels."""
    batch, channels, side = images.shape[:3]
    upper = np.broadcast_to((np.arange(side) < side - side // 2)[:, None], (batch, channels, side, side))
    places = np.random.default_rng(0).random((batch, 1, side * side)).argsort(2) < side * side // 2
    some = np.broadcast_to(places, (batch, channels, side * side))
    return {
        "none": np.ones((batch, channels * side * side), bool),
        LOWER: upper.reshape(batch, -1),
        RANDOM: some.reshape(batch, -1),
    }


def fitted(ask: Compare, data: Labelled, name: str = "pixels", block: GenerativeModel | None = None) -> Iterator[dict]:
    """Naive Bayes and logistic regression, on pixels in [0, 1] or on a model's latents."""
    images, test = (flat(x) for x in (data.images, data.test_images))
    labels, truth = data.labels.numpy(), data.test_labels.numpy()
    features = latents(block, data.images.shape[1:]) if block else lambda x: x
    known = masks(data.test_images)
    codes = features(images)
    kinds = {"Gaussian naive Bayes": fit_gaussian, "logistic regression": fit_logistic}
    if block is None:
        kinds["Bernoulli naive Bayes"] = fit_bernoulli
    chosen = [(n, seed, data.few(n, seed).numpy()) for n in ask.labels for seed in range(ask.seeds)]
    chosen.append((round(len(labels) / len(data.classes)), 0, np.arange(len(labels))))
    for n, seed, places in tqdm(chosen, desc=name, unit="choice"):
        means = images[places].mean(0)
        seen = {missing: features(impute(test, mask, means)) for missing, mask in known.items()}
        for kind, fit in kinds.items():
            model = fit(codes[places], labels[places])
            for missing, mask in known.items():
                if block is None and kind != "logistic regression":
                    right = model.classes_[naive_bayes(model, test, mask).argmax(1)] == truth
                else:
                    right = model.predict(seen[missing]) == truth
                yield row(f"{kind}, {name}", missing, n, seed, right)


def by_bayes(name: str, block: GenerativeModel, data: Labelled, labels: int | None, samples: int) -> Iterator[dict]:
    """Bayes' rule with p(x | y), for whole images, and for partial ones whose probability the model can compute.

    `labels` is the number of labels per class that the model was trained on; default: all.
    """
    if block.num_classes != len(data.classes):
        raise UsageError(f"{name} knows {block.num_classes} classes, and the data have {len(data.classes)}")
    images, truth = data.test_images, data.test_labels
    counts = data.labels.bincount(minlength=block.num_classes)
    prior = (counts + 1) / (counts + 1).sum() if labels is None else None  # with few labels, classes are balanced
    labels = labels or round(len(data.labels) / len(data.classes))
    scored = {"none": ["none"], "last": ["none", LOWER], "any": ["none", LOWER, RANDOM]}[block.partial]
    for missing, mask in masks(images).items():
        if missing not in scored:
            continue
        known = torch.from_numpy(mask.copy()).view_as(images)[:, 0]
        parts = tqdm(zip(images.split(100), known.split(100), strict=True), f"{name}, missing: {missing}", unit="batch")
        guessed = [
            bayes_classify(block, part, prior, None if missing == "none" else seen, seeded(), samples).argmax(1)
            for part, seen in parts
        ]
        right = torch.cat(guessed) == truth
        yield row(f"Bayes' rule, {type(block).__name__}", missing, labels, 0, right.numpy())


def latents(block: GenerativeModel, shape: Sequence[int]) -> Callable[[np.ndarray], np.ndarray]:
    """(B, N) pixels in [0, 1] -> the model's latents, (B, Z)"""

    @torch.no_grad()
    def encode(x: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(2 * x - 1).float().view(-1, *shape)
        return torch.cat([block.encode(part) for part in images.split(500)]).double().numpy()

    return encode


def flat(images: Tensor) -> np.ndarray:
    """(B, C, S, S) in [-1, 1] -> (B, N) in [0, 1]"""
    return (images.flatten(1).double().numpy() + 1) / 2


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def row(method: str, missing: str, labels: int, seed: int, right: np.ndarray) -> dict:
    return {"method": method, "missing": missing, "labels": labels, "seed": seed, "accuracy": float(right.mean())}


if __name__ == "__main__":
    with exit_on_bad_input():
        main(sys.argv[1:])
