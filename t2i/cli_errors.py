"""Command lines from dataclasses, and bad input as one clear line instead of a traceback."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeVar

import tyro

T = TypeVar("T")
Dtype = Literal["float32", "bfloat16", "float16"]  # of a pipeline, as options name them


class UsageError(ValueError):
    """The command line asks for something that is not there."""


def check_choice(what: str, name: str, known: Iterable[str]) -> None:
    """Raise UsageError, naming the nearest right one, unless `name` is known."""
    known = list(known)
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UsageError(f"unknown {what} {name!r}: {hint}there are {', '.join(known)}")


def parse(default: T, args: Sequence[str], prog: str, description: str = "") -> T:
    """Override the fields of a dataclass by `--field-name value`; nested dataclasses' fields stand beside its own.

    Raises UsageError in one line where tyro would print a box and exit; --help prints and exits as ever.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                type(default),
                default=default,
                args=list(args),
                prog=prog,
                description=description,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as exit_:
        if not exit_.code:
            raise
        raise UsageError(_one_line(said.getvalue())) from None


def _one_line(box: str) -> str:
    """What a tyro error box says, without the box."""
    words = re.sub(r"\x1b\[[0-9;]*m", "", box)
    words = re.sub(r"[│╭╮╰╯─]+", " ", words)
    return " ".join(words.split())


@contextlib.contextmanager
def exit_on_bad_input() -> Iterator[None]:
    """Print what was wrong in one line and exit with 1; a stop by Ctrl-C exits with 130.

    With T2I_DEBUG=1 in the environment the traceback is shown instead.
    """
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("T2I_DEBUG"):
            raise
        sys.exit(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit(130)
