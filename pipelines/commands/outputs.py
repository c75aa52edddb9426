"""Output files of the commands: checked before the work; no image is overwritten by another one."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import ExifTags, Image, PngImagePlugin

from t2i.checks import UsageError
from t2i.files import check_writable, slug, write_whole

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
MAX_NAME_BYTES = 240  # of a file: 255 less a number appended to it
MAX_SLUG_BYTES = 120  # of a prompt in a file name


class Output(NamedTuple):
    """An image, its path, and what it takes to generate it again.

    That record becomes the text chunks of a PNG file, and JSON in the Exif image description of other formats.
    """

    image: Image.Image
    path: Path
    record: Mapping[str, str]


def check_out(out: str) -> bool:
    """Whether `out` is a folder for single images (it ends in / or exists), and not a file of one of FORMATS.

    Raises UsageError for a path that cannot be written.
    """
    path, folder = Path(out), out.endswith(("/", os.sep))
    if long := [part for part in path.parts if len(os.fsencode(part)) > MAX_NAME_BYTES]:
        raise UsageError(f"--out has a name of more than {MAX_NAME_BYTES} bytes, {long[0][:40]}…: give a shorter one")
    image = path.suffix.lower() in FORMATS
    if path.is_dir() and image and not folder:
        raise UsageError(f"--out {out} is a folder: write {out}/ for single images in it, or name another file")
    folder = folder or (bool(out) and path.is_dir())
    if not folder and not image:
        raise UsageError(f"--out must end in .png, .jpg or .webp (a grid) or / (single images), not {out!r}")
    if folder and path.exists() and not path.is_dir():
        raise UsageError(f"--out {out} is to be a folder, but {path} is a file: give another name")
    check_writable(out, path if folder else path.parent)
    return folder


def write_images(outputs: Sequence[Output], folder: bool) -> str:
    """Write images, each atomically; returns what to call them in a message: the file, or the folder.

    A file is overwritten only by the very same image of the same settings. Where a name is taken by anything else, the
    first free number is appended to the names of all images: a-cat-0-2.png.
    """
    contents: dict[Path, tuple] = {}  # of the new images, each encoded once, and only if its name is taken

    def is_free(output: Output, number: int) -> bool:
        path = numbered(output.path, number)
        if not (path.exists() or path.is_symlink()):
            return True
        if output.path not in contents:
            contents[output.path] = _content(BytesIO(encode(output)))
        return _holds(path, contents[output.path])

    number = next(n for n in itertools.count(1) if all(is_free(output, n) for output in outputs))
    paths = [_write(output, numbered(output.path, number)) for output in outputs]
    if not folder:
        return printable(paths[0])
    first = f" ({paths[0].name}{' …' if len(paths) > 1 else ''}, next to the existing files)" if number > 1 else ""
    return f"{printable(paths[0].parent)}{first}"


def numbered(path: Path, number: int) -> Path:
    """The path of the number-th image of one name: a-cat-0.png, a-cat-0-2.png, …"""
    return path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def file_names(prompts: Sequence[str]) -> list[str]:
    """A name for each prompt's files, in its own script; numbered where two are alike up to punctuation."""
    names = [_cut(slug(prompt)).strip("-") or "image" for prompt in prompts]
    return names if len(set(names)) == len(names) else [f"{i}-{name}" for i, name in enumerate(names)]


def printable(path: str | Path) -> str:
    """A path as text, also one that is not UTF-8."""
    return os.fsencode(path).decode(errors="replace")


def _holds(path: Path, content: tuple) -> bool:
    """Whether a file holds this image, pixel for pixel, with the same record, by whatever version of t2i."""
    try:
        return _content(path) == content
    except (OSError, ValueError, SyntaxError, LookupError, AttributeError, Image.DecompressionBombError):
        return False


def _content(file: Path | BinaryIO) -> tuple:
    """The record without its version and with its settings in no order, and the pixels."""
    with Image.open(file) as image:
        record = image.text if image.format == "PNG" else json.loads(image.getexif()[ExifTags.Base.ImageDescription])
        settings = json.loads(record.get("settings", "{}"))
        return {**record, "version": None, "settings": settings}, image.mode, image.size, image.tobytes()


def encode(output: Output) -> bytes:
    """The content of its file, in the format of its suffix."""
    kind, encoded = FORMATS[output.path.suffix.lower()], BytesIO()
    if kind == "PNG":
        chunks = PngImagePlugin.PngInfo()
        for key, value in output.record.items():
            chunks.add_itxt(key, value)
        output.image.save(encoded, format=kind, pnginfo=chunks)
    else:
        exif = Image.Exif()
        exif[ExifTags.Base.ImageDescription] = json.dumps(dict(output.record))
        output.image.save(encoded, format=kind, exif=exif, quality=95, lossless=True)  # JPEG has no lossless
    return encoded.getvalue()


def _write(output: Output, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, encode(output), durable=False)
    return path


def _cut(name: str) -> str:
    """At most MAX_SLUG_BYTES of it, cut between letters."""
    return name.encode()[:MAX_SLUG_BYTES].decode(errors="ignore")
