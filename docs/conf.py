"""Sphinx configuration of the documentation site, which `make docs` builds."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "_extensions"))

project, html_title = "t2i", "t2i"
extensions = ["myst_parser", "repository_pages", "command_help"]
exclude_patterns = ["_extensions", "_build"]
html_theme = "furo"
html_show_copyright = html_show_sphinx = False
myst_heading_anchors = 4
