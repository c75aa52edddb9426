"""Inscriptions: text as strokes of our own font, so that every machine draws the same bytes.

A character is a few strokes on a grid. Each lettering makes its own pen and outline from the same strokes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from PIL import Image, ImageDraw

Point = tuple[float, float]
Stroke = tuple[Point, ...]

# Strokes are separated by "/". A point is two digits in base 36, x to the right and y down: capitals reach from 0 to
# the baseline at 12 (c), small letters from 4, descenders to 15 (f). A stroke that begins with "~" is a quadratic
# B-spline with these control points: it passes through its ends, through the middle between two points, and through a
# point given twice, where it may have a corner. A stroke of one point is a dot.
GLYPHS: dict[str, str] = {
    " ": "",
    "!": "00 08/0c",
    '"': "00 03/30 33",
    "#": "30 1c/70 5c/04 84/08 88",
    "$": "~63 62 02 06 66 6a 0a 09/30 3c",
    "%": "80 0c/~20 40 44 04 00 20/~68 88 8c 4c 48 68",
    "&": "~8c 14 10 60 64 05 0c 7c 87",
    "'": "00 03",
    "(": "~30 04 0a 3e",
    ")": "~00 34 3a 0e",
    "*": "30 36/01 65/61 05",
    "+": "07 67/34 3a",
    ",": "1b 0e",
    "-": "07 57",
    ".": "0c",
    "/": "60 0c",
    "0": "~30 60 6c 0c 00 30/19 53",
    "1": "03 30 3c/0c 6c",
    "2": "~02 00 60 65 0c 0c 6c",
    "3": "~01 00 60 66 36 36 26/~36 66 6c 0c 0b",
    "4": "5c 50 09 79",
    "5": "~60 00 00 05 05 65 6c 0c 0a",
    "6": "~60 00 09 0c 6c 65 05 09",
    "7": "00 60 2c",
    "8": "~30 60 66 06 00 30/~36 66 6c 0c 06 36",
    "9": "~0c 6c 63 60 00 07 67 63",
    ":": "05/0c",
    ";": "15/1b 0e",
    "<": "63 07 6b",
    "=": "05 65/09 69",
    ">": "03 67 0b",
    "?": "~02 00 60 65 35 38/3c",
    "@": "~53 73 79 39 33 53/~73 79 a9 a0 00 0c 8c 9b",
    "A": "0c 40 8c/18 78",
    "B": "00 0c/~00 30 30 70 76 36 36 06/~06 46 46 86 8c 4c 4c 0c",
    "C": "~82 80 00 0c 8c 8a",
    "D": "~00 20 20 80 8c 2c 2c 0c 0c 00",
    "E": "70 00 0c 7c/06 66",
    "F": "70 00 0c/06 66",
    "G": "~82 80 00 0c 8c 87 87 47",
    "H": "00 0c/80 8c/06 86",
    "I": "00 40/20 2c/0c 4c",
    "J": "~20 60 60 68 68 6c 0c 09",
    "K": "00 0c/80 07/34 8c",
    "L": "00 0c 7c",
    "M": "0c 00 58 a0 ac",
    "N": "0c 00 8c 80",
    "O": "~40 80 8c 0c 00 40",
    "P": "0c 00/~00 40 40 80 87 47 47 07",
    "Q": "~40 80 8c 0c 00 40/58 9d",
    "R": "0c 00/~00 40 40 80 87 47 47 07/37 8c",
    "S": "~82 80 00 06 86 8c 0c 0a",
    "T": "00 80/40 4c",
    "U": "~00 07 07 0c 8c 87 87 80",
    "V": "00 4c 80",
    "W": "00 3c 53 7c a0",
    "X": "00 8c/80 0c",
    "Y": "00 46 80/46 4c",
    "Z": "00 80 0c 8c",
    "[": "30 00 0e 3e",
    "\\": "00 6c",
    "]": "00 30 3e 0e",
    "^": "04 30 64",
    "_": "0e 7e",
    "`": "00 22",
    "a": "~05 04 64 67 67 6c/~68 38 38 08 0c 6c 69",
    "b": "00 0c/~34 64 6c 0c 04 34",
    "c": "~65 64 04 0c 6c 6b",
    "d": "60 6c/~34 64 6c 0c 04 34",
    "e": "~08 68 68 64 04 0c 6c 6b",
    "f": "~50 20 23 23 2c/04 54",
    "g": "~34 64 6c 0c 04 34/~64 6c 6c 6f 0f 0e",
    "h": "00 0c/~07 04 64 67 67 6c",
    "i": "04 0c/00",
    "j": "~34 3c 3c 3f 0f/30",
    "k": "00 0c/54 08/26 6c",
    "l": "~00 09 09 0c 3c",
    "m": "04 0c/~07 04 54 57 57 5c/~57 54 a4 a7 a7 ac",
    "n": "04 0c/~07 04 64 67 67 6c",
    "o": "~34 64 6c 0c 04 34",
    "p": "04 0f/~34 64 6c 0c 04 34",
    "q": "64 6f/~34 64 6c 0c 04 34",
    "r": "04 0c/~08 04 44 45",
    "s": "~65 64 04 08 68 6c 0c 0b",
    "t": "~21 29 29 2c 5c/04 54",
    "u": "~04 09 09 0c 6c 69/64 6c",
    "v": "04 3c 64",
    "w": "04 3c 56 7c a4",
    "x": "04 6c/64 0c",
    "y": "04 3b/64 1f",
    "z": "04 64 0c 6c",
    "{": "~40 20 26 07 28 2e 4e",
    "|": "00 0e",
    "}": "~00 20 26 47 28 2e 0e",
    "~": "~09 05 37 69 65",
}
CAP_HEIGHT = 12  # from the top of the capitals to the baseline
SPACE = 5  # width of a space
OVERSAMPLING = 4
TALL, WIDE = 1.7, 1.3  # how much the letters may be stretched to fill the surface


@dataclass(frozen=True)
class Lettering:
    """How the strokes are drawn; lengths in units of the grid.

    Attributes:
        pen: width of the strokes.
        gap: between the strokes of neighbouring characters.
        slant: shift to the right per unit of height.
        nib: width of a broad pen, held level: upright strokes are thick, level ones as thin as `pen`.
        hollow: width of the light inside of the strokes; where that is no pixel, they are thin instead.
        wobble: largest shift of a point, as by an unsteady hand, which also rounds the corners.
    """

    pen: float = 1.6
    gap: float = 3.0
    slant: float = 0.0
    nib: float = 0.0
    hollow: float = 0.0
    wobble: float = 0.0


_LETTERINGS = {
    "plain": Lettering(),
    "bold": Lettering(pen=2.7, gap=4.0),
    "italic": Lettering(slant=0.3, pen=1.4),
    "calligraphic": Lettering(pen=0.9, nib=2.5, gap=3.9, slant=0.12),
    "handwritten": Lettering(pen=1.4, gap=2.8, slant=0.1, wobble=1.2),
    "outlined": Lettering(pen=3.2, hollow=1.2, gap=4.3),
}
LETTERINGS: tuple[str, ...] = tuple(_LETTERINGS)


def text_mask(text: str, width: int, height: int, lettering: str = "plain") -> Image.Image:
    """The text on one or two lines, as large as fits: L, `width` × `height`, 255 where there is ink.

    Where two lines let it be larger than one, it is broken at a space. On a surface too small for any ink, there is
    none.
    """
    width, height = max(1, width), max(1, height)  # a tiny thing's board has no room within its margins
    how, canvas = _LETTERINGS[lettering], Image.new("L", (width * OVERSAMPLING, height * OVERSAMPLING), 0)
    lines, sx, sy = _fit(text, *canvas.size, lettering)
    if sx <= 0 or sy <= 0:
        return Image.new("L", (width, height), 0)
    tops, pitch = _rows(lines, lettering)
    y = canvas.height / 2 - (tops[0] + tops[1]) / 2 * sy
    for line in lines:
        x = (canvas.width - _length(line, lettering) * sx) / 2
        for char in line:
            left, _, right, _ = _outline(char, lettering)[1]
            mask, dx, dy = _glyph(char, lettering, sx, sy)
            canvas.paste(255, (round(x - left * sx) + dx, round(y) + dy), mask=mask)
            x += (right - left + how.gap) * sx
        y += pitch * sy
    return canvas.reduce(OVERSAMPLING)


def text_lines(text: str, width: int, height: int, lettering: str = "plain") -> tuple[str, ...]:
    """The lines that `text_mask` writes."""
    return _fit(text, width * OVERSAMPLING, height * OVERSAMPLING, lettering)[0]


def letter_scale(text: str, width: int, height: int) -> float:
    """Pixels per unit of the grid, across or down, whichever are fewer, in the lettering that needs the most room."""
    scales = (_fit(text, width * OVERSAMPLING, height * OVERSAMPLING, lettering)[1:] for lettering in LETTERINGS)
    return max(0.0, min(map(min, scales)) / OVERSAMPLING)


def _fit(text: str, width: int, height: int, lettering: str) -> tuple[tuple[str, ...], float, float]:
    """The lines that let the text be largest, and its pixels per unit across and down."""
    fits = [(lines, *_scales(lines, width, height, lettering)) for lines in _breaks(text)]
    return max(fits, key=lambda fit: fit[1] * fit[2])


def _breaks(text: str) -> list[tuple[str, ...]]:
    """The ways to write a text on one line, or on two that are broken at a space."""
    pairs = [(text[:i].strip(), text[i:].strip()) for i in range(1, len(text)) if text[i] == " "]
    return [(text,), *(pair for pair in pairs if all(pair))]


def _scales(lines: tuple[str, ...], width: int, height: int, lettering: str) -> tuple[float, float]:
    """The largest pixels per unit, across and down, at which the lines fit; 0 or less if they do not."""
    how, ((top, bottom), _) = _LETTERINGS[lettering], _rows(lines, lettering)

    def scale(room: int, length: float, pen: float) -> float:
        room -= 2  # for rounding
        return min(room / (length + pen), (room - OVERSAMPLING) / max(length, 1))  # no pen is thinner than one pixel

    sx = scale(width, max(_length(line, lettering) for line in lines), how.pen + how.nib)
    sy = scale(height, bottom - top, how.pen)
    return min(sx, WIDE * sy), min(sy, TALL * sx)


def _length(line: str, lettering: str) -> float:
    """From the first to the last point of a line, without the pen's width."""
    boxes = [_outline(char, lettering)[1] for char in line]
    return sum(right - left for left, _, right, _ in boxes) + _LETTERINGS[lettering].gap * (len(line) - 1)


