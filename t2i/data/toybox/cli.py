"""`t2i data toybox --num 60000 --out DIR`, and the same for toybox-v1."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from t2i.arguments import parse
from t2i.checks import MAX_SIDE, UsageError, check_seeds, check_whole
from t2i.data.sources import WORLDS
from t2i.data.toybox.export import export
from t2i.files import check_folder
from t2i.notes import count


@dataclass(frozen=True)
class Export:
    """Options of `t2i data toybox`."""

    out: str = ""
    """Output folder; it must be empty or not exist. An interrupted export is continued by the same command."""
    num: int = 60_000
    """Number of images."""
    split: str = "train"
    """'train' excludes everything held out, 'all' has everything; or one sort of what is held out: in toybox pair,
    style, hybrid, action, word or phrasing, in toybox-v1 zero_shot."""
    family: str | None = None
    """Family of scenes, such as 'single' or 'count'; default: the world's mixture of all."""
    size: int | None = None
    """Image side in pixels; default: 128, and 64 for toybox-v1."""
    seed: int = 0
    """Seed of the scenes."""
    workers: int = 0
    """Number of worker processes; 0 uses one per core. The output does not depend on it."""
    file_format: Literal["folder", "parquet", "array"] = "folder"
    """Output format: PNG files with metadata.jsonl, Parquet files, or one images.npy with metadata.jsonl."""
    layouts: bool = False
    """Also write the label map of each image, a PNG file with a palette, for `t2i layout`."""


def main(args: Sequence[str]) -> None:
    """Render the data set named in `args` with their options; raises UsageError for invalid ones."""
    description = "Render toybox images and captions to a folder."
    options = parse(Export(), args[1:], prog=f"t2i data {args[0]}", description=description)
    world = WORLDS[args[0]]
    if not options.out:
        raise UsageError("give the output folder: --out DIR")
    check_folder(options.out)
    check_whole("--num", options.num)
    check_whole("--workers", options.workers, least=0)
    check_seeds("--seed", options.seed)
    size = options.size
    if size is not None:
        check_whole("--size", size, least=16, most=MAX_SIDE)
    sized = {} if size is None else {"size": size}
    data = world(options.split, seed=options.seed, num=options.num, family=options.family, **sized)
    started = time.perf_counter()
    folder = export(data, options.out, options.workers or os.cpu_count() or 1, options.file_format, options.layouts)
    seconds = time.perf_counter() - started
    print(f"{folder}: {count(range(options.num), 'image')} in {seconds:.1f} s, {options.num / seconds:.0f} images/s")
