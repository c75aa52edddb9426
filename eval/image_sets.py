"""Sets of pictures, in a folder or in memory, and their features: read while the network computes, never twice.

Shapes: N pictures · H × W pixels · D dimensions
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
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
from t2i.eval.folders import image_files
from t2i.eval.metrics.common import Array
from t2i.eval.processes import shard

CACHED_AT_ONCE = 1024  # pictures in a file of the cache: what an interrupted run can lose

Source = Path | Tensor | Callable[[], np.ndarray]  # a file; uint8 (3, H, W); or what makes uint8 (H, W, 3)
T = TypeVar("T")
R = TypeVar("R")


# --- pictures -------------------------------------------------------------------------------------------------------


def read_image(path: str | Path) -> Tensor:
    """An image file, as `t2i.data.read_image` reads it -> uint8 (3, H, W); raises ImageError as that does."""
    return torch.from_numpy(np.array(image_file.read_image(path))).permute(2, 0, 1).contiguous()


def load_image(source: Source, side: int | None = None) -> Tensor:
    """A picture wherever it comes from, uint8 (3, H, W); with `side`, cropped to its centre square and resized.

    Raises as `read_image` does.
    """
    if isinstance(source, Path):
        image = read_image(source)
    else:
        image = source if isinstance(source, Tensor) else as_uint8(source(), layout="NHWC")[0]
    if side is None:
        return image
    return torch.from_numpy(square(to_picture(image), side)).permute(2, 0, 1).contiguous()


def to_picture(image: Tensor) -> Image.Image:
    """uint8 (3, H, W) -> a picture for a gallery."""
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def image_digest(image: Tensor) -> str:
    """SHA-256 of a decoded picture, uint8 (3, H, W): of its shape and its bytes, not of the file."""
    shape = "x".join(map(str, image.shape))
    return hashlib.sha256(f"{shape} ".encode() + image.numpy().tobytes()).hexdigest()


def why_unreadable(error: Exception, source: Source, name: str) -> str:
    """What is wrong with a picture, without its path, which is no one's business in a report."""
    said = " ".join(str(error).removeprefix(f"{source} ").replace(str(source), name).split())
    return said or type(error).__name__


# --- several processes ----------------------------------------------------------------------------------------------


def merge(parts: Sequence[Features]) -> Features:
    """The features of all processes in the order that one process has.

    Raises ValueError for parts of different extractors, for a picture in two of them, and where none could be read.
    """
    if not parts or any(part.extractor != parts[0].extractor for part in parts):
        raise ValueError("only features of one extractor can be merged; extract all parts with the same one")
    names = [name for part in parts for name in part.names]
    if len(set(names)) < len(names) or len(names) != sum(map(len, parts)):
        raise ValueError("a picture is in two of the parts; give each process its own rank")
    order = sorted(range(len(names)), key=names.__getitem__)
    hashes = [sha for part in parts for sha in part.images_sha256]
    merged = replace(
        parts[0],
        values=torch.cat([part.values for part in parts])[order],
        images_sha256=tuple(hashes[i] for i in order),
        names=tuple(names[i] for i in order),
        skipped=tuple(sorted(name for part in parts for name in part.skipped)),
        black=tuple(sorted(name for part in parts for name in part.black)),
    )
    return _with_pictures(merged)


# --- features -------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Picture:
    """One picture on its way: `error` where it could not be read; `row` (D,) or else `prepared` (1, 3, S, S)."""

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
    rank: int = 0,
    world: int = 1,
    progress: bool = True,
    side: int | None = None,
) -> Features:
    """The features of all pictures of a folder, of an array that `as_uint8` takes, or of pictures by name, in order.

    Args:
        source: with a mapping, each picture is made or read when its turn comes, in a thread.
        batch_size: pictures that the network has at once.
        cache: folder of features that were computed before; none by default.
        workers: threads that read, decode and resize while the network computes.
        allow_mixed: take a folder with several picture formats.
        rank, world: with several processes, take every `world`-th picture; `merge` puts the parts together.
        progress: show a bar, which goes when it is full.
        side: crop each picture to its centre square of this side first (see `load_image`).

    Raises ValueError or FileNotFoundError where there is nothing to read, as `image_files` and `as_uint8` do, and
    where no picture can be read. Single ones that cannot are `skipped`.
    """
    if batch_size < 1 or workers < 1:
        raise ValueError(f"batch_size and workers must be at least 1: {batch_size=}, {workers=}")
    items = shard(_items(source, allow_mixed), rank, world)
    store = None if cache is None else FeatureCache(cache, extractor)
    network, done = _Network(extractor, batch_size, store), []
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(items), unit=" images", desc=extractor.name, disable=not progress, leave=False) as bar,
    ):
        for picture in _ahead(pool, lambda item: _load(*item, side, extractor, store), items, batch_size + workers):
            done.append(picture)
            network.add(picture)
            bar.update()
        network.finish()
    features = _collect(done, extractor)
    return _with_pictures(features) if world == 1 else features  # else a share may well have none


