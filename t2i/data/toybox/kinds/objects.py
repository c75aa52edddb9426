"""Furniture, and things to carry, wear and write on."""

from __future__ import annotations

from math import sqrt

from t2i.data.toybox.kind import Kind
from t2i.data.toybox.sketch import DARK, LIGHT, METAL, Point, Sketch

WOOD = (122, 78, 48)
WOOD_DARK = (72, 46, 34)
VASE = (84, 128, 168)
BULB = (255, 240, 170)
GOLD, GOLD_DARK = (246, 204, 84), (196, 146, 44)  # ribbon
SCREEN, SCREEN_LIT = (58, 92, 140), (96, 136, 184)
BAND = (255, 84, 96)  # of the hat, in shadow
CORK = (196, 152, 104)
LABEL = (244, 232, 204)


def chair(p: Sketch) -> None:
    for x in (0.23, 0.67):  # far legs
        p.rect((x, 0.56, x + 0.10, 0.89), radius=0.02, tone=0.6)
    _posts(p, 0.28)  # of the base too, so that what sits on it in a hybrid makes the back of a chair
    p.top()
    _posts(p, 0.06)
    p.rect((0.12, 0.04, 0.88, 0.33), radius=0.12, tone=1.05)  # back rest
    p.rect((0.20, 0.09, 0.80, 0.28), radius=0.08, tone=1.25)
    p.rect((0.24, 0.38, 0.76, 0.45), radius=0.02, tone=0.9)  # rail
    p.base()
    for x in (0.10, 0.79):  # near legs
        p.rect((x, 0.58, x + 0.11, 0.96), radius=0.03, tone=0.9)
    p.polygon([(0.20, 0.49), (0.80, 0.49), (0.94, 0.60), (0.06, 0.60)], tone=1.3)  # seat
    p.rect((0.05, 0.58, 0.95, 0.68), radius=0.03, tone=0.95)  # its front


def _posts(p: Sketch, top: float) -> None:
    for x in (0.20, 0.69):
        p.rect((x, top, x + 0.11, 0.56), radius=0.04, tone=0.8)


def table(p: Sketch) -> None:
    for x in (0.22, 0.69):  # far legs
        p.rect((x, 0.42, x + 0.09, 0.86), radius=0.02, tone=0.55)
    for x in (0.08, 0.80):  # near legs
        p.rect((x, 0.42, x + 0.12, 0.96), radius=0.03, tone=0.9)
    p.rect((0.10, 0.38, 0.90, 0.54), radius=0.02, tone=0.75)  # apron
    p.top()
    p.polygon([(0.18, 0.20), (0.82, 0.20), (0.96, 0.37), (0.04, 0.37)], tone=1.3)  # table top
    p.rect((0.03, 0.35, 0.97, 0.45), radius=0.03, tone=1.0)


def lamp(p: Sketch) -> None:
    p.rect((0.44, 0.46, 0.56, 0.66), ink=METAL)  # stem
    p.ellipse((0.30, 0.58, 0.70, 0.93), tone=0.95, natural=VASE)  # vase
    p.rect((0.26, 0.87, 0.74, 0.96), radius=0.04, tone=0.7, natural=VASE)  # foot
    p.top()
    p.ellipse((0.39, 0.40, 0.61, 0.58), ink=BULB)
    p.polygon([(0.32, 0.05), (0.68, 0.05), (0.95, 0.48), (0.05, 0.48)], tone=1.05)  # shade
    p.polygon([(0.42, 0.10), (0.58, 0.10), (0.69, 0.44), (0.31, 0.44)], tone=1.25)  # light behind it
    p.rect((0.30, 0.04, 0.70, 0.11), radius=0.02, tone=0.75)
    p.rect((0.04, 0.44, 0.96, 0.51), radius=0.02, tone=0.75)


