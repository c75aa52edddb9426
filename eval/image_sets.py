"""Sets of pictures, in a folder or in memory, and their features: read while the network computes, never twice.

Shapes: N pictures · H × W pixels · D dimensions
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from t2i.eval.features.base import Extractor, Features, as_uint8
from t2i.eval.features.cache import FeatureCache
from t2i.eval.metrics.common import Array

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WebP"}
CACHED_AT_ONCE = 1024  # pictures in a file of the cache: what an interrupted run can lose
# What Pillow raises for files that are cut off, damaged, or no pictures at all.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)

T = TypeVar("T")
R = TypeVar("R")


# --- pictures -------------------------------------------------------------------------------------------------------


def image_files(folder: str | Path, allow_mixed: bool = False) -> list[Path]:
    """All PNG, JPEG and WebP files below `folder`, in the order of their relative paths; hidden ones are left out.

    Raises FileNotFoundError where there is no folder or no picture in it, and ValueError where there is more than one
    format, unless `allow_mixed`: what JPEG does to a picture moves FID as much as a change of model.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give one with PNG, JPEG or WebP pictures")
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in FORMATS)
    names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    files = [folder / name for name in sorted(names, key=Path.as_posix) if (folder / name).is_file()]
    if not files:
        raise FileNotFoundError(f"there are no pictures in {folder}; give a folder with PNG, JPEG or WebP files")
    formats = sorted({FORMATS[path.suffix.lower()] for path in files})
    if len(formats) > 1 and not allow_mixed:
        raise ValueError(f"{folder} mixes {' and '.join(formats)}; convert them to one, or give allow_mixed=True")
    return files


def read_image(path: str | Path) -> Tensor:
    """A picture file -> uint8 (3, H, W); transparent pixels become white, grey becomes RGB, animations their first.

    Raises one of UNREADABLE for a damaged file and for pictures of more than 8 bits.
    """
    with Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"{image.mode} pictures have more than 8 bits; save them with 8")
        mode = "RGBA" if image.has_transparency_data else "RGB"
        return as_uint8(np.array(image.convert(mode)), layout="NHWC")[0]


def image_digest(image: Tensor) -> str:
    """SHA-256 of a decoded picture, uint8 (3, H, W): of its shape and its bytes, not of the file."""
    shape = "x".join(map(str, image.shape))
    return hashlib.sha256(f"{shape} ".encode() + image.numpy().tobytes()).hexdigest()


# --- several processes ----------------------------------------------------------------------------------------------


def shard(items: Sequence[T], rank: int, world: int) -> Sequence[T]:
    """The items of process `rank` out of `world`: every `world`-th. Nothing is doubled to make shares equal.

    Raises ValueError unless 0 ≤ rank < world.
    """
    if not 0 <= rank < world:
        raise ValueError(f"a rank goes from 0 to world - 1: {rank=}, {world=}")
    return items[rank::world]


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
    source: str | Path | Array,
    extractor: Extractor,
    batch_size: int = 32,
    cache: str | Path | None = None,
    workers: int = 2,
    allow_mixed: bool = False,
    rank: int = 0,
    world: int = 1,
    progress: bool = True,
) -> Features:
    """The features of all pictures of a folder, or of an array that `as_uint8` takes, in order.

    Args:
        batch_size: pictures that the network has at once.
        cache: folder of features that were computed before; none by default.
        workers: threads that read, decode and resize while the network computes.
        allow_mixed: take a folder with several picture formats.
        rank, world: with several processes, take every `world`-th picture; `merge` puts the parts together.
        progress: show a bar.

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
        tqdm(total=len(items), unit=" images", desc=extractor.name, disable=not progress) as bar,
    ):
        for picture in _ahead(pool, lambda item: _load(*item, extractor, store), items, batch_size + workers):
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


def _items(source: str | Path | Array, allow_mixed: bool) -> list[tuple[str, Path | Tensor]]:
    """(name, file or picture) of everything, names in their own order."""
    if isinstance(source, (str, Path)):
        return [(p.relative_to(source).as_posix(), p) for p in image_files(source, allow_mixed)]
    return [(f"{i:09d}", image) for i, image in enumerate(as_uint8(source).cpu())]


def _load(name: str, source: Path | Tensor, extractor: Extractor, store: FeatureCache | None) -> _Picture:
    """Runs in a thread: what the network needs of one picture, or its features where the cache has them."""
    try:
        image = source if isinstance(source, Tensor) else read_image(source)
    except UNREADABLE as error:
        reason = " ".join(str(error).replace(str(source), name).split()) or type(error).__name__
        return _Picture(name, error=reason)
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
