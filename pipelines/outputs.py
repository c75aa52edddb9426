"""Where a command writes its images: checked before the work; no image that is there is replaced by another."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, PngImagePlugin

from t2i.checks import UsageError
from t2i.files import check_writable, slug

LONGEST_NAME = 240  # bytes, of a file: 255 but for a number behind it
LONGEST_SLUG = 120  # bytes, of a prompt in it


class Output(NamedTuple):
    """An image, the path it is meant for, and what it takes to make it again, which becomes the file's text chunks."""

    image: Image.Image
    path: Path
    record: Mapping[str, str]


def check_out(out: str) -> bool:
    """Whether `out` is a folder for single images, which ends in / or is there; else it is a PNG file.

    Raises UsageError for a path that could not be written.
    """
    path, folder = Path(out), out.endswith(("/", os.sep))
    if longest := [part for part in path.parts if len(os.fsencode(part)) > LONGEST_NAME]:
        raise UsageError(f"--out has a name of more than {LONGEST_NAME} bytes, {longest[0][:40]}…: give a shorter one")
    png = path.suffix.lower() == ".png"
    if path.is_dir() and png and not folder:
        raise UsageError(f"--out {out} is a folder: write {out}/ for single images in it, or name another file")
    folder = folder or (bool(out) and path.is_dir())
    if not folder and not png:
        raise UsageError(f"--out must end in .png (a grid) or / (single images), not {out!r}")
    if folder and path.exists() and not path.is_dir():
        raise UsageError(f"--out {out} is to be a folder, but {path} is a file: give another name")
    check_writable(out, path if folder else path.parent)
    return folder


def write_images(outputs: Sequence[Output], folder: bool) -> str:
    """Write images as PNG, each whole or not at all; returns how to name them in a message: by file, or by `folder`.

    A file that is there is written again only by the very same image of the same settings. Where a name is taken by
    anything else, all images get the same number behind their names, the first that is free: a-cat-0-2.png.
    """
    taken = (number for number in itertools.count(1) if all(_is_free(output, number) for output in outputs))
    number = next(taken)
    paths = [_write(output.image, numbered(output.path, number), output.record) for output in outputs]
    if not folder:
        return printable(paths[0])
    first = f" ({paths[0].name}{' …' if len(paths) > 1 else ''}, beside what was there)" if number > 1 else ""
    return f"{printable(paths[0].parent)}{first}"


def numbered(path: Path, number: int) -> Path:
    """The name of the number-th set of images of one name: a-cat-0.png, a-cat-0-2.png, …"""
    return path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def file_names(prompts: Sequence[str]) -> list[str]:
    """A name for each prompt's files, in its own script; numbered where two are alike up to punctuation."""
    names = [_cut(slug(prompt)).strip("-") or "image" for prompt in prompts]
    return names if len(set(names)) == len(names) else [f"{i}-{name}" for i, name in enumerate(names)]


def printable(path: str | Path) -> str:
    """A path as text, also one that is not UTF-8."""
    return os.fsencode(path).decode(errors="replace")


def _is_free(output: Output, number: int) -> bool:
    path = numbered(output.path, number)
    return not (path.exists() or path.is_symlink()) or _is_same(path, output)


def _is_same(path: Path, output: Output) -> bool:
    """Whether a file holds this image, pixel for pixel, made in the same way, by whatever version of t2i."""
    try:
        with Image.open(path) as there:
            text = dict(getattr(there, "text", {}))
            pixels = there.mode, there.size, there.tobytes()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    alike = text | {"version": ""} == dict(output.record) | {"version": ""}
    return alike and pixels == (output.image.mode, output.image.size, output.image.tobytes())


def _write(image: Image.Image, path: Path, record: Mapping[str, str]) -> Path:
    chunks = PngImagePlugin.PngInfo()
    for key, value in record.items():
        chunks.add_itxt(key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem[:40]}.{os.getpid()}.part")
    try:
        image.save(part, format="PNG", pnginfo=chunks)
        part.replace(path)
    except OSError as error:
        if error.strerror is None:  # Pillow's own
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)
    return path


def _cut(name: str) -> str:
    """To at most LONGEST_SLUG bytes, between letters."""
    return name.encode()[:LONGEST_SLUG].decode(errors="ignore")
