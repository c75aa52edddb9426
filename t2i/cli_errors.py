"""Command lines from dataclasses, and bad input as one clear line instead of a traceback."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import io
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeVar, get_type_hints

import tyro

from t2i.checks import UsageError

T = TypeVar("T")
Dtype = Literal["float32", "bfloat16", "float16"]  # of a pipeline, as options name them


def check_choice(what: str, name: str, known: Iterable[str]) -> None:
    """Raise UsageError, naming the nearest right one, unless `name` is known."""
    known = list(known)
    if name in known:
        return
    near = nearest(name, known)
    hint = f"did you mean {near}? " if near else ""
    raise UsageError(f"unknown {what} {name!r}: {hint}there are {', '.join(known)}")


def nearest(name: str, known: Iterable[str], cutoff: float = 0.4) -> str | None:
    """Which of `known` is most like `name`: by initials ("lr": learning-rate), by a word of it ("vqvae": vqvae-toybox),
    by its beginning, or else by its letters, of which a share `cutoff` must agree. None where nothing is.
    """
    asked = _words(name)

    def likeness(other: str) -> tuple[int, float]:
        words = _words(other)
        initials = "".join(word[0] for word in words)
        ratio = difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio()
        if len(words) > 1 and "".join(asked) == initials:
            return 3, ratio
        if asked and set(asked) <= set(words):
            return 2, ratio
        if asked and len(asked[0]) > 1 and words and words[0].startswith(asked[0]) and len(asked) == 1:
            return 1, ratio
        return (0, ratio) if ratio >= cutoff else (-1, ratio)

    found = max(known, key=likeness, default=None)
    return found if found is not None and likeness(found)[0] >= 0 else None


def parse(default: T, args: Sequence[str], prog: str, description: str = "") -> T:
    """Override the fields of a dataclass by `--field-name value`; nested dataclasses' fields stand beside its own.

    Raises UsageError in one line where tyro would print a box and exit, and for an option that is given twice of which
    only the last would count; --help prints and exits as ever.
    """
    said = io.StringIO()
    _check_repeated(default, args)
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
        raise UsageError(_usage_error(said.getvalue(), default, args, prog)) from None


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def _given(args: Sequence[str]) -> list[str]:
    """The options among arguments, as `--field-name`; what follows a lone -- is none."""
    end = list(args).index("--") if "--" in args else len(args)
    return [arg.split("=")[0].replace("_", "-") for arg in args[:end] if re.match(r"--[A-Za-z]", arg)]


def _options(default: object) -> dict[str, str | None]:
    """Every spelling of every option of a dataclass and of those in it: its own name, None where it may be repeated."""
    found: dict[str, str | None] = {}
    hints = get_type_hints(type(default), include_extras=True)
    for field in dataclasses.fields(default):  # type: ignore[arg-type]
        value = getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            found |= _options(value)
            continue
        marks = getattr(hints[field.name], "__metadata__", ())
        if tyro.conf.Positional in marks:
            continue
        flag = f"--{field.name.replace('_', '-')}"
        aliases = [alias for mark in marks for alias in getattr(mark, "aliases", None) or ()]
        negated = [f"--no-{flag[2:]}"] if isinstance(value, bool) else []
        found |= dict.fromkeys([flag, *aliases, *negated], None if tyro.conf.UseAppendAction in marks else flag)
    return found


def _check_repeated(default: object, args: Sequence[str]) -> None:
    names = _options(default)
    for flag, times in Counter(names.get(flag) for flag in _given(args)).items():
        if flag is not None and times > 1:
            raise UsageError(f"{flag} is given {times} times, and only one of them could count: give it once")


def _usage_error(box: str, default: object, args: Sequence[str], prog: str) -> str:
    """What a tyro error box says, in one line: a title, what is wrong, and further help, between rules."""
    options = list(_options(default))
    if unknown := [flag for flag in _given(args) if flag not in options]:
        near = nearest(unknown[0], options, cutoff=0.6)
        hint = f"did you mean {near}? " if near else ""
        return f"unknown option {unknown[0]}: {hint}{prog} --help lists the options"
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    parts = [" ".join(re.sub(r"[│╭╮╰╯─|+]+ ?", " ", part).split()) for part in re.split(r"[-─]{5,}", text)]
    parts = [part for part in parts if part]
    said = re.sub(r"^Error parsing [A-Za-z][\w.]*: ", "", parts[1] if len(parts) > 1 else " ".join(parts))
    field, _, rest = said.partition(" ")  # where a dataclass refused a field's value
    if (flag := f"--{field.replace('_', '-')}") in options:
        return f"{flag} {rest}"
    if extra := re.match(r"Unrecognized options: (.*)", said):
        word = extra[1].split(", ")[0]
        quotes = "" if word.startswith("-") else "; a prompt of several words needs quotes"
        return f"unexpected argument {word!r}{quotes}; {prog} --help lists the options"
    flag = re.search(r"Error parsing (\S+):", said)
    if flag and (number := re.search(r"(invalid literal for int|could not convert string to float).*?('.*')", said)):
        kind = "a whole number" if number[1].startswith("invalid") else "a number"
        return f"{flag[1]} must be {kind}, not {number[2]}"
    if choice := re.match(r"invalid choice '(.*)' for argument '(\S+)'\. Expected one of \((.*)\)", said):
        known = [name.strip(" '") for name in choice[3].split(",") if name.strip(" '") not in ("", "None")]
        near = nearest(choice[1], known)
        return f"{choice[2]} {choice[1]!r}: {f'did you mean {near}? ' if near else ''}there are {', '.join(known)}"
    return said


@contextlib.contextmanager
def exit_on_bad_input() -> Iterator[None]:
    """Print what was wrong in one line and exit with 1; a stop by Ctrl-C exits with 130, a closed pipe with 141.

    Errors that no input should cause keep their traceback. With T2I_DEBUG=1 in the environment all show it.
    """
    try:
        yield
        if sys.stdout is not None:  # closed by the caller
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # as `t2i … | head` leaves it; there is nobody to tell
        _discard_stdout()
        sys.exit(141)
    except Exception as error:
        said = None if os.environ.get("T2I_DEBUG") else _one_line(error)
        if said is None:
            raise
        sys.exit(f"error: {said}")


def _one_line(error: Exception) -> str | None:
    """What is said of an error of the input or of the machine; None for any other, which is a bug."""
    text = " ".join(str(error).split())
    if _disk_is_full(error):
        name = getattr(error, "filename", None)
        return f"no space left on the disk{f' to write {name}' if name else ''}: free some, and run it again"
    if isinstance(error, MemoryError) or _out_of_memory(error):
        return f"not enough memory: ask for fewer or smaller images at once ({text[:150] or 'out of memory'})"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return text if isinstance(error, (ValueError, OSError, FloatingPointError)) else None


def _disk_is_full(error: BaseException | None) -> bool:
    """Also where a library raises an error of its own for it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(text in str(error) for text in ("No space left on device", "PytorchStreamWriter failed writing")):
            return True
        error = error.__cause__ or error.__context__
    return False


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError"
        or "not enough memory" in str(error)
        or "can't allocate" in str(error)
    )


def _discard_stdout() -> None:
    """So that the interpreter, as it ends, does not flush to the closed pipe once more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
