"""Household objects."""

from __future__ import annotations

from t2i.data.toybox.kind import Kind
from t2i.data.toybox.sketch import DARK, LIGHT, METAL, Sketch

COFFEE = (74, 46, 34)
DOOR = (84, 60, 48)
STRAP = (70, 52, 44)


def armchair(p: Sketch) -> None:
    for x in (0.12, 0.76):  # feet
        p.rect((x, 0.84, x + 0.12, 0.96), radius=0.02, ink=DARK)
    p.top()
    p.rect((0.15, 0.04, 0.85, 0.76), radius=0.18, tone=0.9)  # back
    p.rect((0.25, 0.13, 0.75, 0.70), radius=0.12, tone=1.1)  # its cushion
    p.base()
    p.rect((0.20, 0.50, 0.80, 0.90), radius=0.03, tone=0.4)  # shadow around the seat
    p.rect((0.24, 0.76, 0.76, 0.90), tone=0.8)  # front
    p.rect((0.24, 0.53, 0.76, 0.74), radius=0.06, tone=1.3)  # seat
    for x in (0.04, 0.74):  # arms
        p.rect((x, 0.40, x + 0.22, 0.90), radius=0.10, tone=0.9)
        p.ellipse((x, 0.40, x + 0.22, 0.62), tone=0.6)
        p.ellipse((x + 0.02, 0.42, x + 0.20, 0.60), tone=1.25)


def cup(p: Sketch) -> None:
    p.arc((0.49, 0.26, 0.96, 0.78), 0, 360, 0.12, tone=0.85)  # handle
    p.rect((0.04, 0.18, 0.74, 0.94), radius=0.14, tone=1.0)  # wall
    p.rect((0.11, 0.46, 0.17, 0.74), radius=0.03, ink=LIGHT)  # glint
    p.top()
    p.rect((0.04, 0.18, 0.74, 0.44), tone=1.0)
    p.ellipse((0.04, 0.06, 0.74, 0.32), tone=1.3)  # rim
    p.ellipse((0.09, 0.10, 0.69, 0.28), tone=0.55)
    p.ellipse((0.12, 0.145, 0.66, 0.278), ink=COFFEE)


def teapot(p: Sketch) -> None:
    p.arc((0.03, 0.32, 0.49, 0.80), 60, 300, 0.10, tone=0.85)  # handle
    p.polygon(
        [
            (0.66, 0.84),
            (0.85, 0.72),
            (0.905, 0.52),
            (0.975, 0.38),
            (0.965, 0.27),
            (0.84, 0.29),
            (0.79, 0.42),
            (0.66, 0.50),
        ],
        tone=0.85,
    )  # spout
    p.line([(0.865, 0.30), (0.94, 0.295)], 0.065, tone=1.3)
    p.rect((0.35, 0.82, 0.71, 0.94), radius=0.03, tone=0.7)  # foot
    p.ellipse((0.21, 0.28, 0.85, 0.90), tone=1.0)  # belly
    p.ellipse((0.27, 0.59, 0.35, 0.75), ink=LIGHT)  # glint
    p.top()
    p.pie((0.21, 0.28, 0.85, 0.90), 180, 360, tone=1.0)  # upper half of the belly once more
    p.pie((0.33, 0.17, 0.73, 0.47), 180, 360, tone=1.2)  # lid
    p.rect((0.29, 0.30, 0.77, 0.365), radius=0.03, tone=0.55)
    p.ellipse((0.45, 0.06, 0.61, 0.20), tone=0.9)  # knob


