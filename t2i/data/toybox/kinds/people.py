"""Figures like people."""

from __future__ import annotations

from t2i.data.toybox.kind import Kind
from t2i.data.toybox.sketch import DARK, LIGHT, Point, Sketch

HAIR = (58, 48, 52)
BRAIN = (236, 140, 160)
WOOD = (116, 78, 50)
STRAW = (222, 178, 88)
CARROT = (240, 132, 40)
SCARF = (204, 44, 52)


def _reaching(p: Sketch, shoulder: Point, hand: Point, tone: float, cloth: tuple[int, int, int]) -> None:
    """A zombie's arm stretched out to the left, with a sleeve and a limp hand."""
    (x0, y0), (x1, y1) = shoulder, hand
    p.line([shoulder, hand], width=0.12, tone=1.15 * tone)
    for dx in (0.0, 0.05):  # fingers
        p.line([(x1 + dx, y1), (x1 - 0.005 + dx, y1 + 0.09)], width=0.05, tone=1.15 * tone)
    p.line([shoulder, (0.55 * x0 + 0.45 * x1, 0.55 * y0 + 0.45 * y1)], width=0.15, tone=0.75 * tone, natural=cloth)


def zombie(p: Sketch) -> None:
    cloth, trousers = (126, 96, 124), (84, 80, 100)
    _reaching(p, (0.46, 0.54), (0.08, 0.50), 0.8, cloth)  # far arm
    p.rect((0.36, 0.72, 0.51, 0.96), radius=0.03, tone=1.1)  # legs
    p.rect((0.60, 0.72, 0.75, 0.96), radius=0.03, tone=1.1)
    p.polygon(
        [(0.34, 0.70), (0.54, 0.70), (0.53, 0.90), (0.48, 0.84), (0.43, 0.90), (0.38, 0.84), (0.34, 0.88)],
        tone=0.6,
        natural=trousers,
    )
    p.polygon(
        [(0.57, 0.70), (0.77, 0.70), (0.77, 0.86), (0.73, 0.80), (0.68, 0.86), (0.63, 0.80), (0.58, 0.85)],
        tone=0.6,
        natural=trousers,
    )
    for x in (0.29, 0.53):  # shoes
        p.rect((x, 0.895, x + 0.23, 0.965), radius=0.035, ink=DARK)
    p.polygon(
        [
            (0.38, 0.46),
            (0.74, 0.46),
            (0.79, 0.76),
            (0.74, 0.72),
            (0.68, 0.80),
            (0.61, 0.72),
            (0.54, 0.80),
            (0.47, 0.72),
            (0.40, 0.79),
            (0.34, 0.74),
        ],
        tone=0.85,
        natural=cloth,
    )  # torn shirt
    p.ellipse((0.56, 0.60, 0.70, 0.70), tone=1.15)  # hole in it
    p.top()
    p.rect((0.22, 0.06, 0.82, 0.50), radius=0.17, tone=1.05)  # head
    p.pie((0.21, 0.03, 0.83, 0.45), 180, 360, ink=HAIR)
    for x in (0.24, 0.36, 0.48, 0.60, 0.72):  # fringe
        p.polygon([(x - 0.03, 0.22), (x + 0.10, 0.22), (x + 0.03, 0.29)], ink=HAIR)
    p.ellipse((0.50, 0.03, 0.80, 0.21), ink=BRAIN)
    for x in (0.58, 0.70):
        p.arc((x - 0.05, 0.06, x + 0.05, 0.18), 90, 300, 0.025, ink=(190, 84, 110))
    p.ellipse((0.29, 0.22, 0.51, 0.42), tone=0.6)  # rings around the eyes
    p.ellipse((0.57, 0.25, 0.75, 0.41), tone=0.6)
    p.ellipse((0.32, 0.24, 0.48, 0.40), ink=LIGHT)
    p.ellipse((0.60, 0.27, 0.72, 0.39), ink=LIGHT)
    p.ellipse((0.36, 0.30, 0.42, 0.36), ink=DARK)
    p.ellipse((0.62, 0.31, 0.67, 0.36), ink=DARK)
    p.rect((0.36, 0.425, 0.64, 0.48), radius=0.02, ink=DARK)  # mouth
    for x in (0.40, 0.54):
        p.rect((x, 0.425, x + 0.055, 0.46), ink=LIGHT)
    p.base()
    _reaching(p, (0.62, 0.58), (0.15, 0.65), 1.0, cloth)  # near arm