def _rows(lines: tuple[str, ...], lettering: str) -> tuple[tuple[float, float], float]:
    """The highest and the lowest point of the lines, below the top of the first; and from one baseline to the next."""
    boxes = [[_outline(char, lettering)[1] for char in line] for line in lines]
    bottoms = [max(CAP_HEIGHT, *(bottom for *_, bottom in row)) for row in boxes]
    tops = [min(0.0, *(top for _, top, *_ in row)) for row in boxes]
    pitch = bottoms[0] - tops[-1] + _LETTERINGS[lettering].pen + 1.5
    return (tops[0], bottoms[-1] + pitch * (len(lines) - 1)), pitch


# --- characters -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=len(GLYPHS) * len(LETTERINGS))
def _outline(char: str, lettering: str) -> tuple[tuple[Stroke, ...], tuple[float, float, float, float]]:
    """The strokes of a character in a lettering, and the box around their points: left, top, right, bottom."""
    how = _LETTERINGS[lettering]
    strokes = tuple(_stroke(char, text, how) for text in GLYPHS[char].split("/") if text)
    if not strokes:
        return (), (0, 0, SPACE, CAP_HEIGHT)
    x, y = zip(*(point for stroke in strokes for point in stroke), strict=True)
    return strokes, (min(x), min(y), max(x), max(y))


