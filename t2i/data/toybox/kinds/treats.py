"""Fruit, vegetables, sweets and snacks."""

from __future__ import annotations

from t2i.data.toybox.kind import Kind
from t2i.data.toybox.kinds.outlines import bezier, halved, mirrored, oval
from t2i.data.toybox.sketch import LIGHT, METAL, Sketch

LEAF, LEAF_DARK = (76, 160, 70), (46, 112, 54)
TIP = (92, 66, 40)
SEED = (252, 226, 140)
ICING = (255, 242, 226)
WICK_FLAME = (255, 196, 50)
CANDLES = ((224, 60, 70), (60, 130, 220), (70, 170, 90))
WAFER, WAFER_DARK = (226, 170, 98), (176, 116, 58)
CHERRY = (206, 30, 50)
CHEESE = (252, 208, 90)
SALAMI, SALAMI_DARK = (206, 60, 46), (150, 36, 34)
BASIL = (60, 130, 60)


def banana(p: Sketch) -> None:
    outer = bezier((0.04, 0.42), (0.08, 1.10), (0.86, 1.24), (0.94, 0.18))
    ridge = bezier((0.07, 0.40), (0.20, 0.94), (0.72, 1.02), (0.89, 0.18))
    inner = bezier((0.12, 0.34), (0.28, 0.74), (0.70, 0.70), (0.82, 0.18))
    p.top()
    p.polygon([(0.82, 0.22), (0.84, 0.05), (0.93, 0.05), (0.94, 0.22)], tone=0.8)  # stem
    p.rect((0.825, 0.04, 0.945, 0.11), radius=0.02, ink=TIP)
    halved(p, [*outer, *reversed(inner)], 0.68, 1.1, overlap=0.12)
    halved(p, [*outer, *reversed(ridge)], 0.68, 0.8, overlap=0.12)
    p.polygon([(0.035, 0.44), (0.045, 0.36), (0.12, 0.32), (0.155, 0.42), (0.05, 0.50)], ink=TIP)


def pineapple(p: Sketch) -> None:
    p.top()
    for s in (-1, 1):
        for x, y, ink in ((0.34, 0.22, LEAF_DARK), (0.24, 0.10, LEAF), (0.10, 0.05, LEAF_DARK)):
            p.polygon([(0.5 - s * 0.02, 0.42), (0.5 + s * x, y), (0.5 + s * 0.14, 0.42)], ink=ink)
    p.polygon([(0.42, 0.42), (0.50, 0.03), (0.58, 0.42)], ink=LEAF)
    halved(p, oval((0.18, 0.33, 0.82, 0.97)), 0.64, 0.7)
    for half, rows in ((p.base, range(3, 7)), (p.top, range(4))):  # scales; the row at the waist belongs to both
        half()
        for row in rows:
            y = 0.40 + 0.085 * row
            for column in range(-3, 4):
                x = 0.5 + 0.145 * column + 0.0725 * (row % 2)
                if ((x - 0.5) / 0.32) ** 2 + ((y - 0.65) / 0.32) ** 2 < 0.76:
                    p.polygon([(x - 0.062, y), (x, y - 0.073), (x + 0.062, y), (x, y + 0.073)], tone=1.15)


def strawberry(p: Sketch) -> None:
    side = [
        *bezier((0.50, 0.22), (0.72, 0.10), (1.02, 0.22), (0.94, 0.48)),
        *bezier((0.94, 0.48), (0.88, 0.72), (0.66, 0.90), (0.50, 0.965)),
    ]
    halved(p, [*side, *mirrored(side)], 0.56)
    for x, y in ((0.50, 0.46), (0.28, 0.42), (0.72, 0.42), (0.16, 0.52), (0.84, 0.52), (0.39, 0.60), (0.61, 0.60)):
        _seed(p, x, y)
    p.base()
    for x, y in ((0.27, 0.66), (0.73, 0.66), (0.50, 0.74), (0.40, 0.84), (0.61, 0.84)):
        _seed(p, x, y)
    p.top()
    p.line([(0.50, 0.20), (0.50, 0.07)], 0.07, ink=LEAF_DARK)  # stem
    p.polygon(
        [
            (0.50, 0.11),
            (0.66, 0.10),
            (0.86, 0.16),
            (0.74, 0.22),
            (0.72, 0.36),
            (0.60, 0.28),
            (0.50, 0.40),
            (0.40, 0.28),
            (0.28, 0.36),
            (0.26, 0.22),
            (0.14, 0.16),
            (0.34, 0.10),
        ],
        ink=LEAF,
    )


