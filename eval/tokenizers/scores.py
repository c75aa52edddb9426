"""The scores of a tokenizer from the measurements of its images.

Shapes: N images · D features
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
import torch

from t2i.eval import metrics
from t2i.eval.evaluators.fid import LEAST as LEAST_OF_SETS
from t2i.eval.evaluators.two_sample import LEAST, SIDE, two_sample_accuracy
from t2i.eval.features import measure_name
from t2i.eval.metrics import Interval
from t2i.eval.report import Score
from t2i.eval.scores import RESAMPLES, score, share_score
from t2i.eval.tokenizers.measure import Measured, Reconstruction, TokenizersRun, View
from t2i.eval.tokenizers.opened import OpenedTokenizer
from t2i.weights import digest

ENCODED, DECODED = "images/s, encoder", "images/s, decoder"
Cells = dict[str, Score | float | None]  # by name: a score, infinity, or None where a metric does not apply


def scores_of(tokenizer: OpenedTokenizer, measured: Sequence[Measured], run: TokenizersRun, about: dict) -> Cells:
    """All scores of a tokenizer, in the order of the table.

    Args:
        measured: at least two images.
        about: details that every score of image pairs has.
    """
    through = [m.reconstructions[tokenizer.name] for m in measured]
    about = about | {"tokenizer_sha256": tokenizer.sha256}
    original = [m.original for m in measured]
    views = [r.view for r in through]
    cells = _of_pairs(through, original, run, about)
    cells |= _of_sets(views, original, run, about)
    if run.classifier is not None:
        cells |= _accuracies(views, original, about | {"classifier_sha256": digest(run.classifier)})
    return cells | _of_codes(tokenizer, through, run, about) | _speed(through, run, tokenizer)


def _of_pairs(through: Sequence[Reconstruction], original: Sequence[View], run: TokenizersRun, about: dict) -> Cells:
    """Means over pairs of an original and its reconstruction, with bootstrap intervals."""
    features = (torch.stack([view.features for view in of]) for of in ([r.view for r in through], original))
    extractor = run.extractor.describe()
    values = {
        "PSNR in dB": ([r.psnr for r in through], "higher", about),
        "SSIM": ([r.ssim for r in through], "higher", about),
        measure_name("cosine distance", extractor): (
            metrics.cosine_distance(*features).per_sample,
            "lower",
            about | {"extractor": extractor},
        ),
    }
    if run.lpips is not None:
        weights = about | {"weights_sha256": run.lpips.weights_sha256}
        values[run.lpips.name] = ([r.lpips for r in through], "lower", weights)
    cells: Cells = {}
    for name, (per_image, better, details) in values.items():
        if np.isinf(per_image).any():  # an exact reconstruction; a report's numbers are finite
            cells[name] = math.inf
            continue
        interval = metrics.bootstrap_interval(np.array(per_image), seed=run.config.seed)
        cells[name] = score(name, interval, better, details=details)
    return cells


def _of_sets(views: Sequence[View], original: Sequence[View], run: TokenizersRun, about: dict) -> Cells:
    """The Fréchet distance and the two-sample accuracy; None for too few images."""
    name, cells, extractor = f"r{measure_name('FD', run.extractor)}", {}, run.extractor.describe()
    cells[name] = None
    if len(views) >= LEAST_OF_SETS:
        pairs = torch.cat([torch.stack([view.features for view in of]) for of in (views, original)], 1)  # (N, 2·D)
        distance = frechet_interval(pairs, run.config.seed)
        details = about | {"extractor": extractor, "resamples": RESAMPLES}
        cells[name] = score(name, distance, "lower", details=details)
    if not run.config.two_sample:
        return cells
    name = "two-sample accuracy"
    cells[name] = None
    tested = [(view.small, real.small, str(i)) for i, (view, real) in enumerate(zip(views, original, strict=True))]
    tested = [row for row in tested if row[0] is not None]
    if len(tested) >= LEAST:
        fake, real, groups = zip(*tested, strict=True)  # an original and its reconstruction are in the same split
        interval = two_sample_accuracy(torch.stack(fake), torch.stack(real), groups, groups, run.config.seed)
        details = about | {"side": SIDE, "images": len(tested), "ceiling": "chance"}
        cells[name] = score(name, interval, "lower", 0.5, details=details, share=True)
    return cells


def frechet_interval(pairs: torch.Tensor, seed: int) -> Interval:
    """Fréchet distance between the halves of rows (N, 2·D), reconstructions and originals, with an interval from half
    of the pairs: both sets are of the same images.
    """
    dim = pairs.shape[1] // 2
    distance = lambda z: [metrics.frechet_distance(z[:, :dim], z[:, dim:])]  # noqa: E731
    (found,) = metrics.half_sample_intervals(pairs, distance, RESAMPLES, seed)
    return Interval(found.value, max(0.0, found.low), found.high, found.n)


def _accuracies(views: Sequence[View], original: Sequence[View], about: dict) -> Cells:
    """The classifier's accuracy on each type of fact; its accuracy on the originals is the ceiling."""
    through, real = (_pooled(of) for of in (views, original))
    return {
        f"accuracy: {name}": share_score(f"accuracy: {name}", right, real[name], details=about)
        for name, right in through.items()
    }


def _pooled(views: Sequence[View]) -> dict[str, list[bool]]:
    pooled: dict[str, list[bool]] = {}
    for view in views:
        for name, right in view.facts.items():
            pooled.setdefault(name, []).extend(right)
    first = [name for name in ("all facts", "layout", "kind", "attribute") if name in pooled]
    return {name: pooled[name] for name in dict.fromkeys([*first, *sorted(pooled)])}


def _of_codes(tokenizer: OpenedTokenizer, through: Sequence[Reconstruction], run: TokenizersRun, about: dict) -> Cells:
    """Usage and perplexity of codes, the KL divergence of latents, and the size of both."""
    used = perplexity = kl = None
    if (size := tokenizer.codebook_size) is not None:
        usage = metrics.code_usage(np.concatenate([r.codes for r in through]))
        details = about | {"codebook_size": size, "codes": usage.count}
        share = usage.used / size
        used = Score("codes used", share, None, None, len(through), "higher", details=details, share=True)
        perplexity = Score("perplexity", usage.perplexity, None, None, len(through), "higher", details=details)
    if through[0].kl is not None:
        interval = metrics.bootstrap_interval(np.array([r.kl for r in through]), seed=run.config.seed)
        kl = score("KL in bits/image", interval, "lower", details=about)
    grid = {"grid": list(tokenizer.grid(run.size)), "stride": tokenizer.stride}
    grid |= {"bits_per_number": tokenizer.bits_per_number} if size is None else {"codebook_size": size}
    bits = Score("bits/image", tokenizer.bits(run.size), None, None, len(through), "lower", details=grid)
    return {"codes used": used, "perplexity": perplexity, "bits/image": bits, "KL in bits/image": kl}


def _speed(through: Sequence[Reconstruction], run: TokenizersRun, tokenizer: OpenedTokenizer) -> Cells:
    """Median images/s over the batches, each weighted by its images."""
    details = {"variant": f"{run.machine}, batches of {run.config.batch_size}"}
    rates = {ENCODED: [r.encoded for r in through], DECODED: [r.decoded for r in through]}
    cells: Cells = {
        name: Score(name, statistics.median(of), None, None, len(of), "higher", details=details)
        for name, of in rates.items()
    }
    return cells | {"parameters": Score("parameters", tokenizer.parameters, None, None, 1, "lower")}