def _stroke(char: str, text: str, how: Lettering) -> Stroke:
    """The points of a stroke, curves as short lines."""
    controls = [(int(pair[0], 36), int(pair[1], 36)) for pair in text.removeprefix("~").split()]
    rise = 0.6 * _noise(char)  # no hand keeps to the line
    controls = [
        (x + how.wobble * _noise(char, x, y, 0), y + how.wobble * (_noise(char, x, y, 1) + rise)) for x, y in controls
    ]
    if not text.startswith("~") and how.wobble:
        controls = _eased(controls)
    curved = text.startswith("~") or how.wobble
    points = _spline(controls) if curved and len(controls) > 2 else controls
    return tuple((x + how.slant * (CAP_HEIGHT - y), y) for x, y in points)


def _noise(*key: object) -> float:
    """A number from -1 to 1 that looks random."""
    value = 1
    for part in key:
        value = (value * 1103515245 + (ord(part) if isinstance(part, str) else int(part)) * 40503 + 12345) % 2**31
    value = (value ^ (value >> 13)) * 1597334677 % 2**31
    return (value >> 8) / 2**22 - 1


def _eased(points: list[Point]) -> list[Point]:
    """Control points of a spline along a polyline, whose corners it rounds a little."""
    eased = points[:1]
    for a, b, c in zip(points, points[1:], points[2:], strict=False):
        eased += [(b[0] + 0.25 * (q[0] - b[0]), b[1] + 0.25 * (q[1] - b[1])) for q in (a, b, c)]
    return eased + points[1:][-1:]


