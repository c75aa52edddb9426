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
    """Options of `t2i data toybox`."""

    out: str = ""
    """Output folder; it must be empty or not exist."""
    num: int = 60_000
    """Number of images."""
    split: Literal["train", "zero_shot", "all"] = "train"
    """Pairs of attribute and kind: 'train' excludes the held-out pairs, 'zero_shot' has only those, 'all' has both."""
    size: int = 64
    """Image side in pixels."""
    seed: int = 0
    """Seed of the scenes."""
    workers: int = 0
    """Number of worker processes; 0 uses one per core. The output does not depend on it."""
    layout: Literal["folder", "array"] = "folder"
    """Output format: PNG files with metadata.jsonl, or one memory-mapped images.npy with metadata.jsonl."""
    layouts: bool = False
    """Also write the label map of each image, a PNG file with a palette, for `t2i layout`."""


def main(args: Sequence[str]) -> None:
    """Write the dataset described by `args`; raises UsageError for invalid arguments."""
    args = list(args)
    if not args or args[0] in ("-h", "--help"):
        print("usage: t2i data toybox --out DIR [options]; t2i data toybox --help lists them")
        return
    check_choice("data set", args[0], ("toybox",))
    ask = parse(
        Export(), args[1:], prog="t2i data toybox", description="Render toybox images and captions to a folder."
    )
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