def street_sign(p: Sketch) -> None:
    p.rect((0.28, 0.90, 0.72, 0.96), radius=0.03, tone=0.7, natural=METAL)  # foot
    p.rect((0.44, 0.60, 0.56, 0.96), radius=0.02, tone=0.9, natural=METAL)  # post
    p.top()
    p.ellipse((0.42, 0.04, 0.58, 0.20), tone=1.0, natural=METAL)  # its cap
    p.rect((0.03, 0.13, 0.97, 0.68), radius=0.06, tone=0.9)  # board, whose margin shows around an inscription
    p.rect((0.08, 0.18, 0.92, 0.63), radius=0.03, ink=LIGHT)
    p.rect((0.105, 0.205, 0.895, 0.605), radius=0.015, tone=1.0)


def book(p: Sketch) -> None:
    p.line([(0.72, 0.84), (0.72, 0.925)], width=0.07, ink=GOLD)  # bookmark
    p.rect((0.14, 0.50, 0.91, 0.91), tone=0.6)  # back cover
    p.rect((0.18, 0.50, 0.885, 0.875), ink=LIGHT)  # pages
    p.line([(0.27, 0.825), (0.86, 0.825)], width=0.02, ink=METAL)
    p.rect((0.14, 0.50, 0.91, 0.77), tone=1.0)  # front cover
    p.rect((0.09, 0.50, 0.25, 0.91), tone=0.75)  # spine
    p.rect((0.31, 0.68, 0.83, 0.72), ink=GOLD)
    p.top()
    p.rect((0.14, 0.04, 0.91, 0.50), tone=1.0)
    p.rect((0.09, 0.04, 0.25, 0.50), tone=0.75)
    p.rect((0.31, 0.09, 0.83, 0.13), ink=GOLD)


def laptop(p: Sketch) -> None:
    p.polygon([(0.14, 0.62), (0.86, 0.62), (0.97, 0.88), (0.03, 0.88)], tone=1.15)  # keyboard
    p.rect((0.03, 0.86, 0.97, 0.94), radius=0.03, tone=0.8)
    p.polygon([(0.19, 0.655), (0.81, 0.655), (0.855, 0.77), (0.145, 0.77)], ink=DARK)
    for x in (0.26, 0.42, 0.58, 0.74):  # gaps between the keys
        p.line([(0.5 + 0.93 * (x - 0.5), 0.655), (x, 0.77)], width=0.02, tone=1.15)
    p.line([(0.17, 0.712), (0.83, 0.712)], width=0.02, tone=1.15)
    p.polygon([(0.38, 0.80), (0.62, 0.80), (0.635, 0.86), (0.365, 0.86)], tone=0.8)  # touchpad
    p.top()
    p.rect((0.08, 0.06, 0.92, 0.63), radius=0.05, tone=1.0)  # lid
    p.rect((0.155, 0.13, 0.845, 0.56), ink=SCREEN)
    p.polygon([(0.155, 0.13), (0.56, 0.13), (0.30, 0.56), (0.155, 0.56)], ink=SCREEN_LIT)
    p.rect((0.14, 0.60, 0.86, 0.66), tone=0.6)  # hinge


def hat(p: Sketch) -> None:
    p.ellipse((0.03, 0.68, 0.97, 0.95), tone=0.85)  # brim
    p.ellipse((0.07, 0.67, 0.93, 0.89), tone=1.2)
    p.top()
    p.polygon([(0.20, 0.14), (0.80, 0.14), (0.76, 0.75), (0.24, 0.75)], tone=0.55, natural=BAND)  # band
    p.ellipse((0.24, 0.67, 0.76, 0.83), tone=0.55, natural=BAND)
    p.polygon([(0.20, 0.14), (0.80, 0.14), (0.775, 0.55), (0.225, 0.55)], tone=1.0)  # cylinder
    p.ellipse((0.225, 0.48, 0.775, 0.63), tone=1.0)
    p.ellipse((0.20, 0.05, 0.80, 0.23), tone=1.35)


