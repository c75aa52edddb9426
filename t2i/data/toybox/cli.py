"""`t2i data toybox --num 60000 --out DIR`"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from t2i.arguments import parse
from t2i.checks import MAX_SIDE, UsageError, check_choice, check_seeds, check_whole
from t2i.data.toybox.dataset import export
from t2i.files import check_folder
from t2i.notes import count


@dataclass(frozen=True)
class Export:
    out: str = ""
    """Folder to write; it must not exist or be empty."""
    num: int = 60_000
    """Pictures."""
    split: Literal["train", "zero_shot", "all"] = "train"
    """'train' has none of the held-out pairs, 'zero_shot' only those, 'all' asks no questions."""
    size: int = 64
    """Side of the pictures in pixels."""
    seed: int = 0
    workers: int = 0
    """Processes; 0 takes one a core. The bytes do not depend on it."""
    layout: Literal["folder", "array"] = "folder"
    """PNG files with metadata.jsonl, or one memory-mapped images.npy with metadata.jsonl."""
    layouts: bool = False
    """Write the map of what each pixel shows beside each picture: a PNG file with a palette, for `t2i layout`."""


def main(args: Sequence[str]) -> None:
    """Write the data set that `args` describe; raises UsageError for bad arguments."""
    args = list(args)
    if not args or args[0] in ("-h", "--help"):
        print("usage: t2i data toybox --out DIR [options]; t2i data toybox --help lists them")
        return
    check_choice("data set", args[0], ("toybox",))
    ask = parse(Export(), args[1:], prog="t2i data toybox", description="Render toybox pictures with captions.")
    if not ask.out:
        raise UsageError("say where to: --out DIR")
    check_folder(ask.out)
    check_whole("--num", ask.num)
    check_whole("--size", ask.size, least=16, most=MAX_SIDE)
    check_whole("--workers", ask.workers, least=0)
    check_seeds("--seed", ask.seed)
    workers = ask.workers or os.cpu_count() or 1
    started = time.perf_counter()
    folder = export(ask.out, ask.num, ask.split, ask.size, ask.seed, workers, ask.layout, ask.layouts)
    seconds = time.perf_counter() - started
    print(f"{folder}: {count(range(ask.num), 'picture')} in {seconds:.1f} s, {ask.num / seconds:.0f} a second")
