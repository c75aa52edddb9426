"""From features to scores: intervals, ceilings and details shared by several evaluators.

Shapes: N images · D dimensions
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from torch import Tensor

from t2i.eval import metrics
from t2i.eval.features import Features
from t2i.eval.images.references import Reference
from t2i.eval.metrics.common import Array
from t2i.eval.report import Score
from t2i.notes import are, count

RESAMPLES = 50  # half samples for the interval of a distance; each costs as much as a distance
SHARES = ("precision", "recall", "coverage")


def score(name: str, interval: metrics.Interval, better: str, ceiling: float | None = None, **fields) -> Score:
    """A score with its interval; `fields` are further fields of `Score`."""
    return Score(name, interval.value, interval.low, interval.high, interval.n, better, ceiling, **fields)


def share_score(name: str, truths: Sequence[bool], ceiling: Sequence[bool] | None = None, **fields) -> Score:
    """The share that is true (higher is better) with Wilson's interval; `ceiling`: other truths whose share it is."""
    best = None if ceiling is None else metrics.share(ceiling).value
    return score(name, metrics.share(truths), fields.pop("better", "higher"), best, share=True, **fields)


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
    for name, found, ceiling in zip(names, intervals, ceilings, strict=True):
        share = name.startswith(SHARES)
        low, high = max(0.0, found.low), min(1.0, found.high) if share else found.high  # none of these can be negative
        scores.append(Score(name, found.value, low, high, found.n, better, ceiling, skipped, details, share))
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
    """Details that identify a set of images."""
    skipped = {"skipped": len(features.skipped)} if features.skipped else {}
    return {"sha256": images_digest(features.images_sha256), "n": len(features)} | skipped


def images_digest(images_sha256: Sequence[str]) -> str:
    """One SHA-256 of a set of images, computed from theirs, independent of their order."""
    return hashlib.sha256("".join(sorted(images_sha256)).encode()).hexdigest()


def notes_on(generated: Features, reference: Features | Reference | None = None) -> list[str]:
    """Notes on skipped and on black images."""
    notes = [f"skipped: {image}" for image in generated.skipped]
    if generated.black:
        notes.append(
            f"{count(generated.black, 'image')} {are(generated.black)} all black, such as {generated.black[0]}."
        )
    return notes + [f"skipped of the reference: {image}" for image in (reference.skipped if reference else ())]
