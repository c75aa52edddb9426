"""CLIP score in its variants (see `t2i.eval.metrics.clip_score`), and R-precision.

Shapes: N images · D dimensions
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from t2i.checks import UsageError
from t2i.eval import metrics
from t2i.eval.features import Features
from t2i.eval.report import Score
from t2i.eval.run import GENERATED, EvalRun
from t2i.eval.scores import Result, notes_on, score

PREFIX = {"hessel": "A photo depicts "}  # prompt prefix by variant: Hessel et al. 2021, section 3


def check(run: EvalRun) -> None:
    """Raise UsageError without `--clip` and `--variant`, or if the model has no text encoder."""
    name = run.config.clip
    if name is None or run.config.variant is None:
        raise UsageError("a CLIP score needs --clip (clip:NAME or open_clip:ARCH/PRETRAINED) and --variant")
    if not hasattr(extractor := run.models.extractor(name), "encode_text"):
        raise UsageError(f"{extractor.name} has no text encoder: give --clip clip:NAME or open_clip:ARCH/PRETRAINED")


def evaluate(run: EvalRun) -> Result:
    """The CLIP score by `--variant`, and R-precision.

    Raises UsageError as `check` does, and for images without prompts; ValueError for fewer than two images.
    """
    check(run)
    name, variant = run.config.clip, run.config.variant
    images = run.features(GENERATED, name)
    texts = [PREFIX.get(variant, "") + text for text in run.captions(images)]
    embedded = torch.stack(run.on_all(_encode, name, texts))
    return Result("clip_score", clip_scores(images, embedded, variant, seed=run.config.seed), notes=notes_on(images))


def clip_scores(images: Features, texts: Tensor, variant: str, candidates: int = 100, seed: int = 0) -> list[Score]:
    """The CLIP score and the R-precision among `candidates` texts.

    Args:
        images: features (N, D) of a CLIP extractor.
        texts: (N, D), from the same extractor's `encode_text`.
    """
    about, skipped = {"extractor": images.extractor, "variant": variant}, len(images.skipped)
    result = metrics.clip_score(images.values, texts, variant)
    interval = metrics.bootstrap_interval(result.per_sample, seed=seed)
    low, high = sorted(max(0.0, end) if variant == "torchmetrics" else end for end in (interval.low, interval.high))
    name = f"CLIP score, {variant}[{images.extractor['name']}]"
    scores = [Score(name, result.value, low, high, interval.n, "higher", None, skipped, about)]
    if (r := min(candidates, len(texts))) >= 2:
        precision = metrics.r_precision(images.values, texts, r, seed)
        interval = metrics.bootstrap_interval(precision.per_sample, seed=seed)
        name, about = f"R-precision of {r}[{images.extractor['name']}]", about | {"candidates": r, "seed": seed}
        scores.append(score(name, interval, "higher", skipped=skipped, details=about, share=True))
    return scores


def _encode(run: EvalRun, rows: slice, extractor: str, texts: Sequence[str]) -> list[Tensor]:
    mine = texts[rows]
    return list(run.models.extractor(extractor).encode_text(mine)) if mine else []
