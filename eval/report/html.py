"""A report as one web page that needs nothing else: style, script and pictures lie within it, and it loads nothing.

Every text is escaped, and the page's content security policy admits its own script only: a prompt cannot run.

Shapes: curves are drawn into a box of WIDTH × HEIGHT, in SVG's units
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from t2i.eval.report import Curve, Gallery, Report, Score

FILES = Path(__file__).parent / "templates"
EXACT, LARGEST = 256, 512  # pictures up to EXACT pixels are embedded as they are, others as JPEG of at most LARGEST
PIXELATED = 128  # pictures up to this size are enlarged pixel by pixel
WIDE = 600  # side from which on a picture has a row of its own: a plot, or a sheet of pictures
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 320, 70, 22, 12, 54
COLOURS = 6  # in report.css
BANDS = 3  # of one chart at most


def page(report: Report) -> str:
    """The whole page as text."""
    body = [f"<header><h1>{escape(report.title)}</h1></header><main>"]
    body += [f'<p class="note">{escape(note)}</p>' for note in report.notes]
    if report.curves:
        body.append(section("Curves", f'<div class="curves">{"".join(map(chart, report.curves))}</div>'))
    if report.scores:
        body.append(section("Scores", _scores(report.scores)))
    body += [section(gallery.title, _gallery(gallery)) for gallery in report.galleries]
    if report.settings:
        body.append(section("Settings", settings_table(report.settings)))
    return document(report.title, "".join(body) + "</main>", "report")


def document(title: str, body: str, name: str, data: object = None) -> str:
    """A page with the style common.css and NAME.css, the script NAME.js, and `data` as JSON in the element #data.

    `body` is markup, already escaped; `title` is text.
    """
    style = "".join((FILES / file).read_text(encoding="utf-8") for file in ("common.css", f"{name}.css"))
    script = (FILES / f"{name}.js").read_text(encoding="utf-8")
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{own}'"
    if data is not None:  # "<" would let a text close the element
        safe = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
        body += f'<script id="data" type="application/json">{safe}</script>'
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,"><title>{escape(title)}</title>'
        f"<style>{style}</style></head><body>{body}<script>{script}</script></body></html>\n"
    )


def on_white(image: Image.Image) -> Image.Image:
    """An RGB copy without metadata, which could name what made it; transparent pixels become white."""
    if image.mode in ("RGBA", "LA", "P", "PA"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return Image.fromarray(np.array(image.convert("RGB")))


def data_uri(image: Image.Image, exact: bool | None = None) -> str:
    """The picture as a data URI: exact as PNG, otherwise JPEG with sides of at most LARGEST pixels.

    By default pictures with sides of at most EXACT pixels are exact.
    """
    image = on_white(image)
    exact = max(image.size) <= EXACT if exact is None else exact
    file = io.BytesIO()
    if exact:
        image.save(file, format="PNG")
    else:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        image.save(file, format="JPEG", quality=92)
    return f"data:image/{'png' if exact else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"


# --- tables ---------------------------------------------------------------------------------------------------------


def section(title: str, content: str) -> str:
    """A part of the page; `content` is markup."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def table(head: list[tuple[str, str]], rows: list[list[tuple[object, str]]], name: str) -> str:
    """Headers (text, class) and cells (what it is sorted by, markup); the script makes the headers into buttons."""
    cells = "".join(f'<th scope="col" class="{kind}">{escape(text)}</th>' for text, kind in head)
    lines = []
    for row in rows:
        line = "".join(
            f'<td class="{kind}" data-sort="{escape(str(key))}" data-label="{escape(text)}">{markup}</td>'
            for (text, kind), (key, markup) in zip(head, row, strict=True)
        )
        lines.append(f"<tr>{line}</tr>")
    return (
        f'<div class="scroll"><table class="{name} sortable"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _scores(scores: list[Score]) -> str:
    head = [("Score", "name"), ("Value", "number"), ("95 % interval", "number"), ("", "bar"), ("n", "number")]
    ceilings, skips = any(s.ceiling is not None for s in scores), any(s.skipped for s in scores)
    head += [("Ceiling", "number")] * ceilings + [("Skipped", "number")] * skips
    rows = []
    for s in scores:
        low, high = (None if v is None else number(v, s.share) for v in (s.low, s.high))
        interval = "–" if low is None else f"{low} – {high}"
        width = "" if low is None else s.high - s.low
        row = [(s.name, _score_name(s)), (s.value, f"<strong>{number(s.value, s.share)}</strong>"), (width, interval)]
        row += [(s.value, _bar(s)), (s.n, f"{s.n:,}")]
        if ceilings:
            row.append(("", "–") if s.ceiling is None else (s.ceiling, number(s.ceiling, s.share)))
        if skips:
            row.append((s.skipped, f"{s.skipped:,}"))
        rows.append(row)
    return table(head, rows, "scores") + _legend(scores)


def _legend(scores: list[Score]) -> str:
    parts = ["Arrows say which direction is better. Intervals sort by their width."]
    if any(s.share for s in scores):
        parts.append("Bars run from 0 to 100 %.")
    if any(not s.share for s in scores):
        parts.append("Dots stand on a scale of their own for each row, which starts at 0 or at a negative value.")
    if any(s.ceiling is not None for s in scores):
        parts.append(
            "The upright mark is the ceiling: what real pictures reach, or what “how it was measured” says instead."
        )
    return f'<p class="legend">{" ".join(parts)}</p>'


def _score_name(score: Score) -> str:
    arrow = {"higher": "↑", "lower": "↓", None: ""}[score.better]
    better = f' <span class="better" title="{score.better} is better">{arrow}</span>' if arrow else ""
    text = f'<span class="what">{escape(score.name)}{better}</span>'
    if not score.details:
        return text
    terms = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in flat(score.details))
    return f"{text}<details><summary>how it was measured</summary><dl>{terms}</dl></details>"


