"""Plants and symbols."""

from __future__ import annotations

import math

from t2i.data.toybox_v1.painter import LIGHT, METAL, Box, Painter, Point

BARK = (88, 70, 60)
BARK_LIT = (116, 94, 80)
POT = (112, 110, 116)


def _glow(p: Painter, box: Box) -> None:
    """A soft highlight: gradations too small to show as edges."""
    x0, y0, x1, y1 = box
    for i in range(8):
        dx, dy = i * (x1 - x0) / 17, i * (y1 - y0) / 17
        p.ellipse((x0 + dx, y0 + dy, x1 - dx, y1 - dy), tone=1.03 + 0.03 * i)


def tree(p: Painter) -> None:
    p.polygon([(0.40, 0.56), (0.60, 0.56), (0.59, 0.86), (0.68, 0.96), (0.32, 0.96), (0.41, 0.86)], ink=BARK)  # trunk
    p.polygon([(0.40, 0.56), (0.47, 0.56), (0.48, 0.88), (0.42, 0.95), (0.34, 0.95), (0.41, 0.86)], ink=BARK_LIT)
    for x, y in ((0.38, 0.57), (0.62, 0.57), (0.20, 0.50), (0.80, 0.50)):  # lower leaves
        p.ellipse((x - 0.16, y - 0.16, x + 0.16, y + 0.16), tone=0.78)
    for x, y in ((0.19, 0.34), (0.81, 0.34), (0.32, 0.20), (0.68, 0.20), (0.50, 0.17)):  # upper leaves
        p.ellipse((x - 0.14, y - 0.14, x + 0.14, y + 0.14), tone=1.0)
    p.ellipse((0.16, 0.12, 0.84, 0.54), tone=1.0)
    for x in (0.28, 0.50, 0.72):
        p.ellipse((x - 0.12, 0.38, x + 0.12, 0.61), tone=1.0)
    _glow(p, (0.20, 0.11, 0.54, 0.37))


def _arm(p: Painter, x: float, top: float, y: float, tone: float) -> None:
    """An arm from the stem at height y out to x, then up to `top`."""
    p.rect((min(x, 0.5) - 0.10, y - 0.10, max(x, 0.5) + 0.10, y + 0.10), radius=0.10, tone=tone)
    p.rect((x - 0.10, top, x + 0.10, y + 0.10), radius=0.10, tone=tone)


def cactus(p: Painter) -> None:
    _arm(p, 0.145, 0.30, 0.58, tone=0.85)  # arms
    _arm(p, 0.855, 0.16, 0.47, tone=0.8)
    p.rect((0.31, 0.03, 0.69, 0.90), radius=0.19, tone=1.0)  # stem
    p.rect((0.37, 0.18, 0.42, 0.78), radius=0.025, tone=1.2)  # ribs
    p.rect((0.58, 0.18, 0.63, 0.78), radius=0.025, tone=0.8)
    for x, y, dx in ((0.50, 0.14, 0.02), (0.50, 0.68, -0.02), (0.145, 0.42, -0.02), (0.855, 0.28, 0.02)):
        p.line([(x - dx, y - 0.03), (x + dx, y + 0.03)], width=0.03, ink=LIGHT)  # thorns
    p.polygon([(0.29, 0.82), (0.71, 0.82), (0.66, 0.965), (0.34, 0.965)], ink=POT)  # pot
    p.rect((0.25, 0.77, 0.75, 0.86), radius=0.02, ink=METAL)


def _star(x: float, y: float, tip: float, dip: float) -> list[Point]:
    turns = [math.pi * i / 5 for i in range(11)]
    radii = [dip if i % 2 else tip for i in range(11)]
    return [(x + r * math.sin(t), y - r * math.cos(t)) for r, t in zip(radii, turns, strict=True)]


def star(p: Painter) -> None:
    outline = _star(0.5, 0.54, 0.40, 0.235)
    p.polygon(outline, tone=1.0)
    p.line(outline, width=0.14, tone=1.0)
    _glow(p, (0.30, 0.34, 0.60, 0.58))


def heart(p: Painter) -> None:
    curve = []
    for i in range(64):
        t = math.tau * i / 64
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        curve.append((0.5 + 0.46 * math.sin(t) * abs(math.sin(t)) ** 1.6, 0.425 - y / 33.5))
    p.polygon(curve, tone=1.0)
    _glow(p, (0.10, 0.14, 0.46, 0.46))
