"""Names of WebDataset shards: a folder of tar files, a pattern with braces, or URLs that fsspec opens."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from t2i.data.folder import images_among, tables_in
from t2i.data.urls import file_system, is_url, tried

MAX_SHARDS = 1_000_000  # that a pattern may stand for


def shards_of(name: str) -> list[str] | None:
    """The shards that a data source's name stands for; None for any other source.

    They are the tar files in a folder without images, tables and other folders, `path/{000..009}.tar`, or URLs of both.
    Raises FileNotFoundError for a URL of a folder without tar files, ValueError for one that fsspec cannot open.
    """
    if is_url(name):
        return [shard for url in expand_braces(name) for shard in _at_url(url)]
    path = Path(name)
    if path.is_dir():
        files = sorted(file for file in os.listdir(path) if not file.startswith("."))  # noqa: PTH208 - names are enough
        tars = [str(path / file) for file in files if file.lower().endswith(".tar")]
        others = not tars or images_among(files) or tables_in(path) or any((path / file).is_dir() for file in files)
        return None if others else tars
    if not name.lower().endswith(".tar"):
        return None
    return [name] if path.exists() else expand_braces(name)


def expand_braces(pattern: str) -> list[str]:
    """The names that a pattern stands for: {000..009} for numbers of equal width, {a,b} for alternatives.

    Raises ValueError for more than MAX_SHARDS.
    """
    parts, total = [], 1
    for part in re.split(r"(\{\d+\.\.\d+\}|\{[^{}]*,[^{}]*\})", pattern):
        if numbers := re.fullmatch(r"\{(\d+)\.\.(\d+)\}", part):
            first, last = int(numbers[1]), int(numbers[2])
            names = (f"{i:0{len(numbers[1])}}" for i in range(first, last + 1))
            total *= max(0, last - first + 1)
        else:
            names = part[1:-1].split(",") if re.fullmatch(r"\{[^{}]*,[^{}]*\}", part) else [part]
            total *= len(names)
        if not 0 < total <= MAX_SHARDS:
            raise ValueError(f"{pattern} stands for {total:,} names; give from 1 to {MAX_SHARDS:,}")
        parts.append(list(names))
    return ["".join(names) for names in itertools.product(*parts)]


def described(shards: Sequence[str]) -> str:
    """A phrase for shards in messages."""
    return shards[0] if len(shards) == 1 else f"the {len(shards):,} shards from {shards[0]} on"


def _at_url(url: str) -> list[str]:
    """The shard at a URL, or those in the folder that it names."""
    if url.partition("?")[0].lower().endswith(".tar"):
        return [url]
    system, path = file_system(url)
    found = sorted(tried(url, lambda: system.glob(f"{path.rstrip('/')}/*.tar")))
    if not found:
        raise FileNotFoundError(f"there are no tar files at {url}; give the URL of a folder of shards, or of shards")
    return [system.unstrip_protocol(file) for file in found]
