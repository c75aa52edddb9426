"""The ten textures, each painted by one function.

*Patterns* `f(size) -> RGB image` need only the size. *Fruits* `f(mask, heart) -> RGB image` follow the silhouette in
`mask`. All are painted without anti-aliasing at a multiple of the final size; the caller downsamples them. Features are
at least a sixth of the box: in a 64-pixel image an object of a pair is 28 pixels wide and its stripes must be visible.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

Heart = tuple[float, float]
RGB = tuple[int, int, int]


class _Canvas:
    """A square image with coordinates in units of its side, so that a pattern works at every size."""

    def __init__(self, size: int, ground: RGB):
        self.size = size
        self.image = Image.new("RGB", (size, size), ground)
        self._draw = ImageDraw.Draw(self.image)

    def rect(self, x0: float, y0: float, x1: float, y1: float, ink: RGB) -> None:
        s = self.size
        self._draw.rectangle((x0 * s, y0 * s, x1 * s - 1, y1 * s - 1), fill=ink)

    def disc(self, x: float, y: float, rx: float, ink: RGB, ry: float | None = None) -> None:
        s, ry = self.size, rx if ry is None else ry
        self._draw.ellipse(((x - rx) * s, (y - ry) * s, (x + rx) * s, (y + ry) * s), fill=ink)

    def arc(self, x: float, y: float, r: float, start: float, end: float, width: float, ink: RGB) -> None:
        s = self.size
        box = ((x - r) * s, (y - r) * s, (x + r) * s, (y + r) * s)
        self._draw.arc(box, start, end, fill=ink, width=max(1, round(width * s)))

    def polygon(self, points: list[tuple[float, float]], ink: RGB) -> None:
        self._draw.polygon([(x * self.size, y * self.size) for x, y in points], fill=ink)

    def line(self, points: list[tuple[float, float]], width: float, ink: RGB) -> None:
        s = self.size
        self._draw.line([(x * s, y * s) for x, y in points], fill=ink, width=max(1, round(width * s)), joint="curve")


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates x (1, size) and y (size, 1) of the pixels' centres in the unit square."""
    axis = (np.arange(size) + 0.5) / size
    return axis[None, :], axis[:, None]


# --- patterns -------------------------------------------------------------------------------------------------------


def zebra(size: int) -> Image.Image:
    """Slanted, wavy black stripes on white."""
    x, y = _grid(size)
    phase = 4.6 * y + 1.5 * x + 0.34 * np.sin(2 * math.pi * (1.3 * x + 0.4 * y)) + 0.2
    black = (phase % 1.0 < 0.43)[..., None]
    return Image.fromarray(np.where(black, (24, 22, 26), (250, 250, 248)).astype(np.uint8))


def leopard(size: int) -> Image.Image:
    """Tan fur with broken dark rings around darker centres."""
    c = _Canvas(size, (232, 176, 84))
    places = random.Random(3)  # only .random(), whose stream Python guarantees across versions
    for row in range(-1, 6):
        for column in range(-1, 6):
            x = 0.225 * (column + 0.5 * (row % 2)) + 0.05 + 0.04 * (places.random() - 0.5)
            y = 0.2 * row + 0.1 + 0.04 * (places.random() - 0.5)
            turn = 360 * places.random()
            c.disc(x, y, 0.052, (178, 108, 40))
            c.arc(x, y, 0.088, turn, turn + 150, 0.046, (58, 32, 18))
            c.arc(x, y, 0.088, turn + 190, turn + 310, 0.046, (58, 32, 18))
    return c.image


def wood(size: int) -> Image.Image:
    """Four upright planks with dark seams, wavy grain and knots."""
    c = _Canvas(size, (200, 142, 80))
    planks = [(214, 158, 92), (190, 130, 70), (222, 170, 106), (198, 138, 76)]
    for i, tone in enumerate(planks):
        x0 = i / 4
        c.rect(x0, 0, x0 + 0.25, 1, tone)
        grain = tuple(round(v * 0.76) for v in tone)
        for j, at in enumerate((0.07, 0.16)):
            bend = 0.022 * (-1) ** (i + j)
            wave = [(x0 + at + bend * math.sin(7 * y + 2 * i), y) for y in np.linspace(0, 1, 24).tolist()]
            c.line(wave, 0.02, grain)
        c.rect(x0 - 0.012, 0, x0 + 0.012, 1, (104, 62, 30))
    for x, y in ((0.375, 0.34), (0.125, 0.72), (0.875, 0.58)):
        c.disc(x, y, 0.062, (150, 94, 46), ry=0.09)
        c.disc(x, y, 0.032, (98, 56, 26), ry=0.05)
    return c.image


