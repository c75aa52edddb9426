"""Does the image match the text, according to CLIP?

Three definitions are called CLIP score, so the variant has no default.

Shapes: N pairs · D dimensions of the joint space · R candidates
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from t2i.eval.metrics.common import BLOCK, Array, Scores, as_pair, blocks
from t2i.eval.metrics.kernel import normalised

VARIANTS = ("hessel", "torchmetrics", "cosine")
_NAMES = ("images", "texts")
_TIE = 1e-9  # cosines closer than this are equal


def clip_score(images: Array, texts: Array, variant: str) -> Scores:
    """CLIP score of N image embeddings and the embeddings of their N texts.

    Args:
        images, texts: (N, D), of any nonzero norm.
        variant: definition of the score and of its clamping.
            "hessel": 2.5 · max(cos, 0) of each, then the mean (Hessel et al. 2021, arXiv 2104.08718, eq. 1). The
                texts should be embedded with the prefix "A photo depicts ".
            "torchmetrics": 100 · cos, the mean, clamped by max(·, 0); `per_sample` is not clamped.
            "cosine": the mean cosine.

    Raises ValueError for an unknown variant, other shapes, zero vectors, NaN or infinity.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, not {variant!r}")
    images, texts = _paired(images, texts)
    cosines = (images * texts).sum(1).clamp(-1, 1)  # (N,); rounding may exceed 1
    if variant == "hessel":
        return Scores.of(2.5 * cosines.clamp(min=0))
    if variant == "cosine":
        return Scores.of(cosines)
    scores = Scores.of(100 * cosines)
    return Scores(max(0.0, scores.value), scores.per_sample)


def r_precision(images: Array, texts: Array, candidates: int = 100, seed: int = 0, block: int = BLOCK) -> Scores:
    """How often an image's own text is the nearest of R: Xu et al. 2018 (AttnGAN), arXiv 1711.10485, section 4.1.

    The R − 1 others are sampled for each image from the other images' texts. Equally near texts share the point, so
    that a model that ignores its input, or duplicate texts, score at chance: 1 / R.

    Args:
        images, texts: (N, D), N ≥ R ≥ 2.
        candidates: R.
        seed: seed of the sampling.
        block: number of cosines in memory at once.

    Raises ValueError as `clip_score` does, and for R out of range.
    """
    images, texts = _paired(images, texts)
    n = len(texts)
    if not 2 <= candidates <= n:
        raise ValueError(f"candidates must be from 2 to the number of texts, {n}, not {candidates}")
    rng, points = np.random.default_rng(seed), []
    for part, rows in blocks(images, n, block):
        same = torch.arange(part.start, part.stop)[:, None]  # (B, 1)
        others = torch.from_numpy(np.stack([rng.choice(n - 1, candidates - 1, replace=False) for _ in same]))
        others = others + (others >= same)  # (B, R − 1), of the N − 1 texts of other images
        cosines = rows @ texts.T  # (B, N)
        right, wrong = (cosines.gather(1, i.to(cosines.device)) for i in (same, others))
        ties = ((wrong - right).abs() <= _TIE).sum(1)
        points.append((1 / (1 + ties.double())).where((wrong <= right + _TIE).all(1), 0))
    return Scores.of(torch.cat(points))


def _paired(images: Array, texts: Array) -> tuple[Tensor, Tensor]:
    images, texts = as_pair(images, texts, _NAMES, least=1)
    if len(images) != len(texts):
        raise ValueError(f"there must be one text for each image, not {len(texts)} for {len(images)}")
    return normalised(images), normalised(texts)
