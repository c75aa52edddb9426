"""The result of an evaluator, and scores with the intervals, ceilings and details that several evaluators share.

Shapes: N images · D dimensions
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from t2i.eval import metrics
from t2i.eval.features import Features
from t2i.eval.images.references import Reference
from t2i.eval.metrics.common import Array
from t2i.eval.report import Curve, Gallery, Score, Table
from t2i.notes import are, count

RESAMPLES = 50  # half samples for the interval of a distance; each costs as much as a distance
SHARES = ("precision", "recall", "coverage")


@dataclass(frozen=True)
class Result:
    """The part of a report that one evaluator contributes.

    Attributes:
        name: the evaluator's name, as in EVALUATORS.
        notes: remarks, one sentence each, such as images that were skipped.
    """

    name: str
    scores: list[Score] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def score(name: str, interval: metrics.Interval, better: str, ceiling: float | None = None, **fields) -> Score:
    """A score with its interval; `fields` are further fields of `Score`."""
    return Score(name, interval.value, interval.low, interval.high, interval.n, better, ceiling, **fields)


def share_score(
    name: str, truths: Sequence[bool], ceiling: Sequence[bool] | None = None, better: str = "higher", **fields
) -> Score:
    """The share of `truths` that are true, with Wilson's interval; its ceiling is the share of true `ceiling`."""
    best = None if ceiling is None else metrics.share(ceiling).value
    return score(name, metrics.share(truths), better, best, share=True, **fields)


def set_scores(
    names: Sequence[str],
    statistic: Callable[[Array], Sequence[float]],
    x: Tensor,
    real: Tensor | None,
    generated: Features,
    details: dict,
    better: str,
    seed: int,
) -> list[Score]:
    """Statistics of features (N, D), computed together, with half-sample intervals.

    Args:
        x: the features of the generated images.
        real: features of other real images (M, D), whose statistics are the ceilings.
    """
    intervals = metrics.half_sample_intervals(x, statistic, RESAMPLES, seed)
    ceilings = [None] * len(names) if real is None else statistic(real)
    details, skipped, scores = details | {"resamples": RESAMPLES, "seed": seed}, len(generated.skipped), []
    for name, interval, ceiling in zip(names, intervals, ceilings, strict=True):
        share = name.startswith(SHARES)
        low, high = max(0.0, interval.low), min(1.0, interval.high) if share else interval.high  # never negative
        scores.append(Score(name, interval.value, low, high, interval.n, better, ceiling, skipped, details, share))
    return scores


def features_of(reference: Features | Reference) -> Tensor | None:
    """(N, D), or None if a statistics file has only the moments."""
    return reference.features if isinstance(reference, Reference) else reference.values


def details(generated: Features, reference: Features | Reference) -> dict:
    """Details of a score of a set: the extractor, what identifies the reference, and how many images are black."""
    if isinstance(reference, Reference):
        of = {"sha256": reference.sha256, "n": reference.count, "source": reference.source}
        of |= {"mismatches": list(reference.mismatches)} if reference.mismatches else {}
    else:
        of = set_details(reference)
    black = {"black": len(generated.black)} if generated.black else {}
    return {"extractor": generated.extractor, "reference": of} | black


def set_details(features: Features) -> dict:
    """Details that identify a set of images, in any order: a SHA-256 of their hashes, and their number."""
    sha256 = hashlib.sha256("".join(sorted(features.images_sha256)).encode()).hexdigest()
    skipped = {"skipped": len(features.skipped)} if features.skipped else {}
    return {"sha256": sha256, "n": len(features)} | skipped


def notes_on(generated: Features, reference: Features | Reference | None = None) -> list[str]:
    """Notes on skipped and on black images."""
    notes = [f"skipped: {image}" for image in generated.skipped]
    if generated.black:
        notes.append(
            f"{count(generated.black, 'image')} {are(generated.black)} all black, such as {generated.black[0]}."
        )
    return notes + [f"skipped of the reference: {image}" for image in (reference.skipped if reference else ())]