def _bar(score: Score) -> str:
    """The value, its interval and the ceiling on a line: a share from 0 to 1, others from 0 to the most."""
    known = [v for v in (score.value, score.low, score.high, score.ceiling) if v is not None]
    start, end = (0.0, 1.0) if score.share else (min(0.0, *known), max(0.0, *known) * 1.1)

    def place(value: float) -> float:
        return 100 * (value - start) / ((end - start) or 1)

    x = place(score.value)
    parts = ['<line class="track" x1="0" y1="8" x2="100" y2="8"/>']
    if score.share:
        parts = [
            '<rect class="track-box" x="0" y="3" width="100" height="10"/>',
            f'<rect class="fill" x="0" y="3" width="{x:.2f}" height="10"/>',
        ]
    if score.low is not None:
        parts.append(f'<line class="interval" x1="{place(score.low):.2f}" y1="8" x2="{place(score.high):.2f}" y2="8"/>')
    if not score.share:  # a line without length and with round ends is a dot, whatever the box is stretched to
        parts.append(f'<line class="dot" x1="{x:.2f}" y1="8" x2="{x:.2f}" y2="8"/>')
    if score.ceiling is not None:
        at = place(score.ceiling)
        parts.append(f'<line class="ceiling" x1="{at:.2f}" y1="0" x2="{at:.2f}" y2="16"/>')
    inner = "".join(parts)
    return f'<svg class="score" viewBox="0 0 100 16" preserveAspectRatio="none" aria-hidden="true">{inner}</svg>'


def settings_table(settings: dict) -> str:
    """Nested plain data as a table of names and values."""
    rows = [[(key, escape(key)), (value, f"<code>{escape(value)}</code>")] for key, value in flat(settings)]
    return table([("Setting", "name"), ("Value", "text")], rows, "settings")


def flat(data: dict, before: str = "") -> Iterator[tuple[str, str]]:
    """(name, text) of every value in nested data, names joined by dots; None is a dash."""
    for key, value in data.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            yield f"{before}{key}", "–" if value is None else text


def number(value: float, share: bool = False) -> str:
    """A number for people: four significant digits, shares in per cent with one decimal."""
    if share:
        return f"{value:.1%}"
    text = f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return text.replace("-", "−")


# --- pictures and curves --------------------------------------------------------------------------------------------