def _seed(p: Sketch, x: float, y: float) -> None:
    p.ellipse((x - 0.026, y - 0.036, x + 0.026, y + 0.036), ink=SEED)


def carrot(p: Sketch) -> None:
    p.top()
    for s in (-1, 1):  # leaves
        x = [0.5 + s * d for d in (0.0, 0.06, 0.12, 0.18, 0.30)]
        p.tube(((x[0], 0.34), (x[1], 0.24), (x[3], 0.20), (x[4], 0.16)), 0.08, 0.13, ink=LEAF_DARK)
        p.tube(((x[0], 0.34), (x[1], 0.24), (x[2], 0.16), (x[3], 0.09)), 0.08, 0.10, ink=LEAF)
    p.tube(((0.50, 0.34), (0.50, 0.26), (0.50, 0.16), (0.50, 0.09)), 0.09, 0.11, ink=LEAF_DARK)
    side = [
        *bezier((0.50, 0.27), (0.68, 0.24), (0.78, 0.30), (0.76, 0.42)),
        *bezier((0.76, 0.42), (0.72, 0.64), (0.60, 0.88), (0.50, 0.97)),
    ]
    halved(p, [*side, *mirrored(side)], 0.56)
    p.base()
    p.line([(0.32, 0.64), (0.46, 0.65)], 0.04, tone=0.7)  # grooves
    p.line([(0.62, 0.74), (0.52, 0.75)], 0.04, tone=0.7)
    p.top()
    p.line([(0.25, 0.40), (0.40, 0.42)], 0.04, tone=0.7)
    p.line([(0.73, 0.50), (0.56, 0.52)], 0.04, tone=0.7)


def cake(p: Sketch) -> None:
    p.ellipse((0.03, 0.82, 0.97, 0.97), ink=METAL)  # plate
    p.ellipse((0.05, 0.81, 0.95, 0.94), ink=LIGHT)
    p.ellipse((0.10, 0.78, 0.90, 0.92), tone=0.95)
    halved(p, [(0.10, 0.40), (0.90, 0.40), (0.90, 0.85), (0.10, 0.85)], 0.64, 0.95)  # side
    p.ellipse((0.10, 0.30, 0.90, 0.54), tone=1.1, natural=ICING)
    for x, y in ((0.10, 0.54), (0.26, 0.58), (0.42, 0.55), (0.58, 0.60), (0.74, 0.55)):  # drips
        p.rect((x, 0.42, x + 0.16, y), radius=0.07, tone=1.1, natural=ICING)
    p.ellipse((0.16, 0.325, 0.84, 0.495), tone=1.3, natural=ICING)
    for x, ink in zip((0.28, 0.50, 0.72), CANDLES, strict=True):
        y = 0.42 if x == 0.50 else 0.39
        p.rect((x - 0.035, y - 0.22, x + 0.035, y), radius=0.01, ink=ink)
        p.ellipse((x - 0.04, y - 0.34, x + 0.04, y - 0.21), ink=WICK_FLAME)


def pizza(p: Sketch) -> None:
    crust = bezier((0.12, 0.25), (0.34, 0.09), (0.66, 0.09), (0.88, 0.25))
    cheese = [*bezier((0.10, 0.27), (0.34, 0.12), (0.66, 0.12), (0.90, 0.27)), (0.50, 0.97)]
    halved(p, cheese, 0.56, 1.15, natural=CHEESE)
    p.line(crust, 0.16, tone=0.75)
    p.line(bezier((0.12, 0.21), (0.34, 0.07), (0.66, 0.07), (0.88, 0.21)), 0.05, tone=1.0)
    for half, x, y, r in (
        (p.top, 0.34, 0.34, 0.09),
        (p.top, 0.63, 0.40, 0.10),
        (p.base, 0.44, 0.60, 0.09),
        (p.base, 0.53, 0.80, 0.055),
    ):
        half()
        p.ellipse((x - r, y - r, x + r, y + r), ink=SALAMI_DARK)
        p.ellipse((x - 0.8 * r, y - 0.8 * r, x + 0.8 * r, y + 0.8 * r), ink=SALAMI)
    p.top()
    p.ellipse((0.44, 0.22, 0.58, 0.29), ink=BASIL)
    p.ellipse((0.36, 0.46, 0.47, 0.51), ink=BASIL)


