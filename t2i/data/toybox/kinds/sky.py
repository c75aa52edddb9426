"""The sky and the garden."""

from __future__ import annotations

from t2i.data.toybox.kind import Kind
from t2i.data.toybox.kinds.outlines import bezier, halved, oval
from t2i.data.toybox.sketch import DARK, LIGHT, Sketch

LEAF, LEAF_DARK = (70, 150, 70), (48, 116, 56)
STEM = (104, 116, 60)
POLLEN, POLLEN_DARK = (252, 204, 60), (214, 150, 40)
RAY = (250, 150, 30)


def moon(p: Sketch) -> None:
    crescent = [
        *bezier((0.72, 0.10), (0.65, 0.06), (0.58, 0.04), (0.50, 0.04)),
        *bezier((0.50, 0.04), (0.246, 0.04), (0.04, 0.246), (0.04, 0.50)),
        *bezier((0.04, 0.50), (0.04, 0.754), (0.246, 0.96), (0.50, 0.96)),
        *bezier((0.50, 0.96), (0.70, 0.96), (0.87, 0.85), (0.94, 0.68)),
        *bezier((0.94, 0.68), (0.74, 0.86), (0.46, 0.78), (0.42, 0.52)),
        *bezier((0.42, 0.52), (0.38, 0.34), (0.48, 0.16), (0.72, 0.10)),
    ]
    halved(p, crescent, 0.62)
    p.base()  # craters
    p.ellipse((0.56, 0.82, 0.68, 0.93), tone=0.75)
    p.ellipse((0.28, 0.74, 0.43, 0.88), tone=0.75)
    p.top()
    p.ellipse((0.40, 0.10, 0.53, 0.23), tone=0.75)
    p.ellipse((0.24, 0.17, 0.33, 0.26), tone=0.75)
    for x in (0.17, 0.34):  # face
        p.ellipse((x - 0.055, 0.39, x + 0.055, 0.52), ink=DARK)
        p.ellipse((x - 0.03, 0.405, x + 0.015, 0.45), ink=LIGHT)
    p.arc((0.16, 0.47, 0.36, 0.64), 20, 160, 0.045, ink=DARK)


def sun(p: Sketch) -> None:
    for half, up in ((p.base, 1), (p.top, -1)):  # rays; the two level ones belong to both
        half()
        for c, s in ((1.0, 0.0), (0.866, 0.5), (0.5, 0.866), (0.0, 1.0), (-0.5, 0.866), (-0.866, 0.5), (-1.0, 0.0)):
            foot = [(0.5 + 0.22 * c - d * s, 0.5 + up * (0.22 * s + d * c)) for d in (0.10, -0.10)]
            p.polygon([*foot, (0.5 + 0.46 * c, 0.5 + up * 0.46 * s)], tone=0.75, natural=RAY)
    p.base()
    p.ellipse((0.20, 0.20, 0.80, 0.80), tone=1.1)  # the disc, in both halves
    p.top()
    p.ellipse((0.20, 0.20, 0.80, 0.80), tone=1.1)
    for x in (0.39, 0.61):  # face
        p.ellipse((x - 0.045, 0.37, x + 0.045, 0.49), ink=DARK)
    p.arc((0.36, 0.42, 0.64, 0.66), 25, 155, 0.045, ink=DARK)
    for x in (0.30, 0.70):  # cheeks
        p.ellipse((x - 0.05, 0.52, x + 0.05, 0.60), tone=0.85, natural=RAY)


def cloud(p: Sketch) -> None:
    p.top()  # the puffs behind
    for box in ((0.09, 0.48, 0.42, 0.86), (0.22, 0.28, 0.62, 0.78), (0.50, 0.40, 0.84, 0.80)):
        p.ellipse(box, tone=1.0)
    p.base()  # those in front
    for box in ((0.04, 0.62, 0.34, 0.96), (0.34, 0.58, 0.70, 0.94), (0.62, 0.60, 0.96, 0.96)):
        p.ellipse(box, tone=1.12)
    p.rect((0.16, 0.74, 0.84, 0.96), radius=0.06, tone=1.12)


def flower(p: Sketch) -> None:
    p.line([(0.50, 0.50), (0.50, 0.93)], 0.075, ink=LEAF_DARK)  # stem
    for s in (-1, 1):  # leaves
        leaf = [
            *bezier((0.50, 0.94), (0.5 + s * 0.06, 0.78), (0.5 + s * 0.20, 0.72), (0.5 + s * 0.38, 0.72)),
            *bezier((0.5 + s * 0.38, 0.72), (0.5 + s * 0.36, 0.88), (0.5 + s * 0.20, 0.96), (0.50, 0.94)),
        ]
        p.polygon(leaf, ink=LEAF)
    p.top()
    for c, s, tone in (
        (1.0, 0.0, 0.85),
        (0.0, 1.0, 0.85),
        (-1.0, 0.0, 0.85),
        (0.0, -1.0, 0.85),
        (0.71, 0.71, 1.1),
        (-0.71, 0.71, 1.1),
        (-0.71, -0.71, 1.1),
        (0.71, -0.71, 1.1),
    ):  # petals
        x, y = 0.50 + 0.20 * c, 0.36 + 0.20 * s
        p.ellipse((x - 0.125, y - 0.125, x + 0.125, y + 0.125), tone)
    p.ellipse((0.36, 0.22, 0.64, 0.50), ink=POLLEN_DARK)  # heart
    p.ellipse((0.38, 0.23, 0.62, 0.47), ink=POLLEN)


def pumpkin(p: Sketch) -> None:
    p.top()
    p.polygon([(0.43, 0.34), (0.45, 0.18), (0.36, 0.10), (0.47, 0.04), (0.57, 0.14), (0.57, 0.34)], ink=STEM)
    for box, tone in (  # ribs
        ((0.04, 0.32, 0.44, 0.92), 0.75),
        ((0.56, 0.32, 0.96, 0.92), 0.75),
        ((0.16, 0.27, 0.60, 0.95), 0.95),
        ((0.40, 0.27, 0.84, 0.95), 0.95),
        ((0.34, 0.25, 0.66, 0.96), 1.15),
    ):
        halved(p, oval(box), 0.62, tone)


KINDS = (
    Kind(
        "moon",
        "moons",
        moon,
        (244, 226, 150),
        (0.25, 0.62),
        waist=(0.3, 0.64, 0.45),
        seat=(0.72, 0.81),
        grip=(0.3, 0.7),
    ),
    Kind("sun", "suns", sun, (254, 214, 50), (0.50, 0.50), waist=(0.5, 0.6, 0.5), grip=(0.5, 0.6)),
    Kind(
        "cloud",
        "clouds",
        cloud,
        (226, 234, 244),
        (0.50, 0.56),
        waist=(0.5, 0.70, 0.5),
        neck=(0.5, 0.56, 0.5),
        seat=(0.5, 0.62),
        back=(0.45, 0.32),
        astride=True,
    ),
    Kind("flower", "flowers", flower, (236, 84, 140), (0.50, 0.36), waist=(0.5, 0.62, 0.4), grip=(0.5, 0.78)),
    Kind(
        "pumpkin",
        "pumpkins",
        pumpkin,
        (240, 130, 36),
        (0.50, 0.60),
        waist=(0.5, 0.62, 0.6),
        seat=(0.5, 0.34),
        grip=(0.5, 0.62),
        food=True,
        bite=(0.18, 0.40),
    ),
)
