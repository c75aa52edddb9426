"""The documentation: options exist, links resolve, Python examples import and run, and lists match the code."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from t2i.cli import help_of
from t2i.data.toybox_v1 import ATTRIBUTES, KINDS, RELATIONS

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md")))
WORDS_OF = {"data": 2, "train": 2, "report": 2}  # number of words in these commands' names; the others have one


def commands(text: str) -> list[list[str]]:
    """The words after `t2i` at the beginning of a line, indented or not, and in inline code, without variables."""
    lines = re.findall(r"^ *t2i (.*)$", text.replace("\\\n", " "), flags=re.MULTILINE)
    lines += re.findall(r"`t2i ([^`]*)`", text)
    return [shlex.split(line.split(" #")[0]) for line in lines]


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


@cache
def options_of(*command: str) -> set[str]:
    return set(re.findall(r"--[a-z][a-z0-9-]*", help_of(*command)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_exist(page):
    for words in commands(page.read_text()):
        name = words[: 2 if words[:2] == ["eval", "tokenizers"] else WORDS_OF.get(words[0], 1)]
        if words[0].startswith("--") or {"COMMAND", "RECIPE"} & set(name) or len(name) < WORDS_OF.get(words[0], 1):
            continue  # `t2i train` lists the recipes
        options = {word for word in words if word.startswith("--") and word not in ("--help", "--threads")}
        for recipe in name[1].split("|") if len(name) > 1 else [""]:
            known = options_of(*name[:1], *filter(None, [recipe]))
            assert options <= known, (page.name, words, options - known)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", page.read_text()):
        assert not target or (page.parent / target).exists(), (page.name, target)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_import_what_there_is(page):
    for block in python_blocks(page):
        for line in [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom)]:
            for name in line.names:
                found = hasattr(importlib.import_module(line.module), name.name)
                submodule = find_spec(f"{line.module}.{name.name}") if not found else None
                assert found or submodule, (page.name, ast.unparse(line))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.stem in ("README", "pipelines")], ids=lambda page: page.name
)
def test_python_examples_of_pipelines_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec("".join(python_blocks(page)), names := {})
    assert names["out"].images[0].size == (names["pipe"].image_size,) * 2


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", str(ROOT / "docs"), str(tmp_path / "site")]
    done = subprocess.run([*command, "-d", str(tmp_path / "doctrees")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    home = (tmp_path / "site" / "index.html").read_text()
    assert 'href="pipelines.html"' in home and "gallery.png" in home and "README.md" not in home
    assert "--num-candidates" in (tmp_path / "site" / "commands.html").read_text()


def test_the_readme_lists_the_words_of_toybox():
    section = (ROOT / "README.md").read_text().split("### Which prompts work")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| ([a-z]+) \| (.*) \|$", section, flags=re.MULTILINE))
    assert rows["things"].split(", ") == list(KINDS)
    assert rows["colours"].split(", ") + rows["textures"].split(", ") == list(ATTRIBUTES)
    assert all(relation in rows["relations"] for relation in RELATIONS)
