"""`t2i data filter SOURCE --clip NAME`: the images that match their captions, according to CLIP, as shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from t2i.arguments import parse
from t2i.checks import UsageError, check_real, check_whole
from t2i.files import check_folder, check_new
from t2i.notes import are, count, note
from t2i.tables import format_table

QUANTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)  # percent


@dataclass(frozen=True)
class FilterData:
    """Options of `t2i data filter`."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")] = ""
    """The data: a folder of images with captions, shards, or a dataset on the Hub (docs/data.md)."""
    clip: str = ""
    """The CLIP: a folder, a Hub id, or open_clip:ARCH/PRETRAINED."""
    min_score: float | None = None
    """Minimum score, the cosine of image and caption. Captions with a lower one are left out, and images without
    another. By default only the quantiles of the scores are printed."""
    out: str = ""
    """Output folder for the shards; it must be empty or not exist."""
    shard_size: int = 10_000
    """Number of images per shard."""
    image_column: str = "image"
    """Name of the image column, in a folder's metadata or a dataset."""
    caption_column: str = "text"
    """Name of the caption column."""
    workers: int = 1
    """Number of worker processes that read images; 0 reads them in the main process."""


def main(args: Sequence[str]) -> None:
    """Print the quantiles of the scores and write what passes; raises UsageError for invalid arguments."""
    description = (
        "Score images by their captions with CLIP, and write the images with a sufficient score to WebDataset shards."
    )
    options = parse(FilterData(), args, prog="t2i data filter", description=description)
    _check(options)

    import numpy as np  # after all checks: these take seconds to import

    from t2i.data.image_source import ImageSource
    from t2i.data.shard_writer import write_shards
    from t2i.data.sources import open_source
    from t2i.devices import fastest_device
    from t2i.pipelines.clip_filter import MatchingImages, clip_scores
    from t2i.text.clip_embeddings import open_clip_model

    clip = open_clip_model(options.clip, fastest_device())
    source = open_source(options.source, clip.size, options.image_column, options.caption_column)
    if not isinstance(source, ImageSource):
        raise UsageError(f"the images of {options.source} are not read from files: there is nothing to filter")
    scores = clip_scores(source, clip, options.workers)
    if not len(scores.values):
        raise ValueError(f"no image of {options.source} can be read")
    if len(left := np.flatnonzero(scores.counts == 0)):
        note(
            f"{count(left, 'image')} of {options.source} {are(left)} without a score: unreadable, or without a caption"
        )
    values = np.percentile(scores.values, QUANTILES)
    print(format_table(["captions below", *(f"{q} %" for q in QUANTILES)], [["score", *(f"{v:.4f}" for v in values)]]))
    if options.min_score is None:
        print("to keep the images with a score of at least X: --min-score X --out DIR (scores are cached)")
        return
    kept = MatchingImages(source, scores, options.min_score)
    num = write_shards(kept, Path(options.out), options.shard_size)
    captions = f"{int(kept.passes.sum()):,} of {count(scores.values, 'caption')}"
    print(
        f"{options.out}: {num:,} of {count(source, 'image')}, with {captions}, of score {options.min_score:g} or more"
    )


def _check(options: FilterData) -> None:
    """Raise UsageError for what is wrong before anything is loaded."""
    if not options.source or not options.clip:
        raise UsageError("give the data and a CLIP: t2i data filter SOURCE --clip NAME")
    if (options.min_score is None) != (not options.out):
        raise UsageError("give --min-score and --out together, or neither to see the quantiles of the scores")
    check_whole("--shard-size", options.shard_size)
    check_whole("--workers", options.workers, least=0)
    if options.min_score is None:
        if options.shard_size != FilterData.shard_size:
            raise UsageError("--shard-size has no effect without --out: leave it out")
        return
    check_real("--min-score", options.min_score, -1.0, 1.0)
    check_folder(options.out)
    check_new(Path(options.out))
