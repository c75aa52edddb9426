"""Household objects."""

from __future__ import annotations

from t2i.data.toybox_v1.painter import DARK, LIGHT, METAL, Painter

COFFEE = (74, 46, 34)
DOOR = (84, 60, 48)
STRAP = (70, 52, 44)


def armchair(p: Painter) -> None:
    for x in (0.12, 0.76):  # feet
        p.rect((x, 0.84, x + 0.12, 0.96), radius=0.02, ink=DARK)
    p.rect((0.15, 0.04, 0.85, 0.76), radius=0.18, tone=0.9)  # back
    p.rect((0.25, 0.13, 0.75, 0.70), radius=0.12, tone=1.1)  # its cushion
    p.rect((0.20, 0.50, 0.80, 0.90), radius=0.03, tone=0.4)  # shadow around the seat
    p.rect((0.24, 0.76, 0.76, 0.90), tone=0.8)  # front
    p.rect((0.24, 0.53, 0.76, 0.74), radius=0.06, tone=1.3)  # seat
    for x in (0.04, 0.74):  # arms
        p.rect((x, 0.40, x + 0.22, 0.90), radius=0.10, tone=0.9)
        p.ellipse((x, 0.40, x + 0.22, 0.62), tone=0.6)
        p.ellipse((x + 0.02, 0.42, x + 0.20, 0.60), tone=1.25)


def cup(p: Painter) -> None:
    p.arc((0.49, 0.26, 0.96, 0.78), 0, 360, 0.12, tone=0.85)  # handle
    p.rect((0.04, 0.18, 0.74, 0.94), radius=0.14, tone=1.0)  # wall
    p.rect((0.11, 0.40, 0.17, 0.70), radius=0.03, ink=LIGHT)  # glint
    p.ellipse((0.04, 0.06, 0.74, 0.32), tone=1.3)  # rim
    p.ellipse((0.09, 0.10, 0.69, 0.28), tone=0.55)
    p.ellipse((0.12, 0.145, 0.66, 0.278), ink=COFFEE)


def teapot(p: Painter) -> None:
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
    p.ellipse((0.295, 0.45, 0.375, 0.62), ink=LIGHT)  # glint
    p.pie((0.33, 0.17, 0.73, 0.47), 180, 360, tone=1.2)  # lid
    p.rect((0.29, 0.30, 0.77, 0.365), radius=0.03, tone=0.55)
    p.ellipse((0.45, 0.06, 0.61, 0.20), tone=0.9)  # knob


def suitcase(p: Painter) -> None:
    p.arc((0.28, 0.09, 0.72, 0.45), 180, 360, 0.09, ink=DARK)  # handle
    p.rect((0.04, 0.25, 0.96, 0.91), radius=0.10, tone=0.8)  # base
    p.rect((0.04, 0.25, 0.96, 0.82), radius=0.10, tone=1.05)  # lid
    for x in (0.17, 0.73):  # straps
        p.rect((x, 0.25, x + 0.10, 0.91), ink=STRAP)
        p.rect((x - 0.025, 0.39, x + 0.125, 0.54), radius=0.02, ink=METAL)
        p.rect((x + 0.02, 0.435, x + 0.08, 0.495), ink=STRAP)


def backpack(p: Painter) -> None:
    p.arc((0.31, 0.03, 0.69, 0.37), 180, 360, 0.08, ink=DARK)  # loop
    for x in (0.05, 0.73):  # side pockets
        p.rect((x, 0.54, x + 0.22, 0.92), radius=0.08, tone=0.75)
    p.rect((0.13, 0.16, 0.87, 0.80), radius=0.28, tone=1.0)  # sack
    p.rect((0.13, 0.50, 0.87, 0.96), radius=0.10, tone=1.0)
    p.arc((0.22, 0.23, 0.78, 0.67), 200, 340, 0.055, ink=METAL)  # zip
    p.rect((0.21, 0.58, 0.79, 0.92), radius=0.09, tone=0.55)  # front pocket
    p.rect((0.235, 0.59, 0.765, 0.895), radius=0.07, tone=1.3)
    p.rect((0.21, 0.58, 0.79, 0.71), radius=0.06, tone=0.75)  # its flap
    p.rect((0.43, 0.64, 0.57, 0.79), radius=0.02, ink=METAL)  # buckle
    p.rect((0.47, 0.685, 0.53, 0.745), ink=DARK)


def shirt(p: Painter) -> None:
    p.rect((0.35, 0.08, 0.65, 0.24), radius=0.03, tone=0.3)  # inside of the collar
    for a in (1, -1):  # sleeves, left and right
        x = 0.5 - 0.5 * a
        p.polygon(
            [
                (x + 0.32 * a, 0.08),
                (x + 0.20 * a, 0.13),
                (x + 0.03 * a, 0.44),
                (x + 0.19 * a, 0.55),
                (x + 0.38 * a, 0.32),
            ],
            tone=0.8,
        )
        p.line([(x + 0.055 * a, 0.435), (x + 0.19 * a, 0.53)], 0.04, tone=1.2)  # hem
    p.polygon(
        [
            (0.34, 0.07),
            (0.24, 0.11),
            (0.24, 0.94),
            (0.76, 0.94),
            (0.76, 0.11),
            (0.66, 0.07),
            (0.61, 0.15),
            (0.56, 0.19),
            (0.50, 0.205),
            (0.44, 0.19),
            (0.39, 0.15),
        ],
        tone=1.05,
    )  # body
    for x in (0.24, 0.76):  # armpits
        p.line([(x, 0.24), (x, 0.46)], 0.03, tone=0.5)
    p.rect((0.24, 0.88, 0.76, 0.94), tone=0.85)  # hem
    p.line(
        [(0.34, 0.09), (0.39, 0.165), (0.44, 0.205), (0.50, 0.22), (0.56, 0.205), (0.61, 0.165), (0.66, 0.09)],
        0.05,
        tone=1.35,
    )  # collar


def house(p: Painter) -> None:
    p.rect((0.68, 0.08, 0.82, 0.40), tone=0.85)  # chimney
    p.rect((0.66, 0.06, 0.84, 0.14), tone=1.1)
    p.polygon([(0.50, 0.14), (0.89, 0.48), (0.89, 0.96), (0.11, 0.96), (0.11, 0.48)], tone=1.15)  # wall
    p.polygon([(0.50, 0.05), (0.97, 0.47), (0.90, 0.57), (0.50, 0.22), (0.10, 0.57), (0.03, 0.47)], tone=0.6)  # roof
    p.rect((0.39, 0.60, 0.61, 0.96), radius=0.02, ink=DARK)  # door
    p.rect((0.42, 0.63, 0.58, 0.96), ink=DOOR)
    p.ellipse((0.515, 0.77, 0.565, 0.82), ink=METAL)
    for x in (0.16, 0.65):  # windows
        p.rect((x, 0.61, x + 0.19, 0.81), ink=DARK)
        p.rect((x + 0.03, 0.64, x + 0.16, 0.78), ink=LIGHT)
        p.line([(x + 0.095, 0.65), (x + 0.095, 0.77)], 0.025, ink=DARK)
