"""From features to scores: each metric with its interval, and with all that says what was measured.

Shapes: N pictures · D dimensions
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor

from t2i.eval import metrics
from t2i.eval.bias import Counterfactuals
from t2i.eval.binding import share
from t2i.eval.features import Features, measure_name
from t2i.eval.likelihood import CodeLikelihood
from t2i.eval.metrics.common import Array
from t2i.eval.metrics.memorization import NearCopies
from t2i.eval.references import Reference
from t2i.eval.report import Score

RESAMPLES = 50  # halves of the set for the interval of a distance, each as slow as a distance
INFINITY_POINTS = 15
LEAST = 12  # pictures: each half has more than the five neighbours that coverage looks at
SHARES = ("precision", "recall", "coverage")
MANIFOLD = {metrics.precision_recall: ("precision", "recall"), metrics.density_coverage: ("density", "coverage")}
NEIGHBOURS = (3, 5)  # their k


def fidelity(
    generated: Features, reference: Features | Reference, real: Features | None = None, seed: int = 0
) -> list[Score]:
    """Fréchet distance, also extrapolated to infinitely many pictures; and where features of the reference are known,
    precision and recall, density and coverage.

    Args:
        generated, reference: of one extractor.
        real: other real pictures, as many as generated, whose score is the ceiling.
        seed: of subsets. Intervals say how far other generated pictures would score, the reference being as it is.
    """
    if len(generated) < LEAST:
        raise ValueError(
            f"{len(generated)} pictures are too few to compare sets: it takes {LEAST}, and better thousands"
        )
    x, about = generated.values, _details(generated, reference)
    target = _target(reference)
    others = None if real is None else real.values
    name = measure_name("FD", generated.extractor)
    scores = [_score(name, lambda z: metrics.frechet_distance(z, target), x, others, generated, about, "lower", seed)]
    if len(x) // 10 > x.shape[1]:  # the smallest subset; with fewer samples than dimensions the bias is no line in 1/N
        line = metrics.fd_infinity(x, target, INFINITY_POINTS, seed=seed)
        details = about | {"counts": list(line.counts), "distances": list(line.distances), "slope": line.slope}
        skipped = len(generated.skipped)
        scores.append(Score(f"{name} at infinity", line.value, None, None, len(x), "lower", None, skipped, details))
    if (y := _features_of(reference)) is None:
        return scores
    manifold = metrics.Manifold.of(y, NEIGHBOURS)  # once, and not for each half of the generated pictures
    for metric, parts in MANIFOLD.items():
        names = [f"{part}[{generated.extractor['name']}]" for part in parts]
        statistic = partial(_parts_of, metric, parts, manifold)
        scores += _scores(names, statistic, x, others, generated, about, "higher", seed)
    return scores


def kernel(
    generated: Features,
    reference: Features | Reference,
    real: Features | None = None,
    subsets: int = 100,
    seed: int = 0,
) -> list[Score]:
    """Kernel distance, the mean over subsets, with its interval; in CLIP's space also CMMD."""
    y = _features_of(reference)
    if y is None:
        raise ValueError("KID needs the reference's features; save its statistics with them, or give a folder")
    y = y.double()  # once, and not for each half of the generated pictures
    x, size = generated.values, min(1000, len(generated), len(y))
    found = metrics.kid_interval(x, y, subsets, size, seed)
    best = None if real is None else metrics.kid(real.values, y, subsets, min(size, len(real)), seed=seed).mean
    details = _details(generated, reference) | {"subsets": subsets, "subset_size": size, "seed": seed}
    name = measure_name("KID", generated.extractor)
    skipped = len(generated.skipped)
    scores = [Score(name, found.value, found.low, found.high, found.n, "lower", best, skipped, details)]
    if generated.extractor["name"].startswith(("clip:", "open_clip:")):
        about = _details(generated, reference)
        others = None if real is None else real.values
        name = f"CMMD[{generated.extractor['name']}]"
        scores.append(_score(name, lambda z: metrics.cmmd(z, y), x, others, generated, about, "lower", seed))
    return scores


