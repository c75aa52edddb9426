"""Reads at URLs that fsspec opens, each of which is tried a few times."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from t2i.notes import line_of

if TYPE_CHECKING:
    import fsspec

T = TypeVar("T")
PAUSES = (0.5, 1.0, 2.0)  # seconds before each further try


def is_url(name: str) -> bool:
    """Whether a name is a URL, and no path."""
    return "://" in name


def file_system(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URL, and the path in it. Raises ValueError, with the remedy, if fsspec cannot open it."""
    from fsspec.core import url_to_fs  # not needed for local shards

    try:
        return url_to_fs(url)
    except (ImportError, ValueError) as error:  # a package that is not installed, or an unknown protocol
        raise ValueError(f"{url} cannot be opened: {error}") from None


def tried(url: str, read: Callable[[], T]) -> T:
    """The result of `read`, which is called again after each of PAUSES if it fails.

    Raises FileNotFoundError if there is nothing at the URL, OSError for any other fault that lasts.
    """
    for pause in PAUSES:
        try:
            return read()
        except Exception as error:  # file systems raise those of their libraries
            if _is_missing(error):
                break
            time.sleep(pause)
    try:
        return read()
    except Exception as error:
        if _is_missing(error):
            raise FileNotFoundError(f"there is nothing at {url}") from error
        what = f"{url} cannot be read ({line_of(error.__cause__ or error)})"
        raise OSError(f"{what}; check the connection and the access to it, and start again") from error


class RemoteFile:
    """A file at a URL for reading from any position, each read of which is tried a few times."""

    def __init__(self, url: str):
        system, path = file_system(url)
        self.url, self._file = url, tried(url, lambda: system.open(path, "rb"))

    def read(self, size: int = -1) -> bytes:
        return tried(self.url, partial(self._read_at, self._file.tell(), size))

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def __enter__(self) -> RemoteFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _read_at(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)


def check_parts(url: str) -> None:
    """Raise ValueError if what is at a URL can only be read from its start, as from HTTP servers without ranges."""
    if not tried(url, partial(_gives_parts, url)):
        raise ValueError(
            f"the server of {url} gives whole files only, and images are read from anywhere in them: download the "
            "shards, or use a server that supports range requests"
        )


def _gives_parts(url: str) -> bool:
    system, path = file_system(url)
    try:
        with system.open(path, "rb", cache_type="none") as file:  # without reading ahead
            file.seek(1)
            return len(file.read(1)) == 1
    except ValueError:  # from fsspec's HTTP files, before the content is sent
        return False


def _is_missing(error: Exception) -> bool:
    """Whether there is no such file. That of HTTP servers is also not found for other faults, which the cause tells."""
    cause = error.__cause__
    return isinstance(error, FileNotFoundError) and (cause is None or getattr(cause, "status", None) in (404, 410))
