"""Fréchet distance to real images (FID only with Inception); precision, recall, density and coverage; and the Inception
score for extractors with class logits.

Shapes: N images · D dimensions · K classes
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from t2i.eval import metrics
from t2i.eval.features import Features, measure_name
from t2i.eval.images.references import Reference
from t2i.eval.metrics.common import Array
from t2i.eval.report import Curve, Score
from t2i.eval.run import GENERATED, EvalRun
from t2i.eval.scores import Result, details, features_of, notes_on, set_scores

LEAST = 12  # minimum number of images: each half then has more than coverage's five neighbours
NEIGHBOURS = (3, 5)  # k of precision and recall, and of density and coverage


def check(run: EvalRun) -> None:
    """Raise for fewer than LEAST images and for an unusable reference, as `EvalRun.check_reference` does."""
    run.check_reference(LEAST)


def evaluate(run: EvalRun) -> Result:
    """`fidelity_scores`, and the Inception score if the extractor has class logits.

    Raises UsageError if there is no reference, ValueError for fewer than LEAST images.
    """
    name, seed = run.config.extractor, run.config.seed
    generated, reference, real = run.features(GENERATED, name), run.reference(name), run.real(name)
    scores = fidelity_scores(generated, reference, real, seed)
    notes = notes_on(generated, reference) + _few_images(scores[0].name, generated, reference)
    if hasattr(extractor := run.models.extractor(name), "logits"):
        scores += inception_score(extractor.logits, generated, real, seed)
    curves = [_curve(score) for score in scores if "counts" in score.details]
    return Result("fid", scores, curves=curves, notes=notes)


def fidelity_scores(
    generated: Features, reference: Features | Reference, real: Features | None = None, seed: int = 0
) -> list[Score]:
    """Fréchet distance, also extrapolated to infinitely many images if there are enough of them; and if the reference's
    features are known, precision, recall, density and coverage.

    Args:
        generated, reference: from the same extractor.
        real: as many other real images, whose score is the ceiling.
        seed: of the subsets. Intervals reflect sampling of the generated images, for a fixed reference.

    Raises ValueError for fewer than LEAST images.
    """
    if len(generated) < LEAST:
        raise ValueError(
            f"{len(generated)} images are too few to compare sets: {LEAST} are needed, and thousands are better"
        )
    x, about, moments = generated.values, details(generated, reference), _moments(reference)
    real_x = None if real is None else real.values
    name = measure_name("FD", generated.extractor)

    def distance(z: Array) -> list[float]:
        return [metrics.frechet_distance(z, moments)]

    scores = set_scores([name], distance, x, real_x, generated, about, "lower", seed)
    if len(x) // 10 > x.shape[1]:  # the smallest subset; with fewer samples than dimensions the bias is no line in 1/N
        line = metrics.fd_infinity(x, moments, seed=seed)
        fit = about | {"counts": list(line.counts), "distances": list(line.distances), "slope": line.slope}
        skipped = len(generated.skipped)
        scores.append(Score(f"{name} at infinity", line.value, None, None, len(x), "lower", None, skipped, fit))
    if (y := features_of(reference)) is None:
        return scores
    manifold = metrics.Manifold.of(y, NEIGHBOURS)  # computed once, not for each half of the generated images

    def neighbourhoods(z: Array) -> list[float]:
        pr, dc = metrics.precision_recall(z, manifold), metrics.density_coverage(z, manifold)
        return [pr.precision, pr.recall, dc.density, dc.coverage]

    names = [f"{part}[{generated.extractor['name']}]" for part in ("precision", "recall", "density", "coverage")]
    return scores + set_scores(names, neighbourhoods, x, real_x, generated, about, "higher", seed)


def inception_score(
    classify: Callable[[Tensor], Tensor], generated: Features, real: Features | None = None, seed: int = 0
) -> list[Score]:
    """Inception score, with an interval from half samples. It has no reference.

    Args:
        classify: maps features (N, D) to logits (N, K).
        generated: at least LEAST images.
        real: images whose score is the ceiling.
    """
    splits = min(10, len(generated) // 4)

    def statistic(rows: Array) -> list[float]:
        return [metrics.inception_score(rows, splits, seed=seed).mean]

    logits, best = (None if of is None else classify(of.values) for of in (generated, real))
    about = {"extractor": generated.extractor, "splits": splits}
    name = measure_name("Inception score", generated.extractor)
    return set_scores([name], statistic, logits, best, generated, about, "higher", seed)


def _moments(reference: Features | Reference) -> Tensor | metrics.Gaussian:
    """The moments, computed once; or the features themselves if there are few, which is faster."""
    if isinstance(reference, Reference):
        return reference.gaussian
    n, d = reference.values.shape
    return reference.values if n < d else metrics.Moments.of(reference.values).gaussian()


def _curve(score: Score) -> Curve:
    points = [(n, d, None, None) for n, d in zip(score.details["counts"], score.details["distances"], strict=True)]
    return Curve("Distance against the number of images", "images", score.name, {score.name: points})


def _few_images(name: str, generated: Features, reference: Features | Reference) -> list[str]:
    """Note on the bias of a Fréchet distance computed from no more images than dimensions."""
    dim = generated.values.shape[1]
    count = reference.count if isinstance(reference, Reference) else len(reference)
    few = [f"{n:,} {what}" for what, n in (("generated", len(generated)), ("real", count)) if n <= dim]
    if not few:
        return []
    return [
        f"{name} uses {' and '.join(few)} images for {dim:,} feature dimensions, so their covariance is rank-deficient "
        "and the distance is biased upwards; compare it only with distances of as many images."
    ]
