"""Vehicles, and what surfers ride."""

from __future__ import annotations

from t2i.data.toybox.kind import Kind
from t2i.data.toybox.kinds.outlines import bezier, halved, mirrored
from t2i.data.toybox.sketch import DARK, LIGHT, METAL, Point, Sketch

GLASS = (176, 196, 208)  # windows
MAST = (96, 66, 46)
SAIL = (246, 240, 226)
FLAME, FLAME_CORE = (250, 140, 40), (255, 222, 90)
ROCKET_RED = (214, 50, 50)
PLANE_BLUE = (48, 104, 190)
BAND = (240, 96, 60)


def bicycle(p: Sketch) -> None:
    for x in (0.255, 0.745):
        p.arc((x - 0.20, 0.56, x + 0.20, 0.96), 0, 360, 0.05, ink=DARK)  # tyre
        p.arc((x - 0.155, 0.605, x + 0.155, 0.915), 0, 360, 0.04, tone=1.25)  # rim
        for dx, dy in ((0.12, 0.0), (0.06, 0.104), (0.06, -0.104)):  # spokes
            p.line([(x - dx, 0.76 - dy), (x + dx, 0.76 + dy)], 0.016, ink=METAL)
        p.arc((x - 0.22, 0.54, x + 0.22, 0.98), 200, 340, 0.055, tone=0.8)  # mudguard
    p.line([(0.50, 0.76), (0.745, 0.76), (0.59, 0.46)], 0.06, tone=0.85)  # rear triangle
    p.ellipse((0.42, 0.68, 0.58, 0.84), ink=METAL)  # chain wheel
    p.line([(0.33, 0.44), (0.50, 0.76), (0.60, 0.42)], 0.085, tone=1.0)  # frame
    p.ellipse((0.455, 0.715, 0.545, 0.805), ink=DARK)
    p.line([(0.50, 0.76), (0.44, 0.88)], 0.035, ink=DARK)  # pedal
    p.line([(0.38, 0.89), (0.50, 0.89)], 0.045, ink=DARK)
    p.top()
    p.line([(0.255, 0.76), (0.34, 0.42)], 0.075, tone=1.1)  # fork
    p.line([(0.34, 0.45), (0.60, 0.45)], 0.085, tone=1.1)  # top tube
    p.line([(0.34, 0.44), (0.38, 0.27)], 0.08, tone=1.1)
    p.line([(0.60, 0.45), (0.63, 0.34)], 0.05, ink=METAL)
    p.rect((0.50, 0.27, 0.77, 0.35), radius=0.04, ink=DARK)  # saddle
    p.line([(0.38, 0.25), (0.28, 0.20), (0.19, 0.24)], 0.06, ink=METAL)  # handlebar
    p.line([(0.23, 0.22), (0.16, 0.30)], 0.075, ink=DARK)


def boat(p: Sketch) -> None:
    p.ellipse((0.05, 0.55, 0.95, 0.77), tone=1.25)  # rim
    p.ellipse((0.10, 0.58, 0.90, 0.74), tone=0.4)  # inside
    p.top()
    p.line([(0.47, 0.68), (0.47, 0.06)], 0.05, ink=MAST)
    p.polygon(
        [*bezier((0.52, 0.07), (0.72, 0.20), (0.84, 0.38), (0.86, 0.56)), (0.52, 0.56)],
        tone=1.2,
        natural=SAIL,
    )  # sails
    p.polygon(
        [*bezier((0.42, 0.15), (0.30, 0.26), (0.18, 0.40), (0.12, 0.56)), (0.42, 0.56)],
        tone=1.0,
        natural=SAIL,
    )
    p.base()
    side = bezier((0.05, 0.66), (0.08, 0.84), (0.18, 0.96), (0.32, 0.96))
    front = bezier((0.95, 0.66), (0.90, 0.80), (0.10, 0.80), (0.05, 0.66))
    p.polygon([*side, *mirrored(side), *front], tone=1.0)  # hull
    p.line(front, 0.045, tone=1.3)
    p.line(bezier((0.26, 0.89), (0.38, 0.91), (0.62, 0.91), (0.74, 0.89)), 0.03, tone=0.7)


