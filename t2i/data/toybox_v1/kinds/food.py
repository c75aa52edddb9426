"""Food."""

from __future__ import annotations

from t2i.data.toybox_v1.painter import LIGHT, Painter

PIT = (104, 66, 42)
PIT_LIT = (150, 106, 74)
LEAF = (96, 138, 72)
LEAF_DARK = (70, 106, 58)
STEM = (92, 66, 46)
PATTY = (72, 44, 34)
LETTUCE = (140, 168, 92)
SESAME = (234, 214, 172)
FLESH = (238, 228, 208)
FLESH_SHADE = (202, 186, 162)
GILLS = (150, 130, 110)


def avocado(p: Painter) -> None:
    for grow, tone in ((0.0, 0.55), (0.07, 1.15)):  # rind, flesh
        p.ellipse((0.14 + grow, 0.27 + grow, 0.86 - grow, 0.96 - grow), tone=tone)
        p.ellipse((0.34 + grow, 0.04 + grow, 0.66 - grow, 0.36 - grow), tone=tone)
        g, h = 0.89 * grow, 0.46 * grow  # the neck
        p.polygon(
            [
                (0.642 - g, 0.126 + h),
                (0.714 - g, 0.29 + h),
                (0.82 - g, 0.455 + h),
                (0.18 + g, 0.455 + h),
                (0.286 + g, 0.29 + h),
                (0.358 + g, 0.126 + h),
            ],
            tone=tone,
        )
    p.ellipse((0.33, 0.47, 0.67, 0.81), tone=0.7)  # hollow
    p.ellipse((0.35, 0.49, 0.65, 0.79), ink=PIT)
    p.ellipse((0.40, 0.53, 0.51, 0.63), ink=PIT_LIT)


def apple(p: Painter) -> None:
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
    p.ellipse((0.34, 0.27, 0.66, 0.38), tone=0.6)  # hollow of the stem
    p.ellipse((0.14, 0.38, 0.24, 0.56), ink=LIGHT)  # glint
    p.line([(0.50, 0.33), (0.50, 0.20), (0.45, 0.08)], 0.075, ink=STEM)
    p.polygon(
        [(0.53, 0.22), (0.58, 0.11), (0.68, 0.06), (0.82, 0.05), (0.80, 0.15), (0.72, 0.23), (0.62, 0.26)], ink=LEAF
    )
    p.polygon([(0.53, 0.22), (0.82, 0.05), (0.80, 0.15), (0.72, 0.23), (0.62, 0.26)], ink=LEAF_DARK)


def burger(p: Painter) -> None:
    p.rect((0.07, 0.62, 0.93, 0.94), radius=0.13, tone=0.95)  # lower bun
    p.rect((0.04, 0.55, 0.96, 0.71), radius=0.08, ink=PATTY)
    for x in (0.05, 0.23, 0.41, 0.59, 0.77):  # lettuce
        p.ellipse((x, 0.47, x + 0.18, 0.61), ink=LETTUCE)
    p.pie((0.04, 0.06, 0.96, 0.96), 180, 360, tone=1.05)  # upper bun
    p.rect((0.04, 0.44, 0.96, 0.54), radius=0.05, tone=1.05)
    for x, y in ((0.33, 0.20), (0.54, 0.14), (0.73, 0.23), (0.20, 0.36), (0.82, 0.39)):
        p.ellipse((x - 0.045, y - 0.03, x + 0.045, y + 0.03), ink=SESAME)


def mushroom(p: Painter) -> None:
    p.pie((0.03, 0.05, 0.97, 1.05), 180, 360)  # cap
    p.ellipse((0.03, 0.42, 0.97, 0.70))
    p.ellipse((0.18, 0.22, 0.32, 0.34), ink=LIGHT)  # glint
    p.ellipse((0.18, 0.54, 0.82, 0.685), ink=GILLS)
    p.polygon([(0.36, 0.60), (0.64, 0.60), (0.69, 0.88), (0.31, 0.88)], ink=FLESH_SHADE)  # stem
    p.ellipse((0.31, 0.78, 0.69, 0.96), ink=FLESH_SHADE)
    p.polygon([(0.36, 0.60), (0.53, 0.60), (0.56, 0.88), (0.31, 0.88)], ink=FLESH)
    p.ellipse((0.31, 0.80, 0.56, 0.95), ink=FLESH)