def umbrella(p: Sketch) -> None:
    p.rect((0.47, 0.40, 0.53, 0.86), ink=METAL)  # shaft
    p.arc((0.28, 0.74, 0.555, 0.96), 0, 180, width=0.085, natural=WOOD)  # handle
    p.rect((0.47, 0.66, 0.555, 0.86), radius=0.03, natural=WOOD)
    p.ellipse((0.28, 0.80, 0.365, 0.885), natural=WOOD)
    p.top()
    p.rect((0.465, 0.03, 0.535, 0.20), radius=0.03, ink=METAL)  # tip
    seams = (-1.0, -0.6, -0.2, 0.2, 0.6, 1.0)
    for a, b, tone in zip(seams, seams[1:], (0.75, 1.0, 1.25, 1.0, 0.75), strict=False):
        p.polygon(_panel(0.5 + 0.47 * a, 0.5 + 0.47 * b), tone)


def _panel(x0: float, x1: float) -> list[Point]:
    """A panel of an umbrella's canopy, from x0 to x1 at the bottom; its lower edge is an arch."""
    rise = [i / 12 for i in range(13)]
    left = [(0.5 + (x0 - 0.5) * sqrt(1 - s * s), 0.60 - 0.50 * s) for s in rise]
    right = [(0.5 + (x1 - 0.5) * sqrt(1 - s * s), 0.60 - 0.50 * s) for s in reversed(rise)]
    arch = [(x1 + (x0 - x1) * s, 0.60 - 0.24 * s * (1 - s)) for s in rise]
    return left + right + arch


def guitar(p: Sketch) -> None:
    for grow, tone in ((0.0, 0.7), (0.03, 1.1)):  # sides, front
        p.ellipse((0.13 + grow, 0.60 + grow, 0.87 - grow, 0.96 - grow), tone)
        p.ellipse((0.24 + grow, 0.39 + grow, 0.76 - grow, 0.67 - grow), tone)
        p.rect((0.30 + grow, 0.54, 0.70 - grow, 0.74), radius=0.02, tone=tone)
    p.ellipse((0.375, 0.525, 0.625, 0.735), tone=0.6)  # hole
    p.ellipse((0.40, 0.55, 0.60, 0.71), ink=DARK)
    p.rect((0.35, 0.82, 0.65, 0.875), radius=0.02, ink=DARK)  # bridge
    p.top()
    for y in (0.065, 0.13):  # pegs
        p.rect((0.31, y, 0.69, y + 0.045), radius=0.02, ink=METAL)
    p.polygon([(0.36, 0.04), (0.64, 0.04), (0.60, 0.21), (0.40, 0.21)], tone=0.9)  # head
    p.rect((0.425, 0.19, 0.575, 0.56), ink=WOOD_DARK)  # neck
    for y in (0.19, 0.27, 0.35, 0.43):  # frets
        p.rect((0.425, y, 0.575, y + 0.022), ink=LIGHT)


def key(p: Sketch) -> None:
    p.rect((0.43, 0.46, 0.57, 0.96), radius=0.04, tone=1.0)  # shaft
    p.rect((0.53, 0.66, 0.80, 0.77), radius=0.02, tone=0.9)  # bit
    p.rect((0.53, 0.82, 0.74, 0.93), radius=0.02, tone=0.9)
    p.top()
    p.arc((0.20, 0.04, 0.80, 0.54), 0, 360, width=0.15, tone=1.1)  # bow
    p.rect((0.36, 0.50, 0.64, 0.58), radius=0.03, tone=0.8)  # collar


