"""Remarks for a user on standard error, and how they count and name things."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence, Sized
from functools import lru_cache

SHOWN = 3  # names in a message


@lru_cache
def note(text: str) -> None:
    """A line on standard error, once, from the first of several processes."""
    if os.environ.get("RANK", "0") == "0":
        print(f"note: {text}", file=sys.stderr)


def count(names: Sized, what: str) -> str:
    """How many, in words for a message: "1 image", "2,000 images"."""
    return f"{len(names):,} {what}{'' if len(names) == 1 else 's'}"


def are(names: Sized) -> str:
    """The verb that follows `count`."""
    return "is" if len(names) == 1 else "are"


def some(names: Sequence[str]) -> str:
    """The first few."""
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
