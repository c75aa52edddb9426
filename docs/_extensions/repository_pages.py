"""Sphinx extension: README.md, ARCHITECTURE.md and CHANGELOG.md as pages of the site, and links that work on it.

Pages are written for the repository, where links are relative to the page's folder. Links to other pages lead to those
of the site, and links to anything else in the repository become its name.
"""

from __future__ import annotations

import os.path
import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
FROM_ROOT = {"index": "README.md", "architecture": "ARCHITECTURE.md", "changelog": "CHANGELOG.md"}
LINK = re.compile(r"(!?)\[([^]\[]*)\]\(([^)#\s:]+)(#[^)\s]*)?\)")


def on_site(text: str, folder: str) -> str:
    """The text of a page in a folder of the repository, with the site's links."""
    pages = {file: f"{name}.md" for name, file in FROM_ROOT.items()}

    def replaced(match: re.Match[str]) -> str:
        image, label, target, anchor = match.groups(default="")
        path = os.path.normpath(f"{folder}/{target}")
        if path.startswith("docs/") and (image or path.endswith(".md")):
            return f"{image}[{label}]({path.removeprefix('docs/')}{anchor})"
        return f"[{label}]({pages[path]}{anchor})" if path in pages else label

    return LINK.sub(replaced, text)


def _read(app: Sphinx, name: str, source: list[str]) -> None:
    source[0] = on_site(source[0], "docs")
    if name in FROM_ROOT:
        source[0] = on_site((ROOT / FROM_ROOT[name]).read_text(encoding="utf-8"), ".") + "\n\n" + source[0]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}
