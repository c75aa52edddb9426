"""Files that are there whole or not at all, and their names."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path

_UTF = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16"}
_UTF[codecs.BOM_UTF16_BE] = "UTF-16"


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name, then rename it: there is never half of one. Text is written as UTF-8."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    part.replace(path)


def write_json(path: Path, data: dict | list) -> None:
    """`write_whole` of data as JSON."""
    write_whole(path, json.dumps(data, indent=2) + "\n")


def read_text(path: str | Path) -> str:
    """A text file's content without its byte order mark.

    Raises FileNotFoundError where there is no file; ValueError, naming file and line, where it is not UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    content = path.read_bytes()
    for mark, name in _UTF.items():
        if content.startswith(mark):
            raise ValueError(f"{path} is {name}; save it as UTF-8, for instance with: iconv -f {name} -t UTF-8")
    if b"\0" in content:
        raise ValueError(f"{path} is no text in UTF-8, for it holds zero bytes; save it as UTF-8")
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

    Raises FileNotFoundError where there is no file, ValueError, naming the file, where it holds anything else.
    """
    try:
        data = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}): it is damaged, or not the file that was meant") from None
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply: it is damaged, or not the file that was meant") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds no JSON object: it is damaged, or not the file that was meant")
    if missing := [key for key in needed if key not in data]:
        raise ValueError(f"{path} has no {missing[0]!r}: it is damaged, or not the file that was meant")
    return data


def slug(text: str) -> str:
    """Lower case letters and digits of a text, in any script, joined by hyphens: for names of files."""
    return re.sub(r"[\W_]+", "-", text.lower()).strip("-")
