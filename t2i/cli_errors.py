"""Bad input as one clear line instead of a traceback."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator


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