def clock(p: Sketch) -> None:
    for s in (-1, 1):  # feet
        p.line([(0.5 + 0.20 * s, 0.80), (0.5 + 0.30 * s, 0.915)], width=0.09, tone=0.7)
    _half_clock(p, 0, 180)
    p.rect((0.475, 0.77, 0.525, 0.84), ink=DARK)  # six
    p.top()
    p.arc((0.40, 0.04, 0.60, 0.24), 180, 360, width=0.05, ink=METAL)  # handle
    for s in (-1, 1):  # bells
        p.line([(0.5 + 0.22 * s, 0.24), (0.5 + 0.15 * s, 0.36)], width=0.06, ink=METAL)
        x = 0.5 + 0.25 * s
        p.ellipse((x - 0.17, 0.05, x + 0.17, 0.33), tone=0.85)
    _half_clock(p, 180, 360)
    p.rect((0.475, 0.26, 0.525, 0.33), ink=DARK)  # twelve
    for x in (0.24, 0.70):  # nine and three
        p.rect((x, 0.525, x + 0.06, 0.565), ink=DARK)
    p.line([(0.50, 0.54), (0.36, 0.42)], width=0.055, ink=DARK)  # hands: ten past ten
    p.line([(0.50, 0.54), (0.67, 0.37)], width=0.045, ink=DARK)
    p.ellipse((0.455, 0.495, 0.545, 0.585), ink=DARK)


def _half_clock(p: Sketch, start: float, end: float) -> None:
    """Half of a clock's case and dial."""
    p.pie((0.12, 0.16, 0.88, 0.92), start, end, tone=1.0)
    p.pie((0.205, 0.245, 0.795, 0.835), start, end, tone=1.65, natural=LIGHT)


BALL = ((230, 60, 60), (250, 248, 242), (250, 206, 50), (250, 248, 242), (50, 110, 210))


def ball(p: Sketch) -> None:
    seams = (-1.0, -0.62, -0.22, 0.22, 0.62, 1.0)
    for half, part in ((1, p.base), (-1, p.top)):  # lower and upper half
        part()
        for a, b, tone, natural in zip(seams, seams[1:], (0.8, 1.3, 0.95, 1.3, 0.8), BALL, strict=False):
            rise = [i / 16 for i in range(17)]
            left = [(0.5 + 0.46 * a * sqrt(1 - s * s), 0.5 + half * 0.46 * s) for s in rise]
            right = [(0.5 + 0.46 * b * sqrt(1 - s * s), 0.5 + half * 0.46 * s) for s in reversed(rise)]
            p.polygon(left + right, tone, natural=natural)
    p.ellipse((0.36, 0.04, 0.64, 0.13), tone=1.3, natural=LIGHT)  # cap


def gift(p: Sketch) -> None:
    p.rect((0.10, 0.46, 0.90, 0.96), radius=0.03, tone=0.95)  # box
    p.rect((0.40, 0.46, 0.60, 0.96), ink=GOLD_DARK)  # ribbon
    p.rect((0.425, 0.46, 0.575, 0.96), ink=GOLD)
    p.top()
    p.rect((0.04, 0.34, 0.96, 0.52), radius=0.03, tone=1.15)  # lid
    p.rect((0.40, 0.34, 0.60, 0.52), ink=GOLD_DARK)
    p.rect((0.425, 0.34, 0.575, 0.52), ink=GOLD)
    for s in (-1, 1):  # loops of the bow
        for ink, grow in ((GOLD_DARK, 0.03), (GOLD, 0.0)):
            x = [0.5 + s * d for d in (0.04, 0.26, 0.34, 0.37, 0.30)]
            loop = [(x[0], 0.24), (x[1], 0.10), (x[2], 0.11), (x[3], 0.25), (x[4], 0.30), (x[0], 0.24)]
            p.line(loop, 0.09 + 2 * grow, ink=ink)
        p.polygon([(x[0], 0.24), (x[1], 0.12), (x[2], 0.13), (x[4], 0.28)], ink=GOLD_DARK)
    p.ellipse((0.38, 0.14, 0.62, 0.37), ink=GOLD_DARK)
    p.ellipse((0.415, 0.175, 0.585, 0.335), ink=GOLD)


