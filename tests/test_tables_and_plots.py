"""Tables as text and figures: nothing is lost when piped or printed."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from t2i import plots
from t2i.eval.report.html import TEMPLATES
from t2i.tables import format_table

HEAD, ROWS = ["score", "value"], [["FD[random] :cat:", "0.123456789"], ["a" * 300, "−1"]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_tables_keep_every_character_in_aligned_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    lines = format_table(HEAD, ROWS, right=[1]).splitlines()
    assert len(lines) == 3 and [line.split() for line in lines[1:]] == [["FD[random]", ":cat:", "0.123456789"], ROWS[1]]
    assert {len(line) for line in lines} == {300 + 3 + 11}


def test_the_heading_is_bold_on_terminals_only(monkeypatch):
    plain = format_table(HEAD, ROWS)
    assert "\x1b" not in plain
    monkeypatch.setattr(sys, "stdout", Terminal())
    bold = format_table(HEAD, ROWS)
    assert "\x1b[1m" in bold and re.sub(r"\x1b\[[0-9;]*m", "", bold).split() == plain.split()
    monkeypatch.setenv("NO_COLOR", "1")
    assert format_table(HEAD, ROWS) == plain
    monkeypatch.setattr(sys, "stdout", None)  # closed by the caller
    assert format_table(HEAD, ROWS) == plain


@plots.styled
def figure(label: str = "x"):
    made = plots.new_figure(3, 2)
    axes = made.add_subplot()
    axes.plot([0, 1], [0, 1], gid="line", label=label)
    axes.set_xlabel(label)
    return made


def test_figures_are_saved_whole_and_are_images(tmp_path):
    plots.save_png(figure(), tmp_path / "plot.png", dpi=50)
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]
    image = plots.to_image(figure(), dpi=50)
    assert image.size == (150, 100) and image.mode == "RGB" and np.array(image).std() > 5


def test_the_same_figure_is_the_same_markup_with_the_pages_colours():
    evil = "$</text><script>$"
    svg = plots.to_svg(figure(evil), evil, {"line": evil})
    assert svg == plots.to_svg(figure(evil), evil, {"line": evil})
    root = ElementTree.fromstring(svg)
    assert [title.text for title in root.iter("title")] == [evil] and root.attrib["aria-label"] == evil
    assert evil in [text.text for text in root.iter("text")] and "<script" not in svg
    assert "var(--s0)" in svg and not re.search(r"#[0-9a-f]{6}|https?:|url\(", svg)


def test_page_and_plots_share_their_colours():
    style = (TEMPLATES / "common.css").read_text().split("@media")[0]
    for colour, variable in plots.VARIABLES.items():
        assert f"{variable.removeprefix('var(').removesuffix(')')}: {colour};" in style


@pytest.mark.parametrize("command", [["--help"], ["eval", "--help"], ["report", "diff", "--help"]])
def test_help_waits_for_no_library_of_tables_plots_or_templates(command):
    code = "import sys; from t2i.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    code += "print(sorted({'torch', 'matplotlib', 'jinja2', 'rich.table'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
