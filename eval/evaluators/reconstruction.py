"""Reconstructions of real images by the image tokenizer: PSNR, SSIM, and pairs of originals and reconstructions.

Shapes: N images · S image side
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from t2i.checks import UsageError
from t2i.data.toybox import Toybox
from t2i.eval import metrics
from t2i.eval.report import Gallery, Score
from t2i.eval.result import Result
from t2i.eval.run import EvalRun
from t2i.eval.scores import score
from t2i.images import to_pil, to_tensor
from t2i.weights import digest

REAL = 0.4  # fraction of --num-images: real images to reconstruct
NEW_SEED = 1  # seed of toybox images that recipes do not train on by default
SHOWN = 12  # pairs in the gallery


def evaluate(run: EvalRun) -> Result:
    """PSNR and SSIM of real toybox images. Raises UsageError for a pipeline without an image tokenizer."""
    tokenizer = getattr(run.pipeline, "image_tokenizer", None)
    if not hasattr(tokenizer, "reconstruct"):
        raise UsageError(f"a {type(run.pipeline).__name__} has no image tokenizer that reconstructs")
    items = Toybox("train", run.pipeline.image_size, NEW_SEED, run.fraction(REAL))
    originals = torch.from_numpy(np.stack([item["image"] for item in items]))  # (N, S, S, 3)
    parts = run.on_all(_reconstruct, originals)
    images, real = (torch.stack(parts).clamp(-1, 1) + 1) / 2, (to_tensor(originals) + 1) / 2  # (N, 3, S, S)
    pairs = zip(to_pil(2 * real[:SHOWN] - 1), to_pil(2 * images[:SHOWN] - 1), strict=True)
    shown = [(image, word) for pair in pairs for image, word in zip(pair, ("real", "reconstructed"), strict=True)]
    scores = reconstruction_scores(images, real, digest(tokenizer), run.config.seed)
    return Result("reconstruction", scores, galleries=[Gallery("Through the image tokenizer", shown)])


def reconstruction_scores(images: Tensor, originals: Tensor, tokenizer_sha256: str, seed: int = 0) -> list[Score]:
    """PSNR and SSIM for floats (N, 3, S, S) in [0, 1]."""
    scores, details = [], {"image_tokenizer_sha256": tokenizer_sha256}
    for name, metric in (("PSNR in dB", metrics.psnr), ("SSIM", metrics.ssim)):
        interval = metrics.bootstrap_interval(metric(images, originals).per_sample, seed=seed)
        scores.append(score(f"reconstruction: {name}", interval, "higher", details=details))
    return scores


@torch.no_grad()
def reconstruct(tokenizer, images: Tensor) -> Tensor:
    """uint8 (N, S, S, 3) -> float32 (N, 3, S, S) in [-1, 1], encoded and decoded at the tokenizer's precision."""
    dtype = next(tokenizer.parameters()).dtype  # the encoder's, which comes first; codebooks may stay in float32
    return tokenizer.reconstruct(to_tensor(images).to(tokenizer.device, dtype)).float()


def _reconstruct(run: EvalRun, rows: slice, originals: Tensor) -> list[Tensor]:
    tokenizer, own = run.pipeline.image_tokenizer, originals[rows]
    return (
        [image for part in own.split(run.batch_size) for image in reconstruct(tokenizer, part).cpu()]
        if len(own)
        else []
    )
