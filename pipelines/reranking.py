"""Reranking: of several candidates for each image, the one with the highest score is kept (Ramesh et al. 2021,
arXiv 2102.12092, § 2.6, rank 512 candidates by CLIP).

Candidates are generated, decoded and scored in batches, and only the best one so far of each image is kept: memory does
not grow with their number. A pipeline's rows are its candidates, all of the first image first: row r is candidate r % c
of image r // c.

Shapes: n images · c candidates per image · R rows of a batch
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t2i.images import check_finite, to_pil
from t2i.pipelines.generators import seeded_from
from t2i.text.clip_embeddings import cosines, open_clip_model

LIKELIHOOD = "likelihood"  # the score of pipelines that have one
Scorer = Callable[[list[str], list[Image.Image]], Sequence[float] | np.ndarray | Tensor]  # of R prompts and images
Reranker = str | Scorer
SCORED = 64  # maximum number of candidates that are decoded and scored at once


def check_reranker(reranker: Reranker | None, num_candidates: int, pipeline: str) -> None:
    """Raise ValueError for candidates that nothing ranks, of a pipeline without a likelihood; `pipeline` names it."""
    if reranker == LIKELIHOOD or (reranker is None and num_candidates > 1):
        raise ValueError(
            f"{pipeline} has no likelihood to rank candidates by: give a reranker, the name or folder of a CLIP or a "
            "function"
        )


def open_reranker(reranker: Reranker, device: torch.device) -> Scorer:
    """The function that scores images by their prompts.

    Args:
        reranker: the name of a CLIP, see `open_clip_model`, or a function of prompts and PIL images, which is returned
            as it is.
        device: of the CLIP; it scores by the cosine of image and prompt, in float32.

    Raises ValueError for anything else, and FileNotFoundError, with the remedy, for a CLIP that is not there.
    """
    if callable(reranker):
        return reranker
    if not isinstance(reranker, str) or not reranker:
        raise ValueError(
            f"a reranker is the name of a CLIP, or a function of prompts and images, not {type(reranker).__name__}"
        )
    clip = open_clip_model(reranker, str(device))

    def score(prompts: list[str], images: list[Image.Image]) -> Tensor:
        """R prompts and images -> their cosines, (R,)"""
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
        return cosines(clip, pixels, [[prompt] for prompt in prompts])

    return score


def score_images(scorer: Scorer, prompts: Sequence[str], images: Tensor) -> Tensor:
    """R prompts, and images (R, 3, H, W) in [-1, 1] -> scores, float32 (R,) on the CPU.

    Raises ValueError for scores that are not one finite number per image.
    """
    check_finite(images)
    scores = torch.as_tensor(scorer(list(prompts), to_pil(images))).detach().float().cpu()
    if scores.shape != (len(images),) or not scores.isfinite().all():
        raise ValueError(
            f"a reranker must return one finite number per image, ({len(images)},), not {tuple(scores.shape)}: "
            f"{scores.flatten()[:4].tolist()}"
        )
    return scores


def keep_best(images: Tensor, candidates: Tensor, scores: Tensor, best: Tensor, best_scores: Tensor) -> None:
    """Write those of R candidates that score higher than the best one so far of their image into `best`, in place.

    Of equal scores the first one's counts.

    Args:
        images: (R,), the image of each candidate.
        candidates: (R, …), such as codes or latents.
        scores: (R,)
        best: (n, …), the best candidate so far of each image.
        best_scores: (n,), its score; −∞ before there is one.
    """
    known = best_scores.tolist()
    for row, (image, score) in enumerate(zip(images.tolist(), scores.tolist(), strict=True)):
        if score > known[image]:
            known[image] = score
            best[image], best_scores[image] = candidates[row], scores[row]


def candidate_generators(generators: Sequence[torch.Generator], num_candidates: int) -> Iterator[torch.Generator]:
    """The generators of all rows, made as they are needed: of a single candidate its image's own, of several, new ones
    that are seeded from it.
    """
    for generator in generators:
        if num_candidates == 1:
            yield generator
            continue
        for _ in range(num_candidates):
            yield from seeded_from(generator, 1)
