"""Encodings of a dataset's images (latents or codes), computed once and cached on disk.

They do not change while a prior or a denoiser trains. The folder is a cache (see `t2i.disk_cache`) of

    latents.npy, codes.npy    (N, M, …): of each image its M arrays, such as mean and standard deviation
    captions.jsonl            of each image its caption, a JSON string, or the list of its captions

Shapes: N images · B batch · M arrays of an image · S image side
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from t2i.data.base import caption_lists, captioned
from t2i.data.loading import load_batches
from t2i.data.sources import Source
from t2i.data.unreadable import REPLACED
from t2i.disk_cache import KEY, batches_of_this_process, open_or_fill
from t2i.files import read_json, reserve, slug, write_json, write_whole
from t2i.strings import StringLists
from t2i.training.config import RANDOM, DataConfig

BATCH = 64  # images per forward pass of the encoder
CAPTIONS = "captions.jsonl"


@dataclass(frozen=True)
class Encoding:
    """What is computed of images.

    Attributes:
        name: "latents" or "codes".
        arrays: names of the M arrays of an image, under which an item has them.
        encode: uint8 (B, S, S, 3), on any device -> (B, M, …).
        dtype: of the file.
        key: everything about the encoder that determines the result, as plain data.
    """

    name: str
    arrays: tuple[str, ...]
    encode: Callable[[Tensor], Tensor]
    dtype: type[np.generic]
    key: dict


class CachedEncodings:
    """A source of items {array: (…), "text": str}, and "texts" of images with several captions; the arrays are
    memory-mapped.

    Attributes:
        texts: all captions.
    """

    def __init__(self, folder: Path, name: str, arrays: tuple[str, ...]):
        self.folder, self.name, self.arrays = folder, name, arrays
        lines = map(json.loads, (folder / CAPTIONS).read_text(encoding="utf-8").splitlines())
        self._texts = StringLists((line,) if isinstance(line, str) else tuple(line) for line in lines)
        self.texts = self._texts.strings
        self.encodings = np.load(folder / f"{name}.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self._texts)

    def fingerprint(self) -> str:
        """The fingerprint of the data that the encodings were computed from."""
        return read_json(self.folder / KEY)["data_sha256"]

    def __reduce__(self):
        return CachedEncodings, (self.folder, self.name, self.arrays)  # reopened: pickling the array would copy it

    def __getitem__(self, index: int) -> dict:
        return captioned(dict(zip(self.arrays, self.encodings[index], strict=True)), self._texts[index])

    def captions(self, limit: int) -> Iterator[str]:
        return islice(self._texts.first, limit)


def cached_encodings(
    encoding: Encoding,
    folder: Path | str | None,
    source: Source,
    data: DataConfig,
    seed: int,
    num: int,
    workers: int = 1,
    parent: Path | str = "runs",
) -> CachedEncodings:
    """Encodings of the source's first `num` images, from `folder` if it is there, else computed and written.

    Args:
        folder: default: one in `parent` whose name ends in a digest of everything that determines the encodings, so
            that other data or changed images use a different folder.
        source: the images, as returned by `open_source(data…, seed)`.
        workers: number of processes that render or read images, per process of `accelerate launch`.

    Raises ValueError for random crops or flips and for aspect-ratio buckets, and as `disk_cache.open_or_fill` does.
    """
    remedy = "give --cache none, if the recipe can encode each batch, or "
    data.refuse(RANDOM, f"cached {encoding.name} are computed once for each image, not for each crop", remedy)
    data.refuse(("max_aspect_ratio",), f"cached {encoding.name} are those of squares, all of one size", remedy)
    about = {"data_sha256": source.fingerprint(), "image_size": data.image_size, "seed": seed}
    key = encoding.key | about | {"num": min(num, len(source))}
    folder = Path(folder) if folder is not None else Path(parent) / _name(encoding.name, key, data)
    fill = partial(_fill, encoding, key["num"], source, workers)
    open_or_fill(folder, key, fill, encoding.name, "give another folder with --cache")
    return CachedEncodings(folder, encoding.name, encoding.arrays)


def _name(name: str, key: dict, data: DataConfig) -> str:
    content = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return f"{name}-{slug(Path(data.data).name)[:60] or 'data'}-{content[:12]}"


def _fill(encoding: Encoding, num: int, source: Source, workers: int, part: Path, state: PartialState) -> None:
    file = part / f"{encoding.name}.npy"
    if state.is_main_process:
        first = torch.from_numpy(source[0]["image"])[None]
        reserve(file, encoding.dtype, (num, *encoding.encode(first).shape[1:]))
    state.wait_for_everyone()
    encodings = np.lib.format.open_memmap(file, mode="r+")
    rows = list(batches_of_this_process(num, BATCH, state))
    batches = load_batches(_Images(source), batch_sampler=rows, num_workers=workers, generator=torch.Generator())
    bar = tqdm(total=num, unit=" images", desc=encoding.name, disable=not state.is_main_process)
    replaced: dict[int, str] = {}
    for some, batch in zip(rows, batches, strict=True):
        encodings[some.start : some.stop] = encoding.encode(batch["image"]).cpu().numpy().astype(encoding.dtype)
        replaced |= {i: line for i, line in zip(some, batch["captions"], strict=True) if line}
        bar.update(min(len(some) * state.num_processes, num - bar.n))
    bar.close()
    encodings.flush()
    write_json(part / f"{state.process_index}-{REPLACED}.json", replaced)
    state.wait_for_everyone()
    if state.is_main_process:
        _write_captions(part, source, num)


def _write_captions(part: Path, source: Source, num: int) -> None:
    """Write the captions of the first `num` items; those of items that replaced unreadable ones are in JSON files."""
    replaced: dict[str, str] = {}
    for path in part.glob(f"*-{REPLACED}.json"):
        replaced |= read_json(path)
        path.unlink()
    lines = (replaced.get(str(i)) or _line(texts) for i, texts in enumerate(caption_lists(source, num)))
    write_whole(part / CAPTIONS, "".join(line + "\n" for line in lines))


def _line(texts: tuple[str, ...]) -> str:
    """The captions of an image as a line of captions.jsonl."""
    return json.dumps(texts if len(texts) > 1 else texts[0])


class _Images(Dataset):
    """The source's images: "image", a tensor uint8 (S, S, 3), and the captions of those that replace others."""

    def __init__(self, source: Source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        item = self.source[index]
        image = {"image": torch.from_numpy(item["image"]), "captions": ""}
        if REPLACED not in item:
            return image
        return image | {"captions": _line(item.get("texts", (item["text"],))), REPLACED: item[REPLACED]}