def suitcase(p: Sketch) -> None:
    p.rect((0.04, 0.50, 0.96, 0.91), radius=0.10, tone=0.8)  # bottom
    p.rect((0.04, 0.50, 0.96, 0.83), radius=0.10, tone=1.05)  # front
    p.rect((0.04, 0.50, 0.96, 0.66), tone=1.05)
    for x in (0.15, 0.75):  # straps
        p.rect((x, 0.50, x + 0.10, 0.91), ink=STRAP)
    p.top()
    p.arc((0.28, 0.07, 0.72, 0.45), 180, 360, 0.09, ink=DARK)  # handle
    p.rect((0.04, 0.24, 0.96, 0.54), radius=0.10, tone=1.05)  # lid
    p.rect((0.04, 0.42, 0.96, 0.56), tone=1.05)
    for x in (0.15, 0.75):
        p.rect((x, 0.24, x + 0.10, 0.56), ink=STRAP)
        p.rect((x - 0.03, 0.30, x + 0.13, 0.44), radius=0.02, ink=METAL)
        p.rect((x + 0.02, 0.34, x + 0.08, 0.40), ink=STRAP)


def backpack(p: Sketch) -> None:
    for x in (0.05, 0.73):  # side pockets
        p.rect((x, 0.54, x + 0.22, 0.92), radius=0.08, tone=0.75)
    p.top()
    p.arc((0.31, 0.03, 0.69, 0.37), 180, 360, 0.08, ink=DARK)  # loop
    p.pie((0.13, 0.16, 0.69, 0.72), 180, 270, tone=1.0)  # sack
    p.pie((0.31, 0.16, 0.87, 0.72), 270, 360, tone=1.0)
    p.rect((0.41, 0.16, 0.59, 0.46), tone=1.0)
    p.base()
    p.rect((0.13, 0.50, 0.87, 0.96), radius=0.10, tone=1.0)
    p.top()
    p.rect((0.13, 0.43, 0.87, 0.58), tone=1.0)
    p.arc((0.22, 0.23, 0.78, 0.67), 200, 340, 0.055, ink=METAL)  # zip
    p.base()
    p.rect((0.19, 0.54, 0.81, 0.92), radius=0.09, tone=0.55)  # front pocket
    p.rect((0.215, 0.55, 0.785, 0.895), radius=0.07, tone=1.3)
    p.rect((0.19, 0.54, 0.81, 0.67), radius=0.06, tone=0.75)  # its flap
    p.rect((0.43, 0.60, 0.57, 0.75), radius=0.02, ink=METAL)  # buckle
    p.rect((0.47, 0.645, 0.53, 0.705), ink=DARK)


def _sleeves(p: Sketch) -> None:
    for a in (1, -1):  # left and right
        x = 0.5 - 0.5 * a
        p.polygon(
            [(x + u * a, v) for u, v in ((0.32, 0.08), (0.18, 0.12), (0.02, 0.42), (0.17, 0.52), (0.38, 0.30))], 0.8
        )
        p.line([(x + 0.045 * a, 0.415), (x + 0.165 * a, 0.50)], 0.04, tone=1.2)  # hem


def shirt(p: Sketch) -> None:
    # Both the base and the top have sleeves: below the head of a cat, and above the legs of a horse.
    neckline = [(0.66, 0.07), (0.61, 0.15), (0.56, 0.19), (0.50, 0.205), (0.44, 0.19), (0.39, 0.15), (0.34, 0.07)]
    _sleeves(p)
    p.polygon([*neckline, (0.17, 0.12), (0.17, 0.94), (0.83, 0.94), (0.83, 0.12)], tone=1.05)  # body
    p.rect((0.17, 0.88, 0.83, 0.94), tone=0.85)  # hem
    p.top()
    p.rect((0.35, 0.08, 0.65, 0.24), radius=0.03, tone=0.3)  # inside of the collar
    _sleeves(p)
    p.polygon([*neckline, (0.17, 0.12), (0.17, 0.60), (0.83, 0.60), (0.83, 0.12)], tone=1.05)  # chest
    for x in (0.17, 0.83):  # armpits
        p.line([(x, 0.26), (x, 0.44)], 0.03, tone=0.5)
    collar = [(0.34, 0.09), (0.39, 0.165), (0.44, 0.205), (0.50, 0.22), (0.56, 0.205), (0.61, 0.165), (0.66, 0.09)]
    p.line(collar, 0.05, tone=1.35)


