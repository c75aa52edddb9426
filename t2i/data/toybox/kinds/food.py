"""Food."""

from __future__ import annotations

from t2i.data.toybox.kind import Kind
from t2i.data.toybox.sketch import LIGHT, Sketch

PIT = (104, 66, 42)
PIT_LIT = (150, 106, 74)
LEAF = (96, 138, 72)
LEAF_DARK = (70, 106, 58)
STEM = (92, 66, 46)
FLESH_GREEN = (206, 216, 112)
PATTY = (72, 44, 34)
LETTUCE = (140, 168, 92)
CHEESE = (250, 196, 60)
SESAME = (234, 214, 172)
FLESH = (238, 228, 208)
FLESH_SHADE = (202, 186, 162)
GILLS = (150, 130, 110)


def avocado(p: Sketch) -> None:
    # The top is the whole fruit: half of it, without the pit, would not be recognised. The base is the body below it.
    for part in (p.base, p.top):
        part()
        for grow, tone, natural in ((0.0, 0.55, None), (0.07, 1.15, FLESH_GREEN)):  # rind, flesh
            p.ellipse((0.14 + grow, 0.27 + grow, 0.86 - grow, 0.96 - grow), tone=tone, natural=natural)
            if part == p.base:
                continue
            p.ellipse((0.34 + grow, 0.04 + grow, 0.66 - grow, 0.36 - grow), tone=tone, natural=natural)
            g, h = 0.89 * grow, 0.46 * grow  # the neck
            left = [(0.18 + g, 0.455 + h), (0.286 + g, 0.29 + h), (0.358 + g, 0.126 + h)]
            right = [(0.642 - g, 0.126 + h), (0.714 - g, 0.29 + h), (0.82 - g, 0.455 + h)]
            p.polygon([*right, *left], tone=tone, natural=natural)
        p.ellipse((0.33, 0.47, 0.67, 0.81), tone=0.7)  # hollow
        p.ellipse((0.35, 0.49, 0.65, 0.79), ink=PIT)
        p.ellipse((0.40, 0.53, 0.51, 0.63), ink=PIT_LIT)


def apple(p: Sketch) -> None:
    for a in (1, -1):  # cheeks, left and right
        x = 0.5 - 0.5 * a
        left, right = sorted((x + 0.04 * a, x + 0.60 * a))
        p.ellipse((left, 0.23, right, 0.86))
        left, right = sorted((x + 0.18 * a, x + 0.62 * a))
        p.ellipse((left, 0.40, right, 0.96))
        p.polygon(
            [
                (x + 0.048 * a, 0.62),
                (x + 0.10 * a, 0.75),
                (x + 0.165 * a, 0.828),
                (x + 0.244 * a, 0.876),
                (x + 0.39 * a, 0.70),
            ]
        )
    p.top()
    for a in (0.0, 0.36):  # their upper half once more
        p.pie((0.04 + a, 0.23, 0.60 + a, 0.86), 180, 360)
    p.ellipse((0.34, 0.27, 0.66, 0.38), tone=0.6)  # hollow of the stem
    p.ellipse((0.14, 0.36, 0.24, 0.52), ink=LIGHT)  # glint
    p.line([(0.50, 0.33), (0.50, 0.20), (0.45, 0.08)], 0.075, ink=STEM)
    p.polygon(
        [(0.53, 0.22), (0.58, 0.11), (0.68, 0.06), (0.82, 0.05), (0.80, 0.15), (0.72, 0.23), (0.62, 0.26)], ink=LEAF
    )
    p.polygon([(0.53, 0.22), (0.82, 0.05), (0.80, 0.15), (0.72, 0.23), (0.62, 0.26)], ink=LEAF_DARK)


def burger(p: Sketch) -> None:
    p.rect((0.07, 0.62, 0.93, 0.94), radius=0.13, tone=0.95)  # lower bun
    p.rect((0.04, 0.55, 0.96, 0.71), radius=0.08, ink=PATTY)
    p.polygon([(0.14, 0.56), (0.86, 0.56), (0.72, 0.66), (0.60, 0.58), (0.44, 0.70), (0.30, 0.58)], ink=CHEESE)
    for x in (0.05, 0.23, 0.41, 0.59, 0.77):  # lettuce
        p.ellipse((x, 0.47, x + 0.18, 0.61), ink=LETTUCE)
    p.top()
    p.pie((0.04, 0.06, 0.96, 0.96), 180, 360, tone=1.05)  # upper bun
    p.rect((0.04, 0.44, 0.96, 0.54), radius=0.05, tone=1.05)
    for x, y in ((0.33, 0.20), (0.54, 0.14), (0.73, 0.23), (0.20, 0.36), (0.82, 0.39)):
        p.ellipse((x - 0.045, y - 0.03, x + 0.045, y + 0.03), ink=SESAME)


def mushroom(p: Sketch) -> None:
    p.polygon([(0.36, 0.58), (0.64, 0.58), (0.69, 0.88), (0.31, 0.88)], tone=1.3, natural=FLESH_SHADE)  # stem
    p.ellipse((0.31, 0.78, 0.69, 0.96), tone=1.3, natural=FLESH_SHADE)
    p.top()
    p.pie((0.03, 0.05, 0.97, 1.05), 180, 360)  # cap
    p.ellipse((0.03, 0.42, 0.97, 0.66))
    p.ellipse((0.18, 0.52, 0.82, 0.645), ink=GILLS)
    for x, y, r in ((0.27, 0.31, 0.09), (0.54, 0.20, 0.10), (0.78, 0.36, 0.08), (0.50, 0.43, 0.06)):
        p.ellipse((x - r, y - 0.85 * r, x + r, y + 0.85 * r), ink=LIGHT)  # dots
    p.base()
    p.polygon([(0.38, 0.58), (0.62, 0.58), (0.64, 0.72), (0.36, 0.72)], tone=1.3, natural=FLESH_SHADE)  # stem
    p.polygon([(0.38, 0.58), (0.52, 0.58), (0.54, 0.88), (0.36, 0.88)], tone=1.5, natural=FLESH)
    p.ellipse((0.34, 0.80, 0.55, 0.94), tone=1.5, natural=FLESH)


KINDS = (
    Kind(
        "avocado",
        "avocados",
        avocado,
        (70, 110, 48),
        (0.50, 0.66),
        waist=(0.50, 0.90, 0.60),
        neck=(0.50, 0.44, 0.60),
        grip=(0.50, 0.60),
        food=True,
    ),
    Kind(
        "apple",
        "apples",
        apple,
        (206, 36, 40),
        (0.50, 0.56),
        waist=(0.50, 0.52, 0.74),
        neck=(0.50, 0.40, 0.74),
        grip=(0.50, 0.60),
        food=True,
        bite=(0.24, 0.32),
    ),
    Kind(
        "burger",
        "burgers",
        burger,
        (206, 140, 64),
        (0.50, 0.30),
        waist=(0.50, 0.53, 0.80),
        seat=(0.50, 0.12),
        grip=(0.50, 0.56),
        food=True,
    ),
    Kind(
        "mushroom",
        "mushrooms",
        mushroom,
        (204, 52, 44),
        (0.50, 0.36),
        waist=(0.50, 0.62, 0.50),
        seat=(0.50, 0.10),
        grip=(0.50, 0.74),
        food=True,
    ),
)
