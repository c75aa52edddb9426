"""One-line error messages instead of tracebacks for bad input."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterator, Sequence

ALIASES = {"--best-of": "--num-candidates"}  # alternative option names, which messages use if the user does
LONG_WORD = r"\S{400,}"


@contextlib.contextmanager
def exit_on_bad_input(args: Sequence[str] = ()) -> Iterator[None]:
    """Print errors in one line and exit with 1; Ctrl-C exits with 130, a closed pipe with 141.

    Args:
        args: the command's arguments; messages name options as they were typed.

    Unexpected errors keep their traceback. With T2I_DEBUG=1 in the environment, all errors show it.
    """
    try:
        yield
        if sys.stdout is not None:  # closed by the caller
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # as in `t2i … | head`; there is no reader for a message
        _discard_stdout()
        sys.exit(141)
    except Exception as error:
        message = None if os.environ.get("T2I_DEBUG") else _one_line(error)
        if message is None:
            raise
        sys.exit(f"error: {_as_typed(re.sub(LONG_WORD, _cut, message), args)}")


def _cut(word: re.Match[str]) -> str:
    """Shorten an overlong word, such as a file name that is too long, to its beginning and end."""
    return f"{word[0][:60]}…{word[0][-20:]}"


def _as_typed(message: str, args: Sequence[str]) -> str:
    """A message with options named as they were typed."""
    given = {arg.split("=")[0].replace("_", "-") for arg in args}
    for alias, flag in ALIASES.items():
        if alias in given and flag not in given:
            message = message.replace(f"{alias}/{flag}", alias).replace(flag, alias)
        elif flag in given:
            message = message.replace(f"{alias}/{flag}", flag)
    return message


def _one_line(error: Exception) -> str | None:
    """The one-line message for an error caused by input or environment; None for any other, which is a bug."""
    text = " ".join(str(error).split())
    if _disk_is_full(error):
        name = getattr(error, "filename", None)
        return f"no space left on the disk{f' to write {name}' if name else ''}: free some, and run it again"
    if isinstance(error, MemoryError) or _out_of_memory(error):
        return f"not enough memory: generate fewer or smaller images at once ({text[:150] or 'out of memory'})"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return text if isinstance(error, (ValueError, OSError, FloatingPointError)) else None


def _disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or one of its causes, is a full disk."""
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
    """Redirect stdout, so that the interpreter does not flush to the closed pipe again at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