def house(p: Sketch) -> None:
    roof = (176, 74, 58)
    p.rect((0.11, 0.48, 0.89, 0.96), tone=1.15)  # wall
    p.rect((0.39, 0.60, 0.61, 0.96), radius=0.02, ink=DARK)  # door
    p.rect((0.42, 0.63, 0.58, 0.96), ink=DOOR)
    p.ellipse((0.515, 0.77, 0.565, 0.82), ink=METAL)
    for x in (0.16, 0.65):  # windows
        p.rect((x, 0.61, x + 0.19, 0.81), ink=DARK)
        p.rect((x + 0.03, 0.64, x + 0.16, 0.78), ink=LIGHT)
        p.line([(x + 0.095, 0.65), (x + 0.095, 0.77)], 0.025, ink=DARK)
    p.top()
    p.rect((0.68, 0.08, 0.82, 0.40), tone=0.85, natural=roof)  # chimney
    p.rect((0.66, 0.06, 0.84, 0.14), tone=1.1, natural=roof)
    p.polygon([(0.50, 0.14), (0.89, 0.48), (0.89, 0.52), (0.11, 0.52), (0.11, 0.48)], tone=1.15)  # gable
    p.polygon(
        [(0.50, 0.05), (0.97, 0.47), (0.90, 0.57), (0.50, 0.22), (0.10, 0.57), (0.03, 0.47)], tone=0.6, natural=roof
    )


KINDS = (
    Kind(
        "armchair",
        "armchairs",
        armchair,
        (64, 132, 132),
        (0.50, 0.36),
        waist=(0.50, 0.70, 0.62),
        neck=(0.50, 0.56, 0.66),
        seat=(0.50, 0.68),
    ),
    Kind(
        "cup",
        "cups",
        cup,
        (240, 238, 230),
        (0.41, 0.60),
        waist=(0.39, 0.42, 0.60),
        neck=(0.39, 0.30, 0.60),
        rim=(0.39, 0.19, 0.58),
        grip=(0.86, 0.52),
        board=(0.06, 0.42, 0.72, 0.84),
    ),
    Kind(
        "teapot",
        "teapots",
        teapot,
        (120, 186, 206),
        (0.46, 0.62),
        waist=(0.53, 0.58, 0.60),
        neck=(0.53, 0.40, 0.52),
        rim=(0.53, 0.34, 0.46),
        grip=(0.08, 0.56),
    ),
    Kind(
        "suitcase",
        "suitcases",
        suitcase,
        (156, 98, 58),
        (0.50, 0.62),
        waist=(0.50, 0.54, 0.80),
        seat=(0.50, 0.28),
        grip=(0.50, 0.11),
        board=(0.07, 0.46, 0.93, 0.82),
    ),
    Kind(
        "backpack",
        "backpacks",
        backpack,
        (62, 116, 178),
        (0.50, 0.38),
        waist=(0.50, 0.56, 0.66),
        neck=(0.50, 0.52, 0.66),
        rim=(0.50, 0.24, 0.56),
        grip=(0.50, 0.07),
        board=(0.15, 0.54, 0.85, 0.91),
    ),
    Kind(
        "shirt",
        "shirts",
        shirt,
        (240, 240, 236),
        (0.50, 0.55),
        waist=(0.50, 0.58, 0.60),
        neck=(0.50, 0.16, 0.64),
        grip=(0.50, 0.13),
        board=(0.18, 0.31, 0.82, 0.81),
    ),
    Kind(
        "house",
        "houses",
        house,
        (232, 206, 160),
        (0.50, 0.50),
        waist=(0.50, 0.50, 0.78),
        seat=(0.50, 0.10),
    ),
)
