"""Sets of images, in a folder or in memory, and their features; images are read while the network computes.

Shapes: N images · H × W pixels · D dimensions
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from t2i.data import image_file
from t2i.data.image_file import square
from t2i.eval.features.base import Extractor, Features, as_uint8
from t2i.eval.features.cache import FeatureCache
from t2i.eval.images.folders import image_files
from t2i.eval.metrics.common import Array

CACHED_AT_ONCE = 1024  # images per cache file: what an interrupted run can lose

Source = Path | Tensor | Callable[[], np.ndarray]  # a file; uint8 (3, H, W); or a function that returns uint8 (H, W, 3)
T = TypeVar("T")
R = TypeVar("R")


# --- images ---------------------------------------------------------------------------------------------------------


def read_image(path: str | Path) -> Tensor:
    """Read an image file with `t2i.data.read_image` -> uint8 (3, H, W); raises ImageError as it does."""
    return torch.from_numpy(np.array(image_file.read_image(path))).permute(2, 0, 1).contiguous()


def load_image(source: Source, side: int | None = None) -> Tensor:
    """An image from any source, uint8 (3, H, W); with `side`, centre-cropped to a square and resized.

    Raises as `read_image` does.
    """
    if isinstance(source, Path):
        image = read_image(source)
    else:
        image = source if isinstance(source, Tensor) else as_uint8(source(), layout="NHWC")[0]
    if side is None:
        return image
    return torch.from_numpy(square(to_image(image), side)).permute(2, 0, 1).contiguous()


def to_image(image: Tensor) -> Image.Image:
    """uint8 (3, H, W) -> a PIL image"""
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def image_digest(image: Tensor) -> str:
    """SHA-256 of a decoded image, uint8 (3, H, W): of its shape and bytes, not of the file."""
    shape = "x".join(map(str, image.shape))
    return hashlib.sha256(f"{shape} ".encode() + image.numpy().tobytes()).hexdigest()


def why_unreadable(error: Exception, source: Source, name: str) -> str:
    """What is wrong with an image, without the path of its folder, which reports must not contain."""
    reason = " ".join(str(error).removeprefix(f"{source} ").replace(str(source), name).split())
    return reason or type(error).__name__


# --- features -------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class ImageFeatures:
    """The features of one image: `row`, float32 (D,), or `error` if it could not be read.

    Until they are computed, `prepared`, (1, 3, S, S), is the network's input.
    """

    name: str
    sha256: str = ""
    black: bool = False
    error: str = ""
    prepared: Tensor | None = None
    row: Tensor | None = None


def extract(
    source: str | Path | Array | Mapping[str, Source],
    extractor: Extractor,
    batch_size: int = 32,
    cache: str | Path | None = None,
    workers: int = 2,
    allow_mixed: bool = False,
    progress: bool = True,
    side: int | None = None,
) -> Features:
    """The features of all images of a folder, of an array that `as_uint8` accepts, or of a mapping of images, in order.

    Args:
        source: the images of a mapping are created or read lazily, in a thread.
        allow_mixed: accept a folder with several image formats.

    The other arguments are those of `extract_items`. Raises ValueError or FileNotFoundError if there is nothing to
    read, as `image_files` and `as_uint8` do, and if no image can be read. Single unreadable images are `skipped`.
    """
    items = items_of(source, allow_mixed)
    return collect(extract_items(items, extractor, batch_size, cache, workers, progress, side), extractor)


def items_of(source: str | Path | Array | Mapping[str, Source], allow_mixed: bool = False) -> list[tuple[str, Source]]:
    """(name, image) for everything in a source accepted by `extract`."""
    if isinstance(source, Mapping):
        return list(source.items())
    if isinstance(source, (str, Path)):
        return [(p.relative_to(source).as_posix(), p) for p in image_files(source, allow_mixed)]
    return [(f"{i:09d}", image) for i, image in enumerate(as_uint8(source).cpu())]


def extract_items(
    items: Sequence[tuple[str, Source]],
    extractor: Extractor,
    batch_size: int = 32,
    cache: str | Path | None = None,
    workers: int = 2,
    progress: bool = True,
    side: int | None = None,
) -> list[ImageFeatures]:
    """The features of each named image, in order.

    Args:
        batch_size: images per forward pass.
        cache: folder of the feature cache; default: none.
        workers: threads that read, decode and resize while the network computes.
        progress: show a progress bar, which is cleared at the end.
        side: first centre-crop each image to a square and resize it to this side (see `load_image`).

    Raises ValueError for a batch_size or workers below 1.
    """
    if batch_size < 1 or workers < 1:
        raise ValueError(f"batch_size and workers must be at least 1: {batch_size=}, {workers=}")
    store, images = None if cache is None else FeatureCache(cache, extractor), []
    waiting: list[ImageFeatures] = []  # waiting for a place in a batch
    unsaved: list[ImageFeatures] = []  # computed, not yet in the cache

    def embed() -> None:
        rows = extractor.embed(torch.cat([image.prepared for image in waiting]))
        for image, row in zip(waiting, rows, strict=True):
            image.row, image.prepared = row, None
        unsaved.extend(waiting)
        waiting.clear()

    def save() -> None:
        if store is not None and unsaved:
            store.put([image.sha256 for image in unsaved], torch.stack([image.row for image in unsaved]))
        unsaved.clear()

    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(items), unit=" images", desc=extractor.name, disable=not progress, leave=False) as bar,
    ):
        for image in _ahead(pool, lambda item: _load(*item, side, extractor, store), items, batch_size + workers):
            images.append(image)
            if image.prepared is not None:  # otherwise its features were cached, or it could not be read
                waiting.append(image)
            if len(waiting) == batch_size:
                embed()
            if len(unsaved) >= CACHED_AT_ONCE:
                save()
            bar.update()
        if waiting:
            embed()
        save()
    return images


def collect(images: Sequence[ImageFeatures], extractor: Extractor) -> Features:
    """The features of all readable images. Raises ValueError if there are none."""
    skipped = tuple(f"{image.name}: {image.error}" for image in images if image.error)
    read = [image for image in images if not image.error]
    if not read:
        raise ValueError(f"none of the {len(images)} images can be read; copy them again: {next(iter(skipped), '')}")
    return Features(
        torch.stack([image.row for image in read]),
        extractor.describe(),
        tuple(image.sha256 for image in read),
        tuple(image.name for image in read),
        skipped,
        tuple(image.name for image in read if image.black),
    )


def _load(
    name: str, source: Source, side: int | None, extractor: Extractor, store: FeatureCache | None
) -> ImageFeatures:
    """Runs in a thread: the network's input for one image, or its features if they are cached."""
    try:
        pixels = load_image(source, side)
    except image_file.ImageError as error:
        return ImageFeatures(name, error=why_unreadable(error, source, name))
    image = ImageFeatures(name, image_digest(pixels), black=not pixels.any())
    image.row = None if store is None else store.get(image.sha256)
    if image.row is None:
        image.prepared = extractor.prepare(pixels[None])
    return image


def _ahead(pool: Executor, function: Callable[[T], R], items: Sequence[T], depth: int) -> Iterator[R]:
    """function(item) for each item in order, with up to `depth` results computed ahead."""
    running: deque = deque()
    for item in items:
        running.append(pool.submit(function, item))
        if len(running) > depth:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()