def witch(p: Sketch) -> None:
    skin = (150, 186, 92)
    p.line([(0.87, 0.30), (0.87, 0.78)], 0.05, ink=WOOD)  # broom
    p.polygon([(0.83, 0.72), (0.91, 0.72), (0.965, 0.96), (0.775, 0.96)], ink=STRAW)
    p.line([(0.83, 0.755), (0.91, 0.755)], 0.035, ink=SCARF)
    p.ellipse((0.26, 0.88, 0.48, 0.965), ink=DARK)  # shoes
    p.ellipse((0.52, 0.88, 0.74, 0.965), ink=DARK)
    p.polygon([(0.38, 0.48), (0.62, 0.48), (0.80, 0.92), (0.20, 0.92)], tone=0.9)  # dress
    p.rect((0.33, 0.66, 0.67, 0.72), radius=0.02, ink=HAIR)  # belt
    p.rect((0.44, 0.645, 0.56, 0.735), radius=0.02, ink=STRAW)
    p.line([(0.36, 0.55), (0.16, 0.68)], 0.13, tone=1.1)  # arms
    p.line([(0.64, 0.55), (0.83, 0.58)], 0.13, tone=1.1)
    p.ellipse((0.06, 0.64, 0.19, 0.77), tone=1.2, natural=skin)  # hands
    p.ellipse((0.805, 0.51, 0.935, 0.64), tone=1.2, natural=skin)
    p.top()
    p.rect((0.24, 0.28, 0.76, 0.58), radius=0.06, ink=CARROT)  # hair
    p.ellipse((0.29, 0.22, 0.71, 0.56), tone=1.2, natural=skin)  # face
    p.arc((0.37, 0.36, 0.63, 0.52), 20, 160, 0.03, ink=DARK)  # mouth
    for x in (0.40, 0.60):
        p.ellipse((x - 0.065, 0.325, x + 0.065, 0.435), ink=LIGHT)
        p.ellipse((x - 0.035, 0.345, x + 0.035, 0.415), ink=DARK)
    p.polygon([(0.47, 0.38), (0.53, 0.38), (0.57, 0.47), (0.43, 0.50)], tone=0.9, natural=skin)  # nose
    p.polygon([(0.27, 0.27), (0.39, 0.12), (0.56, 0.03), (0.68, 0.09), (0.60, 0.10), (0.73, 0.27)], tone=0.8)  # hat
    p.polygon([(0.27, 0.27), (0.315, 0.205), (0.685, 0.205), (0.73, 0.27)], ink=CARROT)  # its band
    p.rect((0.44, 0.195, 0.56, 0.275), radius=0.015, ink=STRAW)
    p.rect((0.06, 0.25, 0.94, 0.33), radius=0.04, tone=0.8)  # its brim


def snowman(p: Sketch) -> None:
    for s in (-1, 1):  # arms
        x = [0.5 + s * d for d in (0.26, 0.44, 0.37, 0.42)]
        p.line([(x[0], 0.62), (x[1], 0.44)], 0.05, ink=WOOD)
        p.line([(x[2], 0.50), (x[3], 0.52)], 0.04, ink=WOOD)
    p.ellipse((0.14, 0.44, 0.86, 0.965), tone=1.0)  # body
    for y in (0.62, 0.73, 0.84):  # buttons
        p.ellipse((0.46, y - 0.04, 0.54, y + 0.04), ink=DARK)
    p.top()
    p.ellipse((0.25, 0.04, 0.75, 0.52), tone=1.0)  # head
    for x in (0.40, 0.60):
        p.ellipse((x - 0.045, 0.165, x + 0.045, 0.255), ink=DARK)
    p.polygon([(0.53, 0.25), (0.54, 0.34), (0.26, 0.33)], ink=CARROT)  # nose
    for x, y in ((0.39, 0.375), (0.46, 0.41), (0.54, 0.41), (0.61, 0.375)):  # mouth
        p.ellipse((x - 0.024, y - 0.024, x + 0.024, y + 0.024), ink=DARK)
    p.base()
    p.rect((0.26, 0.44, 0.74, 0.55), radius=0.055, ink=SCARF)
    p.rect((0.58, 0.48, 0.70, 0.73), radius=0.03, ink=SCARF)
    p.rect((0.58, 0.66, 0.70, 0.69), ink=LIGHT)


KINDS = (
    Kind(
        "zombie",
        "zombies",
        zombie,
        (132, 172, 100),
        (0.56, 0.62),
        waist=(0.52, 0.48, 0.46),
        creature=True,
        mouth=(0.50, 0.47),
        hand=(0.10, 0.64),
        crown=(0.52, 0.10, 0.54),
        hips=(0.56, 0.78),
    ),
    Kind(
        "witch",
        "witches",
        witch,
        (92, 66, 132),
        (0.50, 0.80),
        waist=(0.50, 0.53, 0.36),
        creature=True,
        mouth=(0.50, 0.51),
        hand=(0.12, 0.70),
        hips=(0.50, 0.84),
    ),
    Kind(
        "snowman",
        "snowmen",
        snowman,
        (238, 244, 250),
        (0.50, 0.74),
        waist=(0.50, 0.50, 0.46),
        creature=True,
        mouth=(0.50, 0.41),
        hand=(0.07, 0.45),
        crown=(0.50, 0.08, 0.40),
    ),
)