def _gallery(gallery: Gallery) -> str:
    figures = []
    for image, caption in gallery.pictures:
        small = ' class="pixelated"' if max(image.size) <= PIXELATED else ""
        wide = ' class="wide"' if max(image.size) >= WIDE else ""
        shape = f'width="{image.width}" height="{image.height}"'
        picture = f'<img{small} src="{data_uri(image)}" {shape} alt="{escape(caption)}">'
        figures.append(f"<figure{wide}>{picture}<figcaption>{escape(caption)}</figcaption></figure>")
    return f'<div class="grid">{"".join(figures)}</div>'


def chart(curve: Curve) -> str:
    """Lines in axes, with a key; their intervals as bands where these do not hide each other."""
    points = [p for series in curve.series.values() for p in series]
    title = f"<h3>{escape(curve.title)}</h3>"
    if not points:
        return f'<div class="curve">{title}<p class="legend">no points</p></div>'
    xs = sorted({p[0] for p in points})
    x_low, x_high = _range([_scaled(curve, x) for x in xs])
    y_ticks = ticks(*_range([v for p in points for v in p[1:] if v is not None]))
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def across(x: float) -> float:
        return LEFT + (_scaled(curve, x) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = [_axes(curve, _x_ticks(curve, xs), y_ticks, across, up)]
    for i, (name, series) in enumerate(curve.series.items()):
        parts.append(_line(name, series, i, across, up, banded=len(curve.series) <= BANDS))
    chart = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(curve.title)}">{"".join(parts)}</svg>'
    keys = [f'<li class="{_looks(i)}">{escape(name)}</li>' for i, name in enumerate(curve.series)]
    return f'<div class="curve">{title}<ul class="keys">{"".join(keys)}</ul>{chart}</div>'


def _scaled(curve: Curve, x: float) -> float:
    return math.log(x) if curve.log_x else x


def _x_ticks(curve: Curve, xs: list[float]) -> list[float]:
    """Where the points are, if they are few; otherwise round numbers, or every k-th point on a logarithmic axis."""
    if len(xs) <= 8:
        return xs
    return xs[:: -(-len(xs) // 8)] if curve.log_x else [t for t in ticks(xs[0], xs[-1]) if xs[0] <= t <= xs[-1]]


def _axes(curve: Curve, x_ticks, y_ticks, across, up) -> str:
    parts = []
    for y in y_ticks:
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>')
        parts.append(f'<text class="y" x="{LEFT - 8}" y="{up(y) + 4:.1f}">{number(y)}</text>')
    for x in x_ticks:
        parts.append(f'<text class="x" x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 24}">{number(x)}</text>')
    middle = (HEIGHT - BOTTOM + TOP) / 2
    parts.append(
        f'<text class="x label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}">{escape(curve.x_label)}</text>'
    )
    turned = f'transform="rotate(-90 14 {middle})"'
    return "".join([*parts, f'<text class="x label" x="14" y="{middle}" {turned}>{escape(curve.y_label)}</text>'])


def _looks(i: int) -> str:
    """Classes of the i-th line: a colour, and dashes where the colours are through."""
    return f"s{i % COLOURS}{' dashed' if i >= COLOURS else ''}"


def _line(name: str, series, i: int, across, up, banded: bool) -> str:
    spots = [(f"{across(x):.1f}", f"{up(y):.1f}", x, y, low, high) for x, y, low, high in series]
    band = [p for p in series if p[2] is not None]
    edge = [(x, high) for x, _, _, high in band] + [(x, low) for x, _, low, _ in reversed(band)]
    outline = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in edge)
    parts = [f'<polygon class="band" points="{outline}"/>'] if banded and len(band) > 1 else []
    parts.append(f'<polyline class="line" points="{" ".join(f"{x},{y}" for x, y, *_ in spots)}"/>')
    for left, top, x, y, low, high in spots:
        interval = "" if low is None else f" ({number(low)} – {number(high)})"
        said = escape(f"{name}: {number(y)}{interval} at {number(x)}")
        parts.append(f'<circle cx="{left}" cy="{top}" r="4"><title>{said}</title></circle>')
    return f'<g class="{_looks(i)}">{"".join(parts)}</g>'


def _range(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if low < high else (low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1))


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers that enclose low < high."""
    raw = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * f for f in (1, 2, 2.5, 5, 10) if unit * f >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]