def train(p: Sketch) -> None:
    p.polygon([(0.04, 0.93), (0.18, 0.68), (0.26, 0.93)], tone=0.6)  # cowcatcher
    p.rect((0.12, 0.68, 0.95, 0.82), radius=0.03, tone=0.65)  # chassis
    p.rect((0.12, 0.50, 0.92, 0.73), radius=0.06, tone=1.05)
    p.top()
    for box in ((0.06, 0.03, 0.28, 0.16), (0.20, 0.06, 0.38, 0.20)):
        p.ellipse(box, ink=LIGHT)  # smoke
    p.rect((0.20, 0.26, 0.30, 0.46), tone=0.75)  # chimney
    p.polygon([(0.15, 0.21), (0.35, 0.21), (0.30, 0.31), (0.20, 0.31)], tone=0.75)
    p.pie((0.39, 0.31, 0.55, 0.57), 180, 360, tone=1.25)  # dome
    p.rect((0.12, 0.41, 0.72, 0.73), radius=0.10, tone=1.05)  # boiler
    p.rect((0.09, 0.46, 0.17, 0.68), radius=0.03, tone=0.7)  # smokebox
    p.rect((0.33, 0.41, 0.38, 0.73), tone=0.75)  # hoops
    p.rect((0.52, 0.41, 0.57, 0.73), tone=0.75)
    p.rect((0.62, 0.20, 0.92, 0.76), radius=0.02, tone=1.0)  # cab
    p.rect((0.57, 0.14, 0.96, 0.23), radius=0.04, tone=0.65)  # roof
    p.rect((0.68, 0.29, 0.86, 0.49), radius=0.02, ink=DARK)  # window
    p.rect((0.705, 0.315, 0.835, 0.465), ink=GLASS)
    p.base()
    for x, r in ((0.24, 0.10), (0.46, 0.10), (0.75, 0.145)):  # wheels
        p.ellipse((x - r, 0.96 - 2 * r, x + r, 0.96), ink=DARK)
        p.ellipse((x - 0.6 * r, 0.96 - 1.6 * r, x + 0.6 * r, 0.96 - 0.4 * r), ink=METAL)
        p.ellipse((x - 0.25 * r, 0.96 - 1.25 * r, x + 0.25 * r, 0.96 - 0.75 * r), ink=DARK)
    p.line([(0.46, 0.86), (0.75, 0.83)], 0.035, ink=METAL)  # rod


def aeroplane(p: Sketch) -> None:
    p.top()
    p.polygon([(0.40, 0.50), (0.58, 0.50), (0.78, 0.19), (0.68, 0.19)], tone=0.75, natural=PLANE_BLUE)  # far wing
    p.base()
    p.polygon([(0.70, 0.52), (0.86, 0.14), (0.97, 0.14), (0.95, 0.56)], tone=0.85, natural=PLANE_BLUE)  # fin
    hull = [
        *bezier((0.04, 0.58), (0.06, 0.44), (0.26, 0.42), (0.50, 0.43)),
        *bezier((0.50, 0.43), (0.80, 0.44), (0.94, 0.46), (0.96, 0.50)),
        *bezier((0.96, 0.50), (0.88, 0.60), (0.70, 0.72), (0.30, 0.73)),
        *bezier((0.30, 0.73), (0.14, 0.73), (0.04, 0.68), (0.04, 0.58)),
    ]
    p.polygon(hull, tone=1.05)
    p.polygon([(0.74, 0.54), (0.90, 0.50), (0.97, 0.66), (0.89, 0.66)], tone=0.7, natural=PLANE_BLUE)  # tailplane
    p.top()
    front = [point for point in hull if point[0] < 0.52]
    p.polygon(front, tone=1.05)
    p.ellipse((0.42, 0.435, 0.68, 0.70), tone=1.05)
    p.polygon([(0.08, 0.54), (0.12, 0.47), (0.21, 0.455), (0.23, 0.54)], ink=DARK)  # cockpit
    for x in (0.31, 0.43):
        p.ellipse((x, 0.485, x + 0.075, 0.56), ink=DARK)  # windows
    p.base()
    for x in (0.55, 0.67):
        p.ellipse((x, 0.485, x + 0.075, 0.56), ink=DARK)
    p.polygon([(0.32, 0.63), (0.56, 0.63), (0.84, 0.94), (0.68, 0.96)], tone=0.95, natural=PLANE_BLUE)  # near wing
    p.rect((0.36, 0.76, 0.56, 0.88), radius=0.06, tone=0.65)  # engine