def inception(
    classify: Callable[[Tensor], Tensor], generated: Features, real: Features | None = None, seed: int = 0
) -> list[Score]:
    """Inception score, its interval from half samples. It knows no reference.

    Args:
        classify: features (N, D) to logits (N, K).
        generated: LEAST of them or more.
        real: pictures whose score is the ceiling.
    """
    splits = min(10, len(generated) // 4)

    def statistic(rows: Array) -> float:
        return metrics.inception_score(rows, splits, seed=seed).mean

    logits, best = (None if of is None else classify(of.values) for of in (generated, real))
    details = {"extractor": generated.extractor, "splits": splits}
    name = measure_name("Inception score", generated.extractor)
    return [_score(name, statistic, logits, best, generated, details, "higher", seed)]


def reconstruction(images: Tensor, originals: Tensor, tokenizer_sha256: str, seed: int = 0) -> list[Score]:
    """What an image tokenizer keeps of real pictures: PSNR and SSIM of floats (N, 3, S, S) in [0, 1]."""
    scores = []
    for name, metric in (("PSNR in dB", metrics.psnr), ("SSIM", metrics.ssim)):
        i = metrics.bootstrap_interval(metric(images, originals).per_sample, seed=seed)
        details = {"image_tokenizer_sha256": tokenizer_sha256}
        scores.append(Score(f"reconstruction: {name}", i.value, i.low, i.high, i.n, "higher", details=details))
    return scores


def clip(images: Features, texts: Tensor, variant: str, candidates: int = 100, seed: int = 0) -> list[Score]:
    """CLIP score by its variant (see `t2i.eval.metrics.clip_score`) and R-precision among `candidates` texts.

    Args:
        images: of a CLIP extractor, (N, D).
        texts: (N, D), of the same extractor's `encode_text`.
    """
    about, skipped = {"extractor": images.extractor, "variant": variant}, len(images.skipped)
    found = metrics.clip_score(images.values, texts, variant)
    interval = metrics.bootstrap_interval(found.per_sample, seed=seed)
    ends = sorted(max(0.0, end) if variant == "torchmetrics" else end for end in (interval.low, interval.high))
    name = f"CLIP score, {variant}[{images.extractor['name']}]"
    scores = [Score(name, found.value, *ends, interval.n, "higher", None, skipped, about)]
    if (r := min(candidates, len(texts))) >= 2:
        precision = metrics.r_precision(images.values, texts, r, seed)
        interval = metrics.bootstrap_interval(precision.per_sample, seed=seed)
        about = {"extractor": images.extractor, "variant": variant, "candidates": r, "seed": seed}
        name = f"R-precision of {r}[{images.extractor['name']}]"
        ends = (interval.low, interval.high)
        scores.append(Score(name, interval.value, *ends, interval.n, "higher", None, skipped, about, share=True))
    return scores


def shares(
    found: dict[str, dict],
    ceilings: dict[str, dict] | None = None,
    skipped: Mapping[str, int] | None = None,
    **details,
) -> list[Score]:
    """Shares as `wilson` gives them, {name: {"value", "low", "high", "n"}}, as scores of these names."""
    ceilings, skipped = ceilings or {}, skipped or {}
    return [
        Score(
            name,
            s["value"],
            s["low"],
            s["high"],
            s["n"],
            "higher",
            ceilings[name]["value"] if name in ceilings else None,
            skipped.get(name, 0),
            details,
            share=True,
        )
        for name, s in found.items()
    ]


def memorization(found: NearCopies, generated: Features, training: Features) -> list[Score]:
    """The share of near copies; the ceiling is the share among new real pictures, which copy nothing."""
    copies, real = share(found.copies.tolist()), share(found.real_copies.tolist())
    details = {"extractor": generated.extractor, "training": _of(training)}
    details |= {"threshold": found.threshold, "real_n": real["n"]}
    ends, skipped = (copies["low"], copies["high"]), len(generated.skipped)
    name = f"near copies[{generated.extractor['name']}]"
    return [Score(name, copies["value"], *ends, copies["n"], "lower", real["value"], skipped, details, share=True)]


def likelihood(given: CodeLikelihood, tokenizer_sha256: str, split: str, seed: int = 0) -> list[Score]:
    """Nats a code of real pictures with their captions, and what the captions explain of them."""
    about = {"unit": "nats a code", "image_tokenizer_sha256": tokenizer_sha256}
    scores = []
    for name, values, better in (
        (f"nats a code, {split}", given.given, "lower"),
        (f"nats a code that the caption explains, {split}", given.explained, "higher"),
    ):
        i = metrics.bootstrap_interval(values, seed=seed)
        scores.append(Score(name, i.value, i.low, i.high, i.n, better, details=about))
    return scores


def bias(found: Counterfactuals, unsaid: dict, reader_sha256: str) -> list[Score]:
    """Counterfactual pairs (see `t2i.eval.bias`), and how unevenly attributes are drawn that nobody asked for."""
    scores, about = [], {"reader_sha256": reader_sha256}
    for swap, parts in found.report.items():
        scores += shares({f"swap of {swap}: followed": parts["followed"]}, **about)
        name, ceiling = f"swap of {swap}: rest kept", {"ceiling": "two pictures of one prompt"}
        scores += shares({name: parts["kept"]}, {name: parts["kept_by_chance"]}, **about, **ceiling)
    name, n = "attributes left open: distance from even", unsaid["n"]
    details = about | {"ceiling": "as many even draws", "counts": unsaid["counts"]}
    value, best = unsaid["total_variation"], unsaid["by_chance"]
    return [*scores, Score(name, value, None, None, n, "lower", best, details=details, share=True)]


def _parts_of(metric: Callable, parts: Sequence[str], manifold: metrics.Manifold, x: Array) -> list[float]:
    found = metric(x, manifold)
    return [getattr(found, part) for part in parts]


def _score(
    name: str,
    statistic: Callable[[Array], float],
    x: Tensor,
    real: Tensor | None,
    generated: Features,
    details: dict,
    better: str,
    seed: int,
) -> Score:
    """A statistic of a set of features (N, D), with its interval; the ceiling is that of real pictures (M, D)."""
    return _scores([name], lambda rows: [statistic(rows)], x, real, generated, details, better, seed)[0]


def _scores(
    names: Sequence[str],
    statistic: Callable[[Array], Sequence[float]],
    x: Tensor,
    real: Tensor | None,
    generated: Features,
    details: dict,
    better: str,
    seed: int,
) -> list[Score]:
    """`_score` of several numbers that are computed together."""
    intervals = metrics.half_sample_intervals(x, statistic, RESAMPLES, seed)
    ceilings = [None] * len(names) if real is None else statistic(real)
    details, skipped, scores = details | {"resamples": RESAMPLES, "seed": seed}, len(generated.skipped), []
    for name, found, ceiling in zip(names, intervals, ceilings, strict=True):
        share = name.startswith(SHARES)
        low, high = max(0.0, found.low), min(1.0, found.high) if share else found.high  # none of these is negative
        scores.append(Score(name, found.value, low, high, found.n, better, ceiling, skipped, details, share))
    return scores


def _target(reference: Features | Reference) -> Tensor | metrics.Gaussian:
    """The moments, computed once; or few features, which are quicker than moments."""
    if isinstance(reference, Reference):
        return reference.gaussian
    n, d = reference.values.shape
    return reference.values if n < d else metrics.Moments.of(reference.values).gaussian()


def _features_of(reference: Features | Reference) -> Tensor | None:
    return reference.features if isinstance(reference, Reference) else reference.values


def _details(generated: Features, reference: Features | Reference) -> dict:
    if isinstance(reference, Reference):
        of = {"sha256": reference.sha256, "n": reference.count, "source": reference.source}
        of |= {"mismatches": list(reference.mismatches)} if reference.mismatches else {}
    else:
        of = _of(reference)
    black = {"black": len(generated.black)} if generated.black else {}
    return {"extractor": generated.extractor, "reference": of} | black


def _of(features: Features) -> dict:
    """Which pictures they are of."""
    skipped = {"skipped": len(features.skipped)} if features.skipped else {}
    return {"sha256": pictures_digest(features.images_sha256), "n": len(features)} | skipped


def pictures_digest(images_sha256: Sequence[str]) -> str:
    """One SHA-256 of a set of pictures from theirs, whatever their order."""
    return hashlib.sha256("".join(sorted(images_sha256)).encode()).hexdigest()