def _spline(controls: list[Point]) -> list[Point]:
    """Points of a quadratic B-spline."""
    start = controls[0]
    points = [start]
    for i, (x, y) in enumerate(controls[1:-1], 1):
        nx, ny = controls[i + 1]
        end = (nx, ny) if i == len(controls) - 2 else ((x + nx) / 2, (y + ny) / 2)
        for k in range(1, 7):
            t = k / 6
            a, b, c = (1 - t) * (1 - t), 2 * t * (1 - t), t * t
            points.append((a * start[0] + b * x + c * end[0], a * start[1] + b * y + c * end[1]))
        start = end
    return points


@lru_cache(maxsize=4096)
def _glyph(char: str, lettering: str, sx: float, sy: float) -> tuple[Image.Image, int, int]:
    """A character as an L mask at `sx` and `sy` pixels per unit, and where its corner is relative to (0, 0)."""
    how, (strokes, (left, top, right, bottom)) = _LETTERINGS[lettering], _outline(char, lettering)
    unit = min(sx, sy)
    pen, nib, hollow = max(OVERSAMPLING, round(how.pen * unit)), round(how.nib * unit / 2), round(how.hollow * unit)
    dx, dy = round(left * sx) - pen // 2 - nib, round(top * sy) - pen // 2
    size = round(right * sx) - dx + pen // 2 + nib + 1, round(bottom * sy) - dy + pen // 2 + 1
    mask = Image.new("L", size, 0)
    draw = ImageDraw.Draw(mask)
    lines = [[(round(x * sx) - dx, round(y * sy) - dy) for x, y in stroke] for stroke in strokes]
    if 0 < hollow < OVERSAMPLING:
        pen, hollow = max(OVERSAMPLING, round(0.5 * how.pen * unit)), 0
    for line in lines:
        _trace(draw, line, pen, nib, 255)
    if hollow:
        for line in lines:
            _trace(draw, line, hollow, 0, 0)
    return mask, dx, dy


def _trace(draw: ImageDraw.ImageDraw, points: list[tuple[int, int]], pen: int, nib: int, fill: int) -> None:
    """Draw a polyline with a round pen, or with a level nib that reaches `nib` to both sides."""
    for p, q in pairwise(points):
        draw.line((p, q), fill=fill, width=pen)
        if nib:
            draw.polygon(((p[0] - nib, p[1]), (p[0] + nib, p[1]), (q[0] + nib, q[1]), (q[0] - nib, q[1])), fill=fill)
    low, high = pen // 2, (pen - 1) // 2
    for x, y in points:
        wide = nib if len(points) == 1 else 0
        draw.ellipse((x - wide - low, y - low, x + wide + high, y + high), fill=fill)
