"""Likelihood of real images: nats/token under an autoregressive pipeline, bits/dim under unconditional models.

A pipeline's prior defines a likelihood of image tokens, not of pixels: what the image tokenizer discards is not
measured. nats/token therefore compare only priors that share an image tokenizer.

Shapes: B images in a batch · C channels · S image side · T text length · N tokens of an image · n, P images
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from t2i.checks import UsageError
from t2i.data.levels import PreparePixels, first_levels
from t2i.data.sources import WORLDS
from t2i.eval.evaluators import UNCONDITIONAL
from t2i.eval.evaluators.reconstruction import NEW_SEED, REAL
from t2i.eval.metrics import Interval, bootstrap_interval
from t2i.eval.report import Score, Table
from t2i.eval.run import EvalRun
from t2i.eval.scores import Result, score
from t2i.models.base import GenerativeModel, from_levels, log_likelihood
from t2i.notes import with_article
from t2i.pipelines import DallePipeline
from t2i.weights import digest

BATCH = 100  # default batch size for unconditional models


def check(run: EvalRun) -> None:
    """Raise UsageError for a pipeline without image tokens, and for a model with neither a likelihood nor a bound."""
    if run.kind == UNCONDITIONAL:
        for folder in run.config.targets:
            if (model := run.models.unconditional(folder)).likelihood == "none":
                raise UsageError(
                    f"{folder} holds {with_article(type(model).__name__)}, which has neither a likelihood nor a bound"
                )
    elif not isinstance(run.pipeline, DallePipeline):
        raise UsageError(f"{with_article(type(run.pipeline).__name__)} has no likelihood of image tokens")


def evaluate(run: EvalRun) -> Result:
    """nats/token of toybox images under a pipeline; nats/image and bits/dim of test images under unconditional models.

    Raises UsageError as `check` does.
    """
    check(run)
    return _unconditional(run) if run.kind == UNCONDITIONAL else _tokens(run)


# --- pipelines ------------------------------------------------------------------------------------------------------


def _tokens(run: EvalRun) -> Result:
    """Likelihood of real toybox images given their captions: seen and held-out combinations."""
    scores, about = [], {"image_tokenizer_sha256": digest(run.pipeline.image_tokenizer), "unit": "nats/token"}
    for split in ("train", WORLDS[run.world].held_out):
        given, without = np.array(run.on_all(_token_likelihood, split)).T
        for name, values, better in (
            (f"nats/token, {split}", given, "lower"),
            (f"nats/token explained by the caption, {split}", without - given, "higher"),
        ):
            scores.append(score(name, bootstrap_interval(values, seed=run.config.seed), better, details=about))
    return Result("likelihood", scores)


def _token_likelihood(run: EvalRun, rows: slice, split: str) -> list[tuple[float, float]]:
    world = WORLDS[run.world](split, run.pipeline.image_size, NEW_SEED, run.fraction(REAL))
    items = [world[i] for i in range(len(world))[rows]]
    if not items:
        return []
    images, captions = [item["image"] for item in items], [item["text"] for item in items]
    given, without = token_likelihood(run.pipeline, images, captions, run.batch_size)
    return list(zip(given.tolist(), without.tolist(), strict=True))


def token_likelihood(
    pipeline: DallePipeline, images: Sequence[np.ndarray], captions: Sequence[str], batch_size: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """−log p(tokens | caption) / N of images in nats/token, (P,); and the same with empty captions, (P,).

    Args:
        images: P arrays, uint8 (S, S, 3) with S the pipeline's image size.

    Raises ValueError for a pipeline without a token likelihood, and if images and captions differ in number.
    """
    if not isinstance(pipeline, DallePipeline):
        raise ValueError(
            f"{with_article(type(pipeline).__name__)} has no likelihood of image tokens; give a DallePipeline"
        )
    if len(images) != len(captions) or not len(images):
        raise ValueError(f"there must be one caption for each image, not {len(captions)} for {len(images)}")
    tokens = pipeline.encode_images(np.stack(images), batch_size)  # (P, s, s)
    given, without = (
        -pipeline.log_likelihood(texts, tokens, batch_size).image.cpu().double().numpy() / pipeline.prior.image_length
        for texts in (list(captions), [""] * len(captions))
    )
    return given, without


# --- unconditional models -------------------------------------------------------------------------------------------


def _unconditional(run: EvalRun) -> Result:
    """Likelihood of test images under each target; and the paired difference in nats to the first target."""
    result, first, rows = Result("likelihood"), None, []
    for folder in run.config.targets:
        model = run.models.unconditional(folder)
        k, nats = _test_nats(run, folder, model)
        of = f" of {folder}" if len(run.config.targets) > 1 else ""
        kind = ("density, " if model.continuous else "") + model.likelihood
        details = {"likelihood": kind, "levels": model.levels, "likelihood_samples": run.config.likelihood_samples}
        per_dim = bootstrap_interval(nats / (math.prod(model.shape) * math.log(2)))
        per_image = bootstrap_interval(nats)
        result.scores.append(score(f"nats/image{of}", per_image, "lower", details=details))
        result.scores.append(score(f"bits/dim{of}", per_dim, "lower", details=details))
        first = first or (k, nats)
        more = _difference(first, (k, nats))
        if more is not None:
            name = f"nats/image more than {run.target}: {folder}"
            result.scores.append(Score(name, more.value, more.low, more.high, more.n, "lower", details=details))
        row = [folder, type(model).__name__, kind, model.levels, run.config.likelihood_samples, per_image.value]
        rows.append([*row, per_dim.value, per_dim.low, per_dim.high, per_dim.n])
    columns = ["model", "class", "likelihood", "levels", "samples", "nats/image", "bits/dim", "low", "high", "images"]
    result.tables.append(Table("Likelihood of test images", columns, rows))
    return result


def _test_nats(run: EvalRun, folder: str, model: GenerativeModel) -> tuple[Tensor, Tensor]:
    """Test images as levels (n, C, S, S), and the nats of each (n,)"""
    config = run.config
    k, labels = first_levels(run.data_of(folder).test, PreparePixels(model.levels, model.shape[0]), run.num_images)
    images = from_levels(k, model.levels)
    return k, nats(model, images, labels, config.seed, config.likelihood_samples, config.batch_size or BATCH).double()


def _difference(first: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Interval | None:
    """Mean paired difference in nats per image, with a bootstrap interval; None if the images differ."""
    if first[1] is other[1] or not torch.equal(first[0], other[0]):
        return None
    return bootstrap_interval(other[1] - first[1])


@torch.no_grad()
def nats(
    model: GenerativeModel, images: Tensor, labels: Tensor, seed: int = 0, samples: int = 1, batch_size: int = BATCH
) -> Tensor:
    """−ln P of each image with L levels, (n, C, S, S) and (n,) -> (n,), with a progress bar. See `log_likelihood`."""
    generator, parts = torch.Generator().manual_seed(seed), []
    for start in tqdm(range(0, len(images), batch_size), type(model).__name__, unit="batch", leave=False):
        x = images[start : start + batch_size].to(model.device)
        y = labels[start : start + batch_size].to(model.device) if model.conditional else None
        parts.append(-log_likelihood(model, x, y, generator, samples).cpu())
    return torch.cat(parts)
