"""Files that are there whole or not at all, and their names."""

from __future__ import annotations

import json
import re
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name, then rename it: there is never half of one. Text is written as UTF-8."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    part.replace(path)


def write_json(path: Path, data: dict | list) -> None:
    """`write_whole` of data as JSON."""
    write_whole(path, json.dumps(data, indent=2) + "\n")


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises FileNotFoundError where there is no file, ValueError where it is not UTF-8 text.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        like = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else f"byte {error.start} is not UTF-8"
        raise ValueError(f"{path} is not a UTF-8 text file ({like}): save it as UTF-8") from None
    if "\0" in text:
        raise ValueError(f"{path} is not a text file: it contains zero bytes; save it as UTF-8")
    return text


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
