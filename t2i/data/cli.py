"""`t2i data DATA …`: writing data sets to folders."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from t2i.arguments import parse
from t2i.checks import MAX_SIDE, UsageError, check_choice, check_seeds, check_whole
from t2i.data import emoji
from t2i.data.image_source import ImageSource
from t2i.data.shard_writer import write_shards
from t2i.data.sources import WORLDS, open_source
from t2i.data.toybox import cli as toybox
from t2i.files import check_folder
from t2i.notes import count

KINDS = (*WORLDS, "shard", "emoji")  # of `t2i data KIND`


@dataclass(frozen=True)
class Shard:
    """Options of `t2i data shard`."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")] = ""
    """The data: a folder of images, other shards, 'toybox', or a dataset on the Hub (docs/data.md)."""
    out: str = ""
    """Output folder; it must be empty or not exist."""
    shard_size: int = 10_000
    """Number of images per shard."""
    num: int | None = None
    """Number of images, the first ones; default: all."""
    size: int | None = None
    """Side in pixels of images that are not read from files, such as toybox's; files are written as they are."""
    image_column: str = "image"
    """Name of the image column, in a folder's metadata or a dataset."""
    caption_column: str = "text"
    """Name of the caption column."""
    seed: int = 0
    """Seed of toybox."""

    def __post_init__(self) -> None:
        check_whole("--shard-size", self.shard_size)
        check_seeds("--seed", self.seed)
        if self.num is not None:
            check_whole("--num", self.num)
        if self.size is not None:
            check_whole("--size", self.size, most=MAX_SIDE)


def main(args: Sequence[str]) -> None:
    """Write the data described by `args`; raises UsageError for invalid arguments."""
    if not args or args[0] in ("-h", "--help"):
        print("usage: t2i data {toybox,toybox-v1} --out DIR [options]: render images and captions to a folder")
        print("       t2i data shard SOURCE --out DIR [options]: write images and captions to WebDataset shards")
        print(
            "       t2i data filter SOURCE --clip NAME [options]: write the images that match their captions to shards"
        )
        print("       t2i data emoji --out DIR [options]: write captioned emoji, the work of designers, to a folder")
        print("t2i data toybox --help, and the same for shard, filter and emoji: list the options")
        return
    check_choice("data set", args[0], [*KINDS, "filter"])  # `data filter` is a command of its own
    if args[0] == "shard":
        _shard(args[1:])
    elif args[0] == "emoji":
        emoji.main(args[1:])
    else:
        toybox.main(args)


def _shard(args: Sequence[str]) -> None:
    description = "Write images and their captions to WebDataset shards: tar files, for large data sets."
    options = parse(Shard(), args, prog="t2i data shard", description=description)
    if not options.source:
        raise UsageError("give the data: t2i data shard SOURCE --out DIR")
    if not options.out:
        raise UsageError("give the output folder: --out DIR")
    check_folder(options.out)
    if options.seed != 0 and options.source not in WORLDS:
        raise UsageError(f"--seed has no effect on {options.source}, only on {' and '.join(WORLDS)}: leave it out")
    columns = (options.image_column, options.caption_column)
    source = open_source(options.source, options.size or 64, *columns, seed=options.seed)
    if options.size is not None and isinstance(source, ImageSource):
        raise UsageError(f"--size has no effect on {options.source}, whose files are written as they are: leave it out")
    if options.size is None and not isinstance(source, ImageSource):
        raise UsageError(f"give the side of the images of {options.source} in pixels: --size")
    if columns != (Shard.image_column, Shard.caption_column) and not isinstance(source, ImageSource):
        what = "--image-column and --caption-column have no effect"
        raise UsageError(f"{what} on {options.source}, whose images are not read from files: leave them out")
    started = time.perf_counter()
    num = write_shards(source, Path(options.out), options.shard_size, options.num)
    shards, seconds = len(list(Path(options.out).glob("*.tar"))), time.perf_counter() - started
    print(f"{options.out}: {count(range(num), 'image')} in {count(range(shards), 'shard')}, in {seconds:.1f} s")
