"""What is measured of every unconditional model alike: samples, their distance to real pictures, latents.

Shapes: n, m pictures · C channels · S side · Z latent numbers
"""

from __future__ import annotations

import math
import time

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from t2i.eval.features import Extractor, as_uint8, measure_name
from t2i.eval.metrics import frechet_distance, kid
from t2i.images import to_pil
from t2i.models.base import GenerativeModel, log_likelihood

BATCH = 100  # pictures sampled, encoded or embedded at once
SHOWN, STRIP_COLUMNS, STRIP_SIDE, STRIP_GAP = 16, 8, 28, 2


@torch.no_grad()
def draw(
    model: GenerativeModel, count: int, labels: Tensor, seed: int = 0, limit: float = math.inf
) -> tuple[Tensor, float]:
    """At most `count` samples (n, C, S, S), fewer if `limit` seconds are over before, and the seconds of 1,000.

    Models with classes are given those of `labels` in turn. A few samples are drawn before, which do not count.
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
    """Fréchet and kernel distance of (n, C, S, S) and (m, C, S, S) in [-1, 1], what they are called, n and m.

    The kernel distance is that of all pictures at once, or as many as both have: without bias, whatever the count.
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
    parts = images.expand(-1, 3, -1, -1).split(BATCH)
    return torch.cat([extractor(as_uint8(part, "-1..1", "NCHW")) for part in parts])


@torch.no_grad()
def nats(
    model: GenerativeModel, images: Tensor, labels: Tensor, seed: int = 0, samples: int = 1, batch_size: int = BATCH
) -> Tensor:
    """-ln P of each image of L levels, (n, C, S, S) and (n,) -> (n,), with a progress bar. See `log_likelihood`."""
    generator, found = torch.Generator().manual_seed(seed), []
    for start in tqdm(range(0, len(images), batch_size), type(model).__name__, unit="batch", leave=False):
        x = images[start : start + batch_size].to(model.device)
        y = labels[start : start + batch_size].to(model.device) if model.conditional else None
        found.append(-log_likelihood(model, x, y, generator, samples).cpu())
    return torch.cat(found)


@torch.no_grad()
def encode(model: GenerativeModel, images: Tensor, labels: Tensor, limit: float = math.inf) -> Tensor:
    """(n, C, S, S), (n,) -> latents (n, Z), of the first pictures alone if `limit` seconds are over before"""
    parts, began = [], time.perf_counter()
    for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        if parts and time.perf_counter() - began > limit:
            break
        given = y.to(model.device) if model.conditional else None
        parts.append(model.encode(x.to(model.device), given).float().cpu().flatten(1))
    return torch.cat(parts)


@torch.no_grad()
def decoded(model: GenerativeModel, images: Tensor, labels: Tensor) -> Tensor:
    """(n, C, S, S), (n,) -> the same through the model's latents"""
    y = labels.to(model.device) if model.conditional else None
    return model.decode(model.encode(images.to(model.device), y), y).float().cpu()


def probe(train: Tensor, labels: Tensor, test: Tensor, wanted: Tensor) -> float:
    """The share of test pictures whose class logistic regression reads off: (n, Z), (n,), (m, Z), (m,) -> [0, 1]."""
    from sklearn.linear_model import LogisticRegression  # slow to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    reader = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    reader.fit(train.numpy(), labels.numpy())
    return float(reader.score(test.numpy(), wanted.numpy()))


def strip(images: Tensor) -> Image.Image:
    """The first pictures of (n, 1 or 3, S, S) in one, small ones enlarged by a whole factor"""
    pictures = to_pil(images[:SHOWN].expand(-1, 3, -1, -1))
    side = pictures[0].width * max(1, round(STRIP_SIDE / pictures[0].width))
    step, rows = side + STRIP_GAP, math.ceil(len(pictures) / STRIP_COLUMNS)
    sheet = Image.new("RGB", (STRIP_COLUMNS * step - STRIP_GAP, rows * step - STRIP_GAP), "white")
    for i, picture in enumerate(pictures):
        large = picture.resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(large, (i % STRIP_COLUMNS * step, i // STRIP_COLUMNS * step))
    return sheet
