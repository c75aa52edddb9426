"""Reconstructions of real images by the image tokenizer: PSNR, SSIM, and pairs of originals and reconstructions.

Shapes: N images · S image side
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from t2i.checks import UsageError
from t2i.data.sources import WORLDS
from t2i.eval import metrics
from t2i.eval.report import Gallery
from t2i.eval.run import EvalRun
from t2i.eval.scores import Result, score
from t2i.images import to_pil, to_tensor
from t2i.notes import with_article
from t2i.weights import digest

REAL = 0.4  # fraction of --num-images: real images to reconstruct
NEW_SEED = 1  # seed of toybox images that recipes do not train on by default
SHOWN = 12  # pairs in the gallery


def evaluate(run: EvalRun) -> Result:
    """PSNR and SSIM of real toybox images. Raises UsageError for a pipeline without an image tokenizer."""
    tokenizer = getattr(run.pipeline, "image_tokenizer", None)
    if not hasattr(tokenizer, "reconstruct"):
        raise UsageError(f"{with_article(type(run.pipeline).__name__)} has no image tokenizer that reconstructs")
    items = WORLDS[run.world]("train", run.pipeline.image_size, NEW_SEED, run.fraction(REAL))
    originals = torch.from_numpy(np.stack([item["image"] for item in items]))  # (N, S, S, 3)
    parts = run.on_all(_reconstruct, originals)
    images, real = (torch.stack(parts).clamp(-1, 1) + 1) / 2, (to_tensor(originals) + 1) / 2  # (N, 3, S, S)
    pairs = zip(to_pil(2 * real[:SHOWN] - 1), to_pil(2 * images[:SHOWN] - 1), strict=True)
    shown = [(image, word) for pair in pairs for image, word in zip(pair, ("real", "reconstructed"), strict=True)]
    result = Result("reconstruction", galleries=[Gallery("Through the image tokenizer", shown)])
    details = {"image_tokenizer_sha256": digest(tokenizer)}
    for name, metric in (("PSNR in dB", metrics.psnr), ("SSIM", metrics.ssim)):
        interval = metrics.bootstrap_interval(metric(images, real).per_sample, seed=run.config.seed)
        result.scores.append(score(f"reconstruction: {name}", interval, "higher", details=details))
    return result


@torch.no_grad()
def reconstruct(tokenizer, images: Tensor) -> Tensor:
    """uint8 (N, S, S, 3) -> float32 (N, 3, S, S) in [-1, 1], encoded and decoded at the tokenizer's precision."""
    dtype = next(tokenizer.parameters()).dtype  # the encoder's, which comes first; codebooks may stay in float32
    return tokenizer.reconstruct(to_tensor(images).to(tokenizer.device, dtype)).float()


def _reconstruct(run: EvalRun, rows: slice, originals: Tensor) -> list[Tensor]:
    mine = originals[rows]
    batches = mine.split(run.batch_size) if len(mine) else ()
    return [image for batch in batches for image in reconstruct(run.pipeline.image_tokenizer, batch).cpu()]
