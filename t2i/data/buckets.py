"""Aspect-ratio buckets: each training image is resized and cropped to the bucket whose aspect ratio is nearest to its
own, and a batch has images of one bucket, instead of cropping all images to squares (Podell et al. 2023, arXiv
2307.01952, § 2.3).

The bucket of each image is determined in one pass over image headers, and kept in the user's cache under a key of the
data's content and the buckets. `sampling.py` has the order of the batches.

Shapes: N images · K buckets
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from accelerate import PartialState
from tqdm import tqdm

from t2i.data.base import ItemError
from t2i.data.fingerprint import combine
from t2i.data.image_file import dimensions
from t2i.data.image_source import ImageSource
from t2i.disk_cache import open_or_fill
from t2i.folders import user_cache
from t2i.notes import note

Shape = tuple[int, int]  # height and width in pixels

OF = "buckets.npy"


@dataclass(frozen=True, eq=False)
class Buckets:
    """The buckets, and which of them each image is in.

    Attributes:
        shapes: height and width of each bucket, (K,); the first one is the square, which is also that of images that
            are not read from files.
        of: index of each image's bucket, uint8 (N,).
    """

    shapes: tuple[Shape, ...]
    of: np.ndarray

    def at(self, places: Sequence[int]) -> Buckets:
        """Those of the images at these indices."""
        within = slice(places.start, places.stop, places.step) if isinstance(places, range) else places
        return Buckets(self.shapes, self.of[within])


def bucket_shapes(size: int, stride: int, max_ratio: float) -> tuple[Shape, ...]:
    """Height and width of the buckets: the square of side `size`, and rectangles of nearly the same area, not larger.

    Sides of rectangles are multiples of `stride` and about 1/16 of `size` apart, as SDXL's, which are multiples of 64
    for a size of 1024.

    Args:
        stride: of the model, in pixels.
        max_ratio: maximum ratio of the longer to the shorter side.

    Raises ValueError for a size that the stride does not divide, and if there is no rectangle.
    """
    if size % stride:
        raise ValueError(
            f"image_size must be a multiple of {stride}, the stride of the whole model, for aspect-ratio buckets, not "
            f"{size}"
        )
    step = stride * max(1, size // (16 * stride))
    rectangles = [(side, size**2 // side // step * step) for side in range(step, size, step)]
    rectangles = [(short, long) for short, long in rectangles if long > size]
    kept = [(short, long) for short, long in rectangles if long <= max_ratio * short]
    if not kept:
        least = min((long / short for short, long in rectangles), default=np.inf)
        raise ValueError(
            f"max_aspect_ratio {max_ratio:g} leaves only squares: for images of {size}×{size} pixels and a model with "
            f"stride {stride}, give at least {least + 0.005:.2f}"
        )
    return ((size, size), *kept, *((long, short) for short, long in kept))


def put_into_buckets(source: ImageSource, shapes: tuple[Shape, ...]) -> None:
    """Set the buckets of a source's images, from the user's cache if they are known."""
    key = {"data_sha256": source.fingerprint(), "buckets": str(shapes)}
    folder = user_cache() / "buckets" / combine(key)[:16]
    open_or_fill(folder, key, partial(_fill, source, shapes), "aspect-ratio buckets of images")
    source.buckets = Buckets(shapes, np.load(folder / OF, mmap_mode="r"))


def note_buckets(buckets: Buckets, name: str) -> None:
    """Print the number of images in each bucket; `name` is that of the data."""
    counts = [int((buckets.of == k).sum()) for k in range(len(buckets.shapes))]
    shown = ", ".join(f"{w}×{h}: {num:,}" for (h, w), num in zip(buckets.shapes, counts, strict=True) if num)
    note(f"images of {name} by aspect-ratio bucket: {shown}")


def _fill(source: ImageSource, shapes: tuple[Shape, ...], part: Path, state: PartialState) -> None:
    if state.is_main_process:
        np.save(part / OF, np.fromiter(_nearest(source, shapes), np.uint8, len(source)))


def _nearest(source: ImageSource, shapes: tuple[Shape, ...]) -> Iterator[int]:
    """The bucket of each image that keeps most of its area; the square for one that cannot be read."""
    ratios = np.log([w / h for h, w in shapes])
    for i in tqdm(range(len(source)), desc="aspect ratios", unit=" images", disable=len(source) < 10_000):
        try:
            width, height = dimensions(*source.file(i))
        except ItemError:
            yield 0
        else:
            yield int(np.abs(ratios - np.log(width / height)).argmin())