def bottle(p: Sketch) -> None:
    p.rect((0.23, 0.42, 0.77, 0.96), radius=0.08, tone=1.0)  # belly
    p.ellipse((0.23, 0.34, 0.77, 0.68), tone=1.0)
    p.rect((0.23, 0.54, 0.77, 0.86), tone=0.65)
    p.rect((0.23, 0.57, 0.77, 0.83), tone=1.4, natural=LABEL)  # label
    p.rect((0.285, 0.41, 0.345, 0.51), radius=0.03, ink=LIGHT)  # glint
    p.top()
    p.rect((0.41, 0.04, 0.59, 0.16), radius=0.02, ink=CORK)
    p.polygon([(0.40, 0.14), (0.60, 0.14), (0.60, 0.32), (0.70, 0.42), (0.30, 0.42), (0.40, 0.32)], tone=1.0)  # neck
    p.rect((0.37, 0.12, 0.63, 0.20), radius=0.03, tone=0.8)


KINDS = (
    Kind(
        "chair",
        "chairs",
        chair,
        (184, 122, 70),
        (0.5, 0.19),
        waist=(0.5, 0.54, 0.48),
        neck=(0.5, 0.47, 0.56),
        seat=(0.5, 0.57),
    ),
    Kind(
        "table",
        "tables",
        table,
        (160, 104, 62),
        (0.5, 0.31),
        waist=(0.5, 0.43, 0.45),
        seat=(0.5, 0.31),
    ),
    Kind("lamp", "lamps", lamp, (252, 222, 140), (0.5, 0.28), waist=(0.5, 0.5, 0.4), grip=(0.5, 0.6)),
    Kind(
        "street sign",
        "street signs",
        street_sign,
        (24, 120, 82),
        (0.5, 0.405),
        waist=(0.5, 0.65, 0.4),
        grip=(0.5, 0.8),
        board=(0.09, 0.19, 0.91, 0.62),
    ),
    Kind(
        "book",
        "books",
        book,
        (150, 46, 60),
        (0.56, 0.44),
        waist=(0.5, 0.5, 0.55),
        seat=(0.5, 0.08),
        grip=(0.5, 0.8),
        board=(0.28, 0.16, 0.88, 0.65),
    ),
    Kind(
        "laptop",
        "laptops",
        laptop,
        (176, 182, 192),
        (0.5, 0.82),
        waist=(0.5, 0.63, 0.6),
        seat=(0.5, 0.8),
        grip=(0.5, 0.76),
        board=(0.155, 0.13, 0.845, 0.56),
    ),
    Kind(
        "hat",
        "hats",
        hat,
        (66, 60, 76),
        (0.5, 0.36),
        waist=(0.5, 0.74, 0.5),
        brim=(0.5, 0.87, 0.75),
        grip=(0.5, 0.84),
    ),
    Kind("umbrella", "umbrellas", umbrella, (40, 128, 190), (0.5, 0.36), waist=(0.5, 0.52, 0.4), grip=(0.5, 0.8)),
    Kind("guitar", "guitars", guitar, (216, 140, 66), (0.5, 0.78), waist=(0.5, 0.46, 0.36), grip=(0.5, 0.5)),
    Kind("key", "keys", key, (232, 186, 62), (0.5, 0.12), waist=(0.5, 0.5, 0.34), grip=(0.5, 0.3)),
    Kind("clock", "clocks", clock, (214, 62, 58), (0.5, 0.66), waist=(0.5, 0.54, 0.6), grip=(0.5, 0.86)),
    Kind("ball", "balls", ball, (236, 90, 70), (0.5, 0.5), waist=(0.5, 0.5, 0.7), back=(0.5, 0.06), grip=(0.5, 0.5)),
    Kind("gift", "gifts", gift, (150, 78, 172), (0.25, 0.72), waist=(0.5, 0.47, 0.6), grip=(0.5, 0.8)),
    Kind("bottle", "bottles", bottle, (52, 128, 82), (0.5, 0.7), waist=(0.5, 0.42, 0.42), grip=(0.5, 0.6)),
)
