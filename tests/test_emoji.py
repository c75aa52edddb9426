"""The emoji data set: names, styles, held-out pairs and layout, on drawings of this project in OpenMoji's form."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from t2i.checks import UsageError
from t2i.data import emoji, open_source

SIZE = 32
SVG = """<svg id="emoji" viewBox="0 0 72 72" xmlns="http://www.w3.org/2000/svg">
  <g id="color"><circle cx="36" cy="36" r="20" fill="{colour}"/></g>
  <g id="skin"><circle cx="36" cy="30" r="6" fill="#fadcbc"/></g>
  <g id="line"><circle cx="36" cy="36" r="20" fill="none" stroke="#000" stroke-width="4"/></g>
</svg>"""
LICENCES = {"colour": "all rights reserved", "outline": "public domain"}
CODES = [0x1F431, 0x1F697, *range(0x1F400, 0x1F42C)]


@pytest.fixture
def drawings(tmp_path) -> Path:
    pytest.importorskip("resvg_py")
    folder = tmp_path / "svg"
    folder.mkdir()
    for i, code in enumerate(CODES):
        colour = "#" + "".join(f"{(40 * i * k) % 256:02x}" for k in (1, 2, 3))
        (folder / f"{code:X}.svg").write_text(SVG.format(colour=colour))
    (folder / "1F468-200D-1F680.svg").write_text(SVG.format(colour="red"))  # a sequence
    (folder / "E001.svg").write_text(SVG.format(colour="red"))  # private
    return folder


def test_files_are_named_by_unicode():
    assert emoji.name_of(emoji.code_of("1F431")) == "cat face"
    assert emoji.name_of(emoji.code_of("2764-FE0F")) == "heavy black heart"
    for stem in ("1F468-200D-1F680", "E001", "1F3FB", "1F1E6", "readme"):
        assert emoji.code_of(stem) is None, stem


def test_the_outline_lacks_the_colours_and_keeps_the_lines(drawings):
    styles = emoji.openmoji_styles(drawings, SIZE)
    colour, outline = (np.asarray(styles[style][0x1F697]()).astype(int) for style in (emoji.COLOUR, emoji.OUTLINE))
    assert colour.shape == outline.shape == (SIZE, SIZE, 3)
    assert np.ptp(outline, axis=2).max() == 0, "the outline is black and white"
    assert (outline[SIZE // 2, SIZE // 2] == 255).all() and (colour[SIZE // 2, SIZE // 2] != 255).any()
    assert (outline.min(), outline.max()) == (0, 255)


def test_the_data_set_can_be_trained_on_and_its_test_images_are_held_out(drawings, tmp_path):
    styles = emoji.openmoji_styles(drawings, SIZE)
    train, test = emoji.export(tmp_path / "out", styles, 0.2, LICENCES)
    assert train + test == 2 * len(set(CODES)) and 0.1 < test / (train + test) < 0.3
    source = open_source(tmp_path / "out", SIZE)
    assert len(source) == train, "of train/ and test/, the first is trained on"
    rows = {s: [json.loads(x) for x in (tmp_path / "out" / s / "metadata.jsonl").open()] for s in emoji.SPLITS}
    pairs = {split: {(row["thing"], row["style"]) for row in of} for split, of in rows.items()}
    assert not pairs["train"] & pairs["test"]
    for thing, style in pairs["test"]:
        other = emoji.OUTLINE if style == emoji.COLOUR else emoji.COLOUR
        assert (thing, other) in pairs["train"], "its thing is seen in the other style"
    assert all(row["text"] == f"{row['thing']}, {row['style']} style" for of in rows.values() for row in of)


def test_the_same_call_gives_the_same_files_and_nothing_is_written_over(drawings, tmp_path):
    styles = emoji.openmoji_styles(drawings, SIZE)
    found = []
    for name in ("a", "b"):
        emoji.export(tmp_path / name, styles, 0.1, LICENCES)
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        found.append({p.relative_to(tmp_path / name): p.read_bytes() for p in files})
    assert found[0] == found[1]
    with pytest.raises(FileExistsError, match="not an empty folder"):
        emoji.export(tmp_path / "a", styles, 0.1, LICENCES)


def test_without_the_packages_or_a_font_the_remedy_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(emoji.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install -e '\.\[emoji\]'"):
        emoji.main(["--out", str(tmp_path / "out")])
    (tmp_path / "no.ttf").write_bytes(b"no font")
    with pytest.raises(UsageError, match=r"no\.ttf cannot be used as a font .*; give one with coloured bitmaps"):
        emoji.font_style(tmp_path / "no.ttf", SIZE)
    assert not (tmp_path / "out").exists()


def test_each_style_has_its_licence(drawings, tmp_path, monkeypatch):
    monkeypatch.setattr(emoji, "openmoji_folder", lambda: drawings)
    font = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    emoji.main(["--out", str(tmp_path / "out"), "--size", str(SIZE), "--font", str(font)])
    of = dict(line.split(": ", 1) for line in (tmp_path / "out" / "LICENSE.txt").read_text().splitlines())
    assert of.keys() == {"colour", "outline", "font"}
    assert of["colour"] == of["outline"] and "OpenMoji" in of["colour"] and "CC BY-SA 4.0" in of["colour"]
    assert of["font"] == "emoji of DejaVu Sans, see the licence of the font"


def test_a_thing_is_held_out_in_one_style_and_only_if_it_has_others():
    assert all(emoji.held_out_style(code, ["colour"], 0.5) is None for code in range(100))
    held = [emoji.held_out_style(code, ["colour", "outline", "font"], 0.1) for code in range(3000)]
    assert 0.08 < sum(style is not None for style in held) / (3 * 3000) < 0.12
