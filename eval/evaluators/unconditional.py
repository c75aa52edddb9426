"""Unconditional models: linear probe of the latents, and the measurements used by the benchmark.

Shapes: n, m images · C channels · S image side · Z latent dimensions
"""

from __future__ import annotations

import math
import time

import torch
from PIL import Image
from torch import Tensor

from t2i.checks import UsageError
from t2i.data.levels import PreparePixels, first_levels
from t2i.eval.evaluators import UNCONDITIONAL
from t2i.eval.features import Extractor, as_uint8, measure_name
from t2i.eval.metrics import frechet_distance, kid, proportion
from t2i.eval.report import Gallery
from t2i.eval.run import EvalRun
from t2i.eval.scores import Result, score
from t2i.images import to_pil
from t2i.models.base import GenerativeModel, from_levels
from t2i.notes import with_article

BATCH = 100  # batch size for sampling, encoding and feature extraction
PROBED = 2000  # training images used to fit the linear probe
SHOWN, STRIP_COLUMNS, STRIP_SIDE, STRIP_GAP = 16, 8, 28, 2


def evaluate(run: EvalRun) -> Result:
    """Accuracy of a linear probe of the latents, if the data have classes that the model is not given.

    Raises UsageError for a target that is no unconditional model, and for a model without latents.
    """
    if run.kind != UNCONDITIONAL:
        raise UsageError(f"{run.target} is not an unconditional model, whose latents this metric evaluates")
    model, splits = run.model, run.splits
    if not model.latents:
        raise UsageError(f"{with_article(type(model).__name__)} has no latents")
    prepare = PreparePixels(model.levels, model.shape[0])
    k, labels = first_levels(splits.test, prepare, run.num_images)
    test = from_levels(k, model.levels)
    shown = zip(to_pil(_rgb(test[:SHOWN])), to_pil(_rgb(reconstruct(model, test[:SHOWN], labels[:SHOWN]))), strict=True)
    pairs = [(image, word) for pair in shown for image, word in zip(pair, ("real", "reconstructed"), strict=True)]
    result = Result("unconditional", galleries=[Gallery("Through the latents", pairs)])
    latents = encode(model, test, labels)
    if model.conditional or not splits.classes:
        result.notes.append(
            "unconditional: no linear probe: the data have no classes, or the model is conditioned on them."
        )
        return result
    k, known = first_levels(splits.train, prepare, PROBED)
    accuracy = linear_probe(encode(model, from_levels(k, model.levels), known), known, latents, labels)
    interval = proportion(round(accuracy * len(labels)), len(labels))
    details = {"latent_dimensions": latents.shape[1], "training_images": len(known)}
    result.scores.append(score("linear probe of the latents", interval, "higher", details=details, share=True))
    return result


# --- what the benchmark measures ------------------------------------------------------------------------------------


@torch.no_grad()
def sample(
    model: GenerativeModel, count: int, labels: Tensor, seed: int = 0, limit: float = math.inf
) -> tuple[Tensor, float]:
    """At most `count` samples (n, C, S, S), fewer after `limit` seconds, and the seconds per 1,000 samples.

    Class-conditional models receive the `labels` in turn. A few samples are generated first as a warm-up.
    """
    y = labels[torch.arange(count) % len(labels)].to(model.device) if model.conditional else None
    generator = torch.Generator().manual_seed(seed)
    model.sample(min(4, count), None if y is None else y[:4], generator)
    images: list[Tensor] = []
    began, done, took = time.perf_counter(), 0, 0.0
    while done < count and took < limit:
        n = min(BATCH, count - done)
        images.append(model.sample(n, None if y is None else y[done : done + n], generator).float().cpu())
        done, took = done + n, time.perf_counter() - began
    return torch.cat(images), 1000 * took / done


def distances(extractor: Extractor, images: Tensor, real: Tensor) -> dict:
    """Fréchet and kernel distance of (n, C, S, S) and (m, C, S, S) in [-1, 1], their names, n and m.

    The kernel distance uses as many images as both sets have, at once, and is unbiased at any count.
    """
    a, b = (features(extractor, x) for x in (images, real))
    return {
        "names": [measure_name(metric, extractor) for metric in ("FD", "KID")],
        "fd": frechet_distance(a, b),
        "kid": kid(a, b, subsets=1, subset_size=min(len(a), len(b))).mean,
        "samples": len(a),
        "test": len(b),
        "extractor": extractor.describe(),
    }


def features(extractor: Extractor, images: Tensor) -> Tensor:
    """(n, 1 or 3, S, S) in [-1, 1] -> (n, D)"""
    parts = _rgb(images).split(BATCH)
    return torch.cat([extractor(as_uint8(part, "-1..1", "NCHW")) for part in parts])


@torch.no_grad()
def encode(model: GenerativeModel, images: Tensor, labels: Tensor, limit: float = math.inf) -> Tensor:
    """(n, C, S, S), (n,) -> latents (n, Z); fewer images after `limit` seconds"""
    parts, began = [], time.perf_counter()
    for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        if parts and time.perf_counter() - began > limit:
            break
        y = y.to(model.device) if model.conditional else None
        parts.append(model.encode(x.to(model.device), y).float().cpu().flatten(1))
    return torch.cat(parts)


@torch.no_grad()
def reconstruct(model: GenerativeModel, images: Tensor, labels: Tensor) -> Tensor:
    """(n, C, S, S), (n,) -> the reconstructions, same shape"""
    y = labels.to(model.device) if model.conditional else None
    return model.decode(model.encode(images.to(model.device), y), y).float().cpu()


def linear_probe(train: Tensor, labels: Tensor, test: Tensor, wanted: Tensor) -> float:
    """Test accuracy of logistic regression: latents (n, Z), labels (n,), test latents (m, Z), test labels (m,)"""
    from sklearn.linear_model import LogisticRegression  # slow to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    model.fit(train.numpy(), labels.numpy())
    return float(model.score(test.numpy(), wanted.numpy()))


def strip(images: Tensor) -> Image.Image:
    """The first images of (n, 1 or 3, S, S) in rows, small ones upscaled by an integer factor"""
    shown = to_pil(_rgb(images[:SHOWN]))
    side = shown[0].width * max(1, round(STRIP_SIDE / shown[0].width))
    step, rows = side + STRIP_GAP, math.ceil(len(shown) / STRIP_COLUMNS)
    sheet = Image.new("RGB", (STRIP_COLUMNS * step - STRIP_GAP, rows * step - STRIP_GAP), "white")
    for i, image in enumerate(shown):
        large = image.resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(large, (i % STRIP_COLUMNS * step, i // STRIP_COLUMNS * step))
    return sheet


def _rgb(images: Tensor) -> Tensor:
    """(n, 1 or 3, S, S) -> (n, 3, S, S)"""
    return images.expand(-1, 3, -1, -1)
