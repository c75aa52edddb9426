"""CLIP scores of training images, the cosines of image and caption, and the images whose score reaches a minimum, as
LAION-400M was filtered (Schuhmann et al. 2021, arXiv 2111.02114, § 2).

Scores are kept in the user's cache under a key of the data's content and of the CLIP's weights, tokenizer and
preprocessing, in parts, so that scoring that was interrupted continues after the last complete part.

Shapes: N images · T captions of all images
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import Dataset
from tqdm import tqdm

from t2i.data.base import ItemError
from t2i.data.fingerprint import combine
from t2i.data.image_source import Encoded, ImageSource
from t2i.data.loading import load_batches
from t2i.disk_cache import KEY, open_or_fill
from t2i.folders import user_cache
from t2i.text.clip_embeddings import Clip, cosines

BATCH = 64  # images per forward pass
PART = 64 * BATCH  # images of a part of the cache
SCORES, COUNTS = "scores.npy", "counts.npy"


@dataclass(frozen=True, eq=False)
class CaptionScores:
    """The score of each caption of each image.

    Attributes:
        values: those of the first image first, float32 (T,), in [-1, 1].
        counts: the number of captions of each image, int64 (N,); 0 for images that cannot be read or have no caption.
    """

    values: np.ndarray
    counts: np.ndarray


class MatchingImages(ImageSource):
    """The images with a caption whose score is at least `min_score`, with those captions that have one.

    Raises ValueError, with the highest score, if there are none.
    """

    def __init__(self, source: ImageSource, scores: CaptionScores, min_score: float):
        self.source, self.size, self.min_score = source, source.size, min_score
        self.passes = scores.values >= np.float32(min_score)  # (T,)
        self._starts = np.cumsum(scores.counts) - scores.counts  # (N,): index of each image's first caption
        self._counts = scores.counts
        image_of = np.repeat(np.arange(len(source)), scores.counts)  # (T,)
        self._places = np.unique(image_of[self.passes])
        if not len(self._places):
            highest = scores.values.max(initial=-np.inf)
            raise ValueError(f"no caption has a score of {min_score:g} or more: the highest is {highest:.4f}")

    def __len__(self) -> int:
        return len(self._places)

    def file(self, index: int) -> tuple[Encoded, str]:
        return self.source.file(int(self._places[index]))

    def texts_of(self, index: int) -> tuple[str, ...]:
        place = int(self._places[index])
        start = self._starts[place]
        passes = self.passes[start : start + self._counts[place]]
        return tuple(text for text, ok in zip(self.source.texts_of(place), passes, strict=True) if ok)

    def fingerprint(self) -> str:
        return combine(self.source.fingerprint(), self.passes.tobytes())


def clip_scores(source: ImageSource, clip: Clip, workers: int = 1) -> CaptionScores:
    """The scores of a source's captions, from the user's cache as far as they are known; shows progress.

    Args:
        source: images of the size of the CLIP's input.
        workers: number of processes that read images.
    """
    key = {"data_sha256": source.fingerprint(), "clip_sha256": clip.fingerprint()}
    folder = user_cache() / "clip-scores" / combine(key)[:16]
    parts = {folder / f"{i:09}": range(i, min(i + PART, len(source))) for i in range(0, len(source), PART)}
    known = sum(len(rows) for part, rows in parts.items() if (part / KEY).is_file())
    with tqdm(total=len(source), initial=known, desc="CLIP scores", unit=" images") as bar:
        for part, rows in parts.items():
            fill = partial(_fill, source, clip, rows, workers, bar)
            open_or_fill(part, key | {"start": rows.start}, fill, "CLIP scores")
    values, counts = (np.concatenate([np.load(part / name) for part in parts]) for name in (SCORES, COUNTS))
    return CaptionScores(values, counts)


def _fill(
    source: ImageSource, clip: Clip, rows: range, workers: int, bar: tqdm, folder: Path, state: PartialState
) -> None:
    batches = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    scores, counts = [], []
    options = {"num_workers": workers, "generator": torch.Generator()}
    for batch in load_batches(_Pairs(source), batch_sampler=batches, **options):
        texts = [json.loads(own) for own in batch["texts"]]
        scores.append(cosines(clip, batch["image"], texts).numpy())
        counts += [len(own) for own in texts]
        bar.update(len(texts))
    values = np.concatenate(scores)
    if not np.isfinite(values).all():
        raise ValueError("the CLIP gives scores that are not finite (NaN): its weights are damaged; copy them again")
    np.save(folder / SCORES, values)
    np.save(folder / COUNTS, np.array(counts, np.int64))


class _Pairs(Dataset):
    """Images, uint8 (S, S, 3), and their captions as JSON lists, which are empty if the image cannot be used."""

    def __init__(self, source: ImageSource):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        try:
            item = self.source[index]
        except ItemError:
            side = self.source.size
            return {"image": torch.zeros(side, side, 3, dtype=torch.uint8), "texts": "[]"}
        texts = item.get("texts", (item["text"],))
        return {"image": torch.from_numpy(item["image"]), "texts": json.dumps(texts)}