def _aboard(across: float, along: float) -> Point:
    """A point of the rocket in the unit square: it flies to the upper left, 4 up for 3 to the left."""
    return 0.42 + 0.74 * across - 0.555 * along, 0.44 - 0.555 * across - 0.74 * along


def _hull(low: float, high: float) -> list[Point]:
    """The outline of the rocket's hull between two heights."""
    side = []
    for i in range(13):
        h = low + (high - low) * i / 12
        side.append((0.20 * (1 - (h / 0.54) ** 2) if h > 0 else 0.20 - 0.06 * (h / 0.34) ** 2, h))
    return [_aboard(a, h) for a, h in side] + [_aboard(-a, h) for a, h in reversed(side)]


def rocket(p: Sketch) -> None:
    for size, ink in ((1.0, FLAME), (0.6, FLAME_CORE)):
        w = 0.13 * size
        flame = [(w, -0.30), (1.2 * w, -0.40), (0.0, -0.38 - 0.24 * size), (-1.2 * w, -0.40), (-w, -0.30)]
        p.polygon([_aboard(a, h) for a, h in flame], ink=ink)
    for s in (-1, 1):  # fins
        fin = [(0.15, -0.02), (0.35, -0.20), (0.36, -0.41), (0.12, -0.30)]
        p.polygon([_aboard(s * a, h) for a, h in fin], tone=0.7, natural=ROCKET_RED)
    p.polygon(_hull(-0.34, 0.08), tone=1.05)
    p.line([_aboard(0.12, -0.30), _aboard(-0.12, -0.30)], 0.06, tone=0.7)  # nozzle
    fin = [(0.035, -0.06), (0.035, -0.42), (-0.035, -0.42), (-0.035, -0.06)]
    p.polygon([_aboard(a, h) for a, h in fin], tone=0.6, natural=ROCKET_RED)
    p.top()
    p.polygon(_hull(-0.04, 0.54), tone=1.05)
    p.polygon(_hull(0.30, 0.54), tone=0.7, natural=ROCKET_RED)  # nose
    x, y = _aboard(0.0, 0.14)
    p.ellipse((x - 0.12, y - 0.12, x + 0.12, y + 0.12), ink=METAL)  # porthole
    p.ellipse((x - 0.085, y - 0.085, x + 0.085, y + 0.085), ink=(52, 84, 120))
    p.ellipse((x - 0.06, y - 0.06, x - 0.005, y - 0.005), ink=LIGHT)


def surfboard(p: Sketch) -> None:
    upper = bezier((0.04, 0.62), (0.30, 0.54), (0.92, 0.58), (0.96, 0.79))
    lower = bezier((0.04, 0.62), (0.18, 0.80), (0.80, 1.02), (0.96, 0.81))
    deck = [*upper, *reversed(lower)]
    p.polygon([(0.68, 0.88), (0.82, 0.86), (0.87, 0.96), (0.80, 0.96)], ink=DARK)  # fin
    p.polygon([(x, y + 0.035) for x, y in deck], tone=0.55)  # edge
    p.polygon(deck, tone=1.0)
    p.top()
    p.polygon(deck, tone=1.0)
    for i in (5, 14):  # bands
        p.polygon([*upper[i : i + 3], *reversed(lower[i : i + 3])], tone=0.7, natural=BAND)
    middle = [((ax + bx) / 2, (ay + by) / 2) for (ax, ay), (bx, by) in zip(upper, lower, strict=True)]
    p.line(middle[2:-2], 0.03, ink=LIGHT)