def brick(size: int) -> Image.Image:
    """Five courses of red-brown bricks in pale mortar."""
    c = _Canvas(size, (226, 216, 202))
    tones = [(186, 78, 54), (164, 64, 46), (200, 92, 64), (174, 70, 48)]
    height, width, joint = 1 / 5, 1 / 3, 0.034
    for row in range(5):
        for column in range(-1, 4):
            x, y = (column + 0.5 * (row % 2)) * width, row * height
            ink = tones[(row * 3 + column * 2 + row // 2) % 4]
            c.rect(x + joint / 2, y + joint / 2, x + width - joint / 2, y + height - joint / 2, ink)
    return c.image


def polka_dot(size: int) -> Image.Image:
    """Staggered white dots on teal."""
    c = _Canvas(size, (0, 148, 150))
    for row in range(7):
        for column in range(-1, 5):
            c.disc(0.3 * (column + 0.5 * (row % 2)) + 0.05, 0.19 * row + 0.02, 0.078, (252, 252, 250))
    return c.image


def starry_night(size: int) -> Image.Image:
    """Deep blue with pale swirls, golden stars in halos, a crescent moon."""
    c = _Canvas(size, (24, 34, 104))
    for x, y, r in ((0.38, 0.36, 0.17), (0.74, 0.68, 0.16), (0.16, 0.74, 0.13)):
        for k, ink in ((1.0, (64, 116, 204)), (0.5, (138, 186, 236))):  # two turns of a swirl
            c.arc(x, y, r * k, 160 - 120 * k, 430 - 120 * k, 0.05, ink)
    for x, y, r in ((0.14, 0.14, 0.1), (0.62, 0.42, 0.1), (0.46, 0.86, 0.1), (0.9, 0.44, 0.085), (0.42, 0.6, 0.085),
                    (0.08, 0.5, 0.085), (0.93, 0.9, 0.085), (0.5, 0.1, 0.085)):  # fmt: skip
        c.disc(x, y, r * 1.05, (70, 96, 170))
        points = []
        for k in range(10):
            radius, angle = r * (1.1 if k % 2 == 0 else 0.5), math.pi * (k / 5 - 0.5)
            points.append((x + radius * math.cos(angle), y + radius * math.sin(angle)))
        c.polygon(points, (255, 222, 60))
    c.disc(0.78, 0.18, 0.115, (255, 226, 90))
    c.disc(0.83, 0.15, 0.095, (24, 34, 104))
    return c.image


def rainbow(size: int) -> Image.Image:
    """Six slightly curved bands from red to violet."""
    inks = np.array([(232, 40, 44), (255, 142, 26), (255, 224, 40), (48, 178, 74), (36, 110, 226), (142, 58, 186)])
    x, y = _grid(size)
    depth = y + 0.34 * (x - 0.5) ** 2 - 0.02
    return Image.fromarray(inks[np.clip(depth * 6, 0, 5).astype(int)].astype(np.uint8))


# --- cut fruits -----------------------------------------------------------------------------------------------------


def _inside(mask: Image.Image, depth: float) -> Image.Image:
    """The part of `mask` (L) deeper than `depth` (in units of the side) inside its outline, as an L mask.

    A mask blurred with a box of radius r rises linearly across a straight edge, to 1/2 + depth / 2r at that depth.
    Blurring and thresholding therefore erodes the mask, at a cost independent of the depth.
    """
    size = mask.width
    radius = 1.4 * depth * size
    pad = math.ceil(radius) + 1  # empty beyond the image: otherwise a body touching its edge would have no rind there
    blurred = ImageOps.expand(mask, pad).filter(ImageFilter.BoxBlur(radius))
    level = 255 * (0.5 + 0.5 / 1.4)
    return blurred.crop((pad, pad, pad + size, pad + size)).point(lambda v: 255 if v > level else 0)


def _layered(mask: Image.Image, rind: RGB, rings: list[tuple[float, RGB]]) -> Image.Image:
    """The rind, then one ring for each depth and colour."""
    image = Image.new("RGB", mask.size, rind)
    for depth, ink in rings:
        image.paste(ink, mask=_inside(mask, depth))
    return image


def avocado(mask: Image.Image, heart: Heart) -> Image.Image:
    """Dark bumpy rind, green ring, pale flesh, a big shiny brown pit at `heart`."""
    c = _Canvas(mask.width, (44, 62, 28))
    for row in range(17):  # bumps, visible only on the rind
        for column in range(17):
            c.disc((column + 0.5 * (row % 2)) / 16, row / 16, 0.016, (74, 92, 40))
    for depth, ink in ((0.034, (136, 178, 62)), (0.07, (206, 218, 116)), (0.105, (238, 236, 164))):
        c.image.paste(ink, mask=_inside(mask, depth))
    x, y = heart
    c.disc(x, y, 0.172, (190, 196, 96))
    c.disc(x, y, 0.15, (70, 36, 16))
    c.disc(x - 0.01, y - 0.012, 0.125, (116, 62, 26))
    c.disc(x - 0.05, y - 0.055, 0.04, (226, 184, 136))
    return c.image


def watermelon(mask: Image.Image, heart: Heart) -> Image.Image:
    """Striped green rind, a thin white line, red flesh with black seeds."""
    c = _Canvas(mask.width, (22, 98, 42))
    x0, y0 = heart
    for k in range(16):  # light rays from `heart`, visible as stripes on the rind
        ends = (2 * math.pi * (k + h) / 16 for h in (-0.22, 0.22))
        ray = [(x0, y0), *((x0 + 2 * math.cos(t), y0 + 2 * math.sin(t)) for t in ends)]
        c.polygon(ray, (120, 196, 84))
    flesh = _Canvas(mask.width, (238, 58, 72))
    for row in range(6):
        for column in range(-1, 6):
            flesh.disc(0.22 * (column + 0.5 * (row % 2)) + 0.06, 0.19 * row + 0.06, 0.03, (34, 20, 20), ry=0.048)
    c.image.paste((240, 246, 224), mask=_inside(mask, 0.062))
    c.image.paste(flesh.image, mask=_inside(mask, 0.09))
    return c.image


def orange(mask: Image.Image, heart: Heart) -> Image.Image:
    """Orange peel, white pith, segments that radiate from `heart`."""
    image = _layered(mask, (246, 122, 8), [(0.042, (255, 244, 222))])
    flesh = _Canvas(mask.width, (255, 160, 30))
    x, y = heart
    for k in range(10):  # darker towards the rim of each segment
        a, b = (2 * math.pi * (k + h) / 10 for h in (0.22, 0.78))
        wedge = [(x + r * math.cos(t), y + r * math.sin(t)) for r, t in ((0.12, (a + b) / 2), (1.5, a), (1.5, b))]
        flesh.polygon(wedge, (255, 138, 10))
    for k in range(10):
        t = 2 * math.pi * k / 10
        flesh.line([(x, y), (x + 1.5 * math.cos(t), y + 1.5 * math.sin(t))], 0.03, (255, 240, 206))
    flesh.disc(x, y, 0.05, (255, 244, 222))
    image.paste(flesh.image, mask=_inside(mask, 0.075))
    return image


FRUITS: dict[str, Callable[[Image.Image, Heart], Image.Image]] = {
    "avocado": avocado,
    "watermelon": watermelon,
    "orange": orange,
}
PATTERNS: dict[str, Callable[[int], Image.Image]] = {
    "zebra": zebra,
    "leopard": leopard,
    "wood": wood,
    "brick": brick,
    "polka dot": polka_dot,
    "starry night": starry_night,
    "rainbow": rainbow,
}
