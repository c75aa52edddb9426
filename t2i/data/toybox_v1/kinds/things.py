"""People and machines."""

from __future__ import annotations

from t2i.data.toybox_v1.painter import DARK, LIGHT, METAL, Painter

GLASS = (176, 190, 200)  # windows
VISOR = (48, 56, 76)


def astronaut(p: Painter) -> None:
    p.rect((0.18, 0.40, 0.82, 0.78), radius=0.08, tone=0.65)  # backpack
    p.line([(0.30, 0.55), (0.13, 0.71)], width=0.18, tone=0.85)  # arms
    p.line([(0.70, 0.55), (0.87, 0.71)], width=0.18, tone=0.85)
    p.ellipse((0.04, 0.62, 0.22, 0.80), tone=0.7)  # gloves
    p.ellipse((0.78, 0.62, 0.96, 0.80), tone=0.7)
    p.rect((0.28, 0.70, 0.48, 0.96), radius=0.06, tone=0.9)  # legs
    p.rect((0.52, 0.70, 0.72, 0.96), radius=0.06, tone=0.9)
    p.rect((0.24, 0.87, 0.48, 0.96), radius=0.04, tone=0.7)  # boots
    p.rect((0.52, 0.87, 0.76, 0.96), radius=0.04, tone=0.7)
    p.rect((0.25, 0.46, 0.75, 0.82), radius=0.12, tone=1.0)  # suit
    p.ellipse((0.17, 0.03, 0.83, 0.56), tone=1.2)  # helmet
    p.rect((0.25, 0.12, 0.75, 0.46), radius=0.16, ink=METAL)  # visor
    p.rect((0.28, 0.15, 0.72, 0.43), radius=0.13, ink=VISOR)
    p.line([(0.36, 0.31), (0.46, 0.21)], width=0.06, ink=LIGHT)
    p.line([(0.47, 0.35), (0.53, 0.29)], width=0.035, ink=LIGHT)
    p.rect((0.25, 0.76, 0.75, 0.81), ink=METAL)  # belt
    p.rect((0.43, 0.745, 0.57, 0.825), radius=0.02, ink=DARK)


def robot(p: Painter) -> None:
    p.line([(0.50, 0.20), (0.50, 0.10)], width=0.05, ink=METAL)  # antenna
    p.ellipse((0.43, 0.03, 0.57, 0.17), tone=1.2)
    p.rect((0.09, 0.25, 0.91, 0.41), radius=0.04, ink=METAL)  # ears
    p.rect((0.12, 0.59, 0.88, 0.67), ink=METAL)  # shoulders
    p.rect((0.17, 0.18, 0.83, 0.52), radius=0.06, tone=1.1)  # head
    p.rect((0.04, 0.56, 0.19, 0.84), radius=0.06, tone=0.8)  # arms
    p.rect((0.81, 0.56, 0.96, 0.84), radius=0.06, tone=0.8)
    p.rect((0.27, 0.82, 0.46, 0.96), radius=0.03, tone=0.75)  # legs
    p.rect((0.54, 0.82, 0.73, 0.96), radius=0.03, tone=0.75)
    p.rect((0.23, 0.54, 0.77, 0.87), radius=0.05, tone=1.0)  # torso
    for x in (0.35, 0.65):  # eyes
        p.ellipse((x - 0.10, 0.21, x + 0.10, 0.41), ink=LIGHT)
        p.ellipse((x - 0.055, 0.255, x + 0.055, 0.365), ink=DARK)
    p.rect((0.34, 0.43, 0.66, 0.49), ink=LIGHT)  # teeth
    for x in (0.41, 0.485, 0.56):
        p.rect((x, 0.43, x + 0.03, 0.49), ink=DARK)
    p.rect((0.32, 0.61, 0.68, 0.78), radius=0.03, tone=1.3)  # panel


def _wheel(p: Painter, x: float, y: float, r: float) -> None:
    p.ellipse((x - r, y - r, x + r, y + r), ink=DARK)
    p.ellipse((x - 0.48 * r, y - 0.48 * r, x + 0.48 * r, y + 0.48 * r), ink=METAL)


def car(p: Painter) -> None:
    p.polygon([(0.10, 0.48), (0.24, 0.20), (0.66, 0.20), (0.82, 0.48)], tone=1.1)  # cabin
    p.rect((0.21, 0.15, 0.69, 0.30), radius=0.07, tone=1.15)  # roof
    p.rect((0.04, 0.43, 0.96, 0.77), radius=0.12, tone=1.0)  # sides
    p.rect((0.05, 0.67, 0.95, 0.77), radius=0.05, tone=0.8)  # sill
    p.polygon([(0.22, 0.43), (0.29, 0.26), (0.42, 0.26), (0.42, 0.43)], ink=GLASS)  # windows
    p.polygon([(0.49, 0.43), (0.49, 0.26), (0.61, 0.26), (0.71, 0.43)], ink=GLASS)
    p.rect((0.34, 0.48, 0.43, 0.515), radius=0.015, ink=DARK)  # handle
    p.ellipse((0.86, 0.52, 0.955, 0.62), ink=LIGHT)  # lamps
    p.rect((0.045, 0.53, 0.085, 0.61), radius=0.02, ink=DARK)
    for x in (0.26, 0.75):
        p.pie((x - 0.155, 0.585, x + 0.155, 0.895), 180, 360, tone=0.7)  # arch
        _wheel(p, x, 0.745, 0.115)
