"""Atomic writing of files and folders, and reading with one-line errors."""

from __future__ import annotations

import codecs
import contextlib
import csv
import errno
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

try:
    import fcntl
except ImportError:  # Windows, where `alone` does not lock
    fcntl = None

from t2i.checks import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_UTF = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16"}
_UTF[codecs.BOM_UTF16_BE] = "UTF-16"
_TORCH = ("PytorchStreamWriter", "inline_container", "file write failed", "unexpected pos", "iostream error")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


def write_whole(path: Path, content: str | bytes, durable: bool = True) -> None:
    """Write a file atomically, by renaming a temporary one; several processes may write the same file.

    Text is written as UTF-8. Raises OSError naming the file if it cannot be written, leaving nothing behind.

    Args:
        durable: also flush it to disk, which takes milliseconds, so that it is not incomplete even after a power
            failure.
    """
    part = path.with_name(f".{path.name[:40]}.{os.getpid()}.part")
    try:
        with writing(path):
            part.write_bytes(content.encode() if isinstance(content, str) else content)
            if durable:
                sync(part)
            part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.filename is None:  # by `writing`, whose message names the file
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    if durable:
        sync(path.parent)


def write_json(path: Path, data: dict | list) -> None:
    """Write data as JSON, atomically."""
    write_whole(path, json.dumps(data, indent=2) + "\n")


def write_csv(path: Path, rows: Sequence[dict]) -> None:
    """Write rows, at least one, with equal keys as CSV with a header, atomically."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, file.getvalue())


def read_text(path: str | Path) -> str:
    """The content of a text file without byte order mark.

    Raises FileNotFoundError if there is no file; ValueError, naming file and line, if it is not UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    content = path.read_bytes()
    for mark, name in _UTF.items():
        if content.startswith(mark):
            raise ValueError(f"{path} is {name}; save it as UTF-8, for instance with: iconv -f {name} -t UTF-8")
    if b"\0" in content:
        raise ValueError(f"{path} is not UTF-8 text, for it contains zero bytes; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: byte {content[error.start]:#04x} is not UTF-8; save the file as UTF-8, for instance "
            "with: iconv -f LATIN1 -t UTF-8"
        ) from None


def read_json(path: str | Path, *needed: str) -> dict:
    """The object in a JSON file, which must have the keys `needed`.

    Raises FileNotFoundError if there is no file; ValueError, naming the file, if it contains anything else.
    """
    try:
        data = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}): it is damaged, or not the file that was meant") from None
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply: it is damaged, or not the file that was meant") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} is not a JSON object: it is damaged, or not the file that was meant")
    if missing := [key for key in needed if key not in data]:
        raise ValueError(f"{path} has no {missing[0]!r}: it is damaged, or not the file that was meant")
    return data


def reserve(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> np.memmap:
    """Create a memory-mapped array file of zeros, with its disk space allocated.

    Otherwise the process would be killed if the disk fills up on writing. Raises OSError if there is not enough space.
    """
    import numpy as np  # imported here, to keep the start of commands fast

    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


@contextlib.contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Context manager that yields an empty folder, which replaces `folder` on success and is removed on failure.

    An existing `folder` is kept until then, as `.NAME.before` for the moment between two renames.
    """
    part, before = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.before")
    for left in (part, before):
        shutil.rmtree(left, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if folder.exists():
            folder.rename(before)
        part.rename(folder)
        sync(folder.parent)
    finally:
        if before.exists() and not folder.exists():
            before.rename(folder)
        for left in (part, before):
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[IO[str]]:
    """The file, opened for reading and writing with an exclusive lock, if the file system supports locks."""
    while True:
        with path.open("a+", encoding="utf-8") as file:
            if fcntl is not None:
                with contextlib.suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_EX)
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                continue  # it was removed while this process waited for it
            file.seek(0)
            yield file
            return


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows cannot open folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def writing(what: str | Path) -> Iterator[None]:
    """Convert errors of a full or broken disk, from any library, to an OSError that names `what` was being written.

    torch raises RuntimeError and safetensors SafetensorError, both without errno.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if (why := _disk_error(error)) is None:
            raise
        raise OSError(f"{what} could not be written: {why}; free some space, or choose another disk") from error


def _disk_error(error: BaseException | None) -> str | None:
    """The message of a disk error among an error and its causes, or None."""
    if error is None:
        return None
    text, number = str(error), getattr(error, "errno", None)
    if type(error).__name__ == "SafetensorError" and (match := re.search(r"os error (\d+)", text)):
        number = int(match[1])
    if number in _NO_ROOM:
        return os.strerror(number)
    if isinstance(error, RuntimeError) and any(words in text for words in _TORCH):
        return "the disk took only a part of it"
    return _disk_error(error.__cause__ or error.__context__)


def check_new(folder: Path) -> None:
    """Raise FileExistsError for something that exists and is not an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder; remove it or choose another")


def check_folder(out: str, option: str = "--out") -> None:
    """Raise UsageError if the value of an option cannot be used as an output folder."""
    if not out:
        raise UsageError(f"{option} is empty; give a folder")
    if Path(out).exists() and not Path(out).is_dir():
        raise UsageError(f"{option} {out} is a file; give a folder")
    check_writable(out, Path(out), option)


def check_writable(out: str, folder: Path, option: str = "--out") -> None:
    """Raise UsageError, naming the option and its value `out`, if a folder cannot be created or written to."""
    there = folder
    while not there.exists() and not there.is_symlink():
        there = there.parent
    if not there.exists():
        raise UsageError(f"{option} {out} cannot be written: {there} is a broken link to {there.readlink()}")
    if not there.is_dir():
        raise UsageError(f"{option} {out} cannot be written: {there} is a file; give another folder")
    try:
        with tempfile.TemporaryFile(dir=there):  # permissions alone are not enough: a file system may be read-only
            pass
    except OSError as error:
        reasons = {errno.EACCES: "there is no permission to write", errno.ENOENT: "no file can be made"}
        why = reasons.get(error.errno or 0, error.strerror)
        raise UsageError(f"{option} {out} cannot be written: {why} in {there.resolve()}; give another folder") from None


def slug(text: str) -> str:
    """Lower-case letters and digits of a text, in any script, joined by hyphens, for file names."""
    return re.sub(r"[\W_]+", "-", text.lower()).strip("-")