def wave(p: Sketch) -> None:
    water = [
        (0.96, 0.96),
        *bezier((0.96, 0.84), (0.82, 0.72), (0.84, 0.28), (0.48, 0.26)),
        *bezier((0.48, 0.26), (0.24, 0.24), (0.10, 0.40), (0.10, 0.60)),
        *bezier((0.10, 0.60), (0.18, 0.48), (0.34, 0.46), (0.40, 0.56)),
        *bezier((0.40, 0.56), (0.46, 0.70), (0.34, 0.84), (0.04, 0.82)),
        (0.04, 0.96),
    ]
    halved(p, water, 0.68)
    p.base()
    p.line(bezier((0.80, 0.68), (0.80, 0.82), (0.66, 0.90), (0.48, 0.88)), 0.045, tone=0.7)
    for x, y, r in ((0.09, 0.86, 0.05), (0.18, 0.84, 0.06), (0.28, 0.85, 0.05), (0.10, 0.91, 0.05)):
        p.ellipse((x - r, y - r, x + r, y + r), ink=LIGHT)
    p.top()
    p.line(bezier((0.50, 0.40), (0.66, 0.44), (0.70, 0.64), (0.62, 0.78)), 0.045, tone=1.3)
    p.line(bezier((0.28, 0.40), (0.44, 0.34), (0.56, 0.50), (0.50, 0.68)), 0.045, tone=1.3)
    for x, y, r in (  # foam of the crest
        (0.12, 0.58, 0.07),
        (0.13, 0.48, 0.08),
        (0.20, 0.38, 0.09),
        (0.30, 0.31, 0.09),
        (0.42, 0.27, 0.08),
        (0.54, 0.28, 0.06),
        (0.20, 0.52, 0.06),
    ):
        p.ellipse((x - r, y - r, x + r, y + r), ink=LIGHT)


KINDS = (
    Kind(
        "bicycle",
        "bicycles",
        bicycle,
        (30, 150, 140),
        (0.50, 0.60),
        waist=(0.5, 0.46, 0.5),
        back=(0.62, 0.34),
    ),
    Kind(
        "boat",
        "boats",
        boat,
        (176, 92, 50),
        (0.50, 0.86),
        waist=(0.5, 0.66, 0.5),
        seat=(0.5, 0.76),
        rim=(0.5, 0.66, 0.84),
        board=(0.18, 0.775, 0.82, 0.925),
    ),
    Kind(
        "train",
        "trains",
        train,
        (46, 130, 84),
        (0.77, 0.62),
        waist=(0.52, 0.64, 0.45),
        back=(0.74, 0.18),
    ),
    Kind(
        "aeroplane",
        "aeroplanes",
        aeroplane,
        (230, 234, 240),
        (0.34, 0.58),
        waist=(0.30, 0.62, 0.4),
        back=(0.40, 0.50),
    ),
    Kind(
        "rocket",
        "rockets",
        rocket,
        (232, 234, 240),
        (0.43, 0.46),
        waist=(0.42, 0.44, 0.32),
        back=(0.67, 0.46),
    ),
    Kind(
        "surfboard",
        "surfboards",
        surfboard,
        (64, 186, 190),
        (0.52, 0.73),
        waist=(0.5, 0.76, 0.45),
        back=(0.52, 0.77),
    ),
    Kind("wave", "waves", wave, (30, 124, 186), (0.64, 0.60), waist=(0.55, 0.68, 0.45), back=(0.58, 0.34)),
)