def ice_cream(p: Sketch) -> None:
    p.polygon([(0.25, 0.54), (0.75, 0.54), (0.53, 0.96), (0.47, 0.96)], ink=WAFER)  # cone
    for a, b in (((0.36, 0.54), (0.59, 0.85)), ((0.54, 0.54), (0.66, 0.70)), ((0.29, 0.62), (0.51, 0.94))):
        p.line([a, b], 0.03, ink=WAFER_DARK)
        p.line([(1 - a[0], a[1]), (1 - b[0], b[1])], 0.03, ink=WAFER_DARK)
    p.top()
    p.line([(0.50, 0.10), (0.60, 0.05)], 0.03, ink=LEAF_DARK)
    p.ellipse((0.27, 0.12, 0.73, 0.52), tone=1.2, natural=ICING)
    p.ellipse((0.17, 0.28, 0.83, 0.66), tone=1.0)
    for x, y in ((0.20, 0.62), (0.37, 0.70), (0.53, 0.64)):  # melting
        p.rect((x, 0.48, x + 0.15, y), radius=0.07, tone=1.0)
    p.ellipse((0.42, 0.06, 0.58, 0.21), ink=CHERRY)


def cheese(p: Sketch) -> None:
    halved(p, [(0.04, 0.54), (0.96, 0.54), (0.96, 0.96), (0.04, 0.96)], 0.68, 0.95)  # side
    p.base()
    for x, y, r in ((0.24, 0.72, 0.10), (0.52, 0.84, 0.075), (0.76, 0.70, 0.11)):
        p.ellipse((x - r, y - r, x + r, y + r), tone=0.6)
    p.polygon([(0.83, 0.96), (0.84, 0.90), (0.89, 0.85), (0.96, 0.83), (0.96, 0.96)], tone=0.6)
    p.top()
    p.polygon([(0.04, 0.56), (0.62, 0.20), (0.74, 0.20), (0.96, 0.50), (0.96, 0.56)], tone=1.25)
    p.ellipse((0.52, 0.30, 0.72, 0.42), tone=0.75)
    p.ellipse((0.30, 0.43, 0.44, 0.51), tone=0.75)


KINDS = (
    Kind(
        "banana",
        "bananas",
        banana,
        (250, 210, 50),
        (0.50, 0.80),
        waist=(0.5, 0.68, 0.6),
        grip=(0.5, 0.6),
        food=True,
        bite=(0.12, 0.42),
    ),
    Kind(
        "pineapple",
        "pineapples",
        pineapple,
        (236, 176, 56),
        (0.50, 0.65),
        waist=(0.5, 0.62, 0.6),
        grip=(0.5, 0.65),
        food=True,
        bite=(0.28, 0.44),
    ),
    Kind(
        "strawberry",
        "strawberries",
        strawberry,
        (226, 40, 56),
        (0.50, 0.56),
        waist=(0.5, 0.56, 0.6),
        grip=(0.5, 0.45),
        food=True,
        bite=(0.16, 0.34),
    ),
    Kind(
        "carrot",
        "carrots",
        carrot,
        (244, 128, 36),
        (0.50, 0.50),
        waist=(0.5, 0.56, 0.45),
        grip=(0.5, 0.42),
        food=True,
        bite=(0.32, 0.36),
    ),
    Kind(
        "cake",
        "cakes",
        cake,
        (236, 130, 160),
        (0.50, 0.66),
        waist=(0.5, 0.64, 0.6),
        seat=(0.5, 0.42),
        grip=(0.5, 0.66),
        food=True,
        bite=(0.20, 0.46),
        board=(0.13, 0.60, 0.87, 0.845),
    ),
    Kind("pizza", "pizzas", pizza, (212, 146, 74), (0.50, 0.50), waist=(0.5, 0.56, 0.5), grip=(0.5, 0.3), food=True),
    Kind(
        "ice cream",
        "ice creams",
        ice_cream,
        (244, 150, 180),
        (0.50, 0.46),
        waist=(0.5, 0.56, 0.45),
        grip=(0.5, 0.44),
        food=True,
    ),
    Kind(
        "cheese",
        "cheeses",
        cheese,
        (250, 200, 60),
        (0.50, 0.72),
        waist=(0.5, 0.68, 0.6),
        grip=(0.5, 0.72),
        food=True,
        bite=(0.60, 0.26),
    ),
)
