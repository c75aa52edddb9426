"""Notes to the user on standard error, and helpers for their wording."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence, Sized
from functools import lru_cache

SHOWN = 3  # maximum number of names in a message


@lru_cache
def note(text: str, every_process: bool = False) -> None:
    """Print a line on standard error, once, from the main process only or from every process."""
    if every_process or os.environ.get("RANK", "0") == "0":
        print(f"note: {text}", file=sys.stderr)


def count(names: Sized, what: str) -> str:
    """The number of names with a noun, for messages: "1 image", "2,000 images"."""
    return f"{len(names):,} {what}{'' if len(names) == 1 else 's'}"


def are(names: Sized) -> str:
    """The verb that follows `count`: "is" or "are"."""
    return "is" if len(names) == 1 else "are"


def with_article(name: str) -> str:
    """A class name with its indefinite article: "a VAE", "an Autoencoder", "a UNet", "an UnCLIPPipeline"."""
    return f"a{'n' * name.startswith((*'AEIOaeio', 'Un'))} {name}"


def some(names: Sequence[str]) -> str:
    """The first few names, for messages."""
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def line_of(error: BaseException) -> str:
    """The message of an error as one short line; its class if it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__
