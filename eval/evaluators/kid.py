"""Kernel Inception distance to real images; for CLIP features also CMMD."""

from __future__ import annotations

from t2i.eval import metrics
from t2i.eval.evaluators.fid import LEAST
from t2i.eval.features import Features, measure_name
from t2i.eval.images.references import Reference
from t2i.eval.report import Score
from t2i.eval.run import GENERATED, EvalRun
from t2i.eval.scores import Result, details, features_of, notes_on, score, set_scores


def check(run: EvalRun) -> None:
    """Raise for fewer than LEAST images and for an unusable reference, as `EvalRun.check_reference` does."""
    run.check_reference(LEAST)


def evaluate(run: EvalRun) -> Result:
    """KID, and for CLIP features CMMD.

    Raises UsageError if there is no reference, ValueError for statistics without features, and for too few images.
    """
    name = run.config.extractor
    generated, reference, real = run.features(GENERATED, name), run.reference(name), run.real(name)
    return Result(
        "kid", kernel_distances(generated, reference, real, seed=run.config.seed), notes=notes_on(generated, reference)
    )


def kernel_distances(
    generated: Features,
    reference: Features | Reference,
    real: Features | None = None,
    subsets: int = 100,
    seed: int = 0,
) -> list[Score]:
    """KID as the mean over subsets, and for CLIP features also CMMD.

    Args:
        real: other real images, whose score is the ceiling.

    Raises ValueError for statistics without features.
    """
    y = features_of(reference)
    if y is None:
        raise ValueError(
            "KID needs the reference's features: give a folder, or statistics created with --keep-features"
        )
    y = y.double()  # converted once, not for each half of the generated images
    x, size, about = generated.values, min(1000, len(generated), len(y)), details(generated, reference)
    interval = metrics.kid_interval(x, y, subsets, size, seed)
    best = None if real is None else metrics.kid(real.values, y, subsets, min(size, len(real)), seed=seed).mean
    settings, name = {"subsets": subsets, "subset_size": size, "seed": seed}, measure_name("KID", generated.extractor)
    scores = [score(name, interval, "lower", best, skipped=len(generated.skipped), details=about | settings)]
    if generated.extractor["name"].startswith(("clip:", "open_clip:")):
        others = None if real is None else real.values
        names = [f"CMMD[{generated.extractor['name']}]"]
        scores += set_scores(names, lambda z: [metrics.cmmd(z, y)], x, others, generated, about, "lower", seed)
    return scores