class _Network:
    """Gives pictures their rows, a batch at a time, and the cache what it has not got."""

    def __init__(self, extractor: Extractor, batch_size: int, store: FeatureCache | None):
        self.extractor, self.batch_size, self.store = extractor, batch_size, store
        self.waiting: list[_Picture] = []  # for a place in a batch
        self.unsaved: list[_Picture] = []  # computed, not yet in the cache

    def add(self, picture: _Picture) -> None:
        if picture.prepared is not None:  # otherwise it has its row, or could not be read
            self.waiting.append(picture)
        if len(self.waiting) == self.batch_size:
            self._compute()

    def finish(self) -> None:
        if self.waiting:
            self._compute()
        if self.unsaved:
            self._save()

    def _compute(self) -> None:
        rows = self.extractor.embed(torch.cat([picture.prepared for picture in self.waiting]))
        for picture, row in zip(self.waiting, rows, strict=True):
            picture.row, picture.prepared = row, None
        if self.store is not None:
            self.unsaved += self.waiting
            if len(self.unsaved) >= CACHED_AT_ONCE:
                self._save()
        self.waiting = []

    def _save(self) -> None:
        self.store.put([p.sha256 for p in self.unsaved], torch.stack([p.row for p in self.unsaved]))
        self.unsaved = []


def _items(source: str | Path | Array | Mapping[str, Source], allow_mixed: bool) -> list[tuple[str, Source]]:
    """(name, picture) of everything, names in their own order."""
    if isinstance(source, Mapping):
        return list(source.items())
    if isinstance(source, (str, Path)):
        return [(p.relative_to(source).as_posix(), p) for p in image_files(source, allow_mixed)]
    return [(f"{i:09d}", image) for i, image in enumerate(as_uint8(source).cpu())]


def _load(name: str, source: Source, side: int | None, extractor: Extractor, store: FeatureCache | None) -> _Picture:
    """Runs in a thread: what the network needs of one picture, or its features where the cache has them."""
    try:
        image = load_image(source, side)
    except image_file.ImageError as error:
        return _Picture(name, error=why_unreadable(error, source, name))
    picture = _Picture(name, image_digest(image), black=not image.any())
    picture.row = None if store is None else store.get(picture.sha256)
    if picture.row is None:
        picture.prepared = extractor.prepare(image[None])
    return picture


def _ahead(pool: Executor, function: Callable[[T], R], items: Sequence[T], depth: int) -> Iterator[R]:
    """function(item) of each item in order, up to `depth` of them computed before they are asked for."""
    running: deque = deque()
    for item in items:
        running.append(pool.submit(function, item))
        if len(running) > depth:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def _collect(done: Sequence[_Picture], extractor: Extractor) -> Features:
    skipped = tuple(f"{picture.name}: {picture.error}" for picture in done if picture.error)
    read = [picture for picture in done if not picture.error]
    return Features(
        torch.stack([p.row for p in read]) if read else torch.empty(0, extractor.dim),
        extractor.describe(),
        tuple(p.sha256 for p in read),
        tuple(p.name for p in read),
        skipped,
        tuple(p.name for p in read if p.black),
    )


def _with_pictures(features: Features) -> Features:
    if not len(features):
        raise ValueError(
            f"none of the {len(features.skipped)} pictures can be read; make them again: {features.skipped[0]}"
        )
    return features
