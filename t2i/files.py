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


def slug(text: str) -> str:
    """Lower case letters and digits of a text, joined by hyphens: for names of files."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
