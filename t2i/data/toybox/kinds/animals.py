"""Animals."""

from __future__ import annotations

from t2i.data.toybox.kind import Kind
from t2i.data.toybox.sketch import DARK, LIGHT, METAL, Sketch

CREAM = (244, 216, 176)  # bellies and muzzles
PINK = (232, 158, 158)  # inside of ears
MANE = (72, 46, 36)
TONGUE = (222, 92, 104)
COLLAR = (200, 50, 50)
BEAK = (244, 160, 40)
WHITE = (246, 246, 244)


def _eye(p: Sketch, x: float, y: float, r: float) -> None:
    """A round eye: white, pupil, glint."""
    p.ellipse((x - r, y - r, x + r, y + r), ink=LIGHT)
    p.ellipse((x - 0.72 * r, y - 0.72 * r, x + 0.72 * r, y + 0.72 * r), ink=DARK)
    p.ellipse((x - 0.45 * r, y - 0.5 * r, x, y - 0.05 * r), ink=LIGHT)


def horse(p: Sketch) -> None:
    p.tube(((0.74, 0.44), (0.96, 0.36), (0.84, 0.60), (0.91, 0.78)), 0.11, 0.10, tone=0.6, natural=MANE)  # tail
    p.polygon([(0.36, 0.60), (0.50, 0.60), (0.47, 0.95), (0.38, 0.95)], tone=0.7)  # far legs
    p.polygon([(0.56, 0.60), (0.70, 0.60), (0.65, 0.95), (0.56, 0.95)], tone=0.7)
    p.rect((0.24, 0.37, 0.81, 0.68), radius=0.15, tone=1.0)  # body
    p.polygon([(0.25, 0.52), (0.39, 0.62), (0.36, 0.95), (0.265, 0.95)], tone=1.0)  # near legs
    p.polygon([(0.65, 0.62), (0.81, 0.50), (0.79, 0.95), (0.695, 0.95)], tone=1.0)
    for x in (0.262, 0.377, 0.557, 0.692):  # hooves
        p.rect((x, 0.90, x + 0.10, 0.965), ink=DARK)
    p.top()
    p.tube(((0.32, 0.10), (0.47, 0.08), (0.53, 0.26), (0.55, 0.42)), 0.14, 0.10, tone=0.6, natural=MANE)  # mane
    p.polygon([(0.24, 0.54), (0.26, 0.24), (0.36, 0.10), (0.45, 0.20), (0.54, 0.42), (0.48, 0.56)], tone=1.0)  # neck
    p.polygon([(0.29, 0.18), (0.30, 0.03), (0.40, 0.15)], tone=1.25)  # ear
    p.line([(0.31, 0.21), (0.13, 0.37)], width=0.17, tone=1.1)  # head
    p.ellipse((0.04, 0.29, 0.215, 0.465), tone=1.35)  # muzzle
    p.ellipse((0.075, 0.345, 0.12, 0.39), ink=DARK)  # nostril
    _eye(p, 0.26, 0.225, 0.05)


def squirrel(p: Sketch) -> None:
    p.tube(((0.50, 0.82), (0.98, 0.92), (0.80, 0.54), (0.78, 0.32)), 0.24, 0.28, tone=0.75)  # tail
    p.ellipse((0.55, 0.04, 0.96, 0.46), tone=0.75)  # its curl
    p.tube(((0.79, 0.74), (0.86, 0.60), (0.82, 0.50), (0.84, 0.38)), 0.07, 0.07, tone=1.25)
    p.arc((0.625, 0.115, 0.885, 0.385), 150, 390, width=0.07, tone=1.25)
    p.ellipse((0.20, 0.42, 0.62, 0.95), tone=1.0)  # body
    p.ellipse((0.20, 0.50, 0.42, 0.88), tone=1.4, natural=CREAM)  # belly
    p.ellipse((0.36, 0.60, 0.66, 0.95), tone=1.1)  # haunch
    p.ellipse((0.16, 0.86, 0.54, 0.965), tone=0.8)  # foot
    p.line([(0.42, 0.58), (0.32, 0.66), (0.20, 0.63)], width=0.10, tone=0.8)  # arm
    p.top()
    p.polygon([(0.15, 0.28), (0.15, 0.06), (0.30, 0.22)], tone=0.7)  # ears
    p.polygon([(0.28, 0.26), (0.37, 0.04), (0.46, 0.28)], tone=0.9)
    p.ellipse((0.09, 0.18, 0.51, 0.53), tone=1.05)  # head
    p.ellipse((0.05, 0.33, 0.27, 0.52), tone=1.35, natural=CREAM)  # muzzle
    p.ellipse((0.04, 0.34, 0.12, 0.42), ink=DARK)  # nose
    p.polygon([(0.12, 0.47), (0.18, 0.47), (0.165, 0.54), (0.125, 0.54)], ink=LIGHT)  # teeth
    _eye(p, 0.29, 0.32, 0.065)


def octopus(p: Sketch) -> None:
    for s in (-1, 1):  # arms: raised, spread, low
        x = [0.5 + s * d for d in (0.10, 0.14, 0.20, 0.22, 0.25, 0.30, 0.36, 0.42, 0.40)]
        p.tube(((x[1], 0.62), (x[5], 0.76), (x[5], 0.54), (x[7], 0.52)), 0.15, 0.09, tone=0.75)
        p.tube(((x[1], 0.66), (x[3], 0.92), (x[6], 0.92), (x[7], 0.76)), 0.15, 0.09, tone=1.0)
        p.tube(((x[0], 0.66), (x[0], 0.82), (x[1], 0.90), (x[4], 0.91)), 0.15, 0.09, tone=0.75)
    p.tube(((0.50, 0.66), (0.50, 0.80), (0.50, 0.85), (0.50, 0.91)), 0.15, 0.09, tone=1.1)
    p.rect((0.30, 0.54, 0.70, 0.73), radius=0.09, tone=1.0)  # where they meet
    p.top()
    p.rect((0.29, 0.40, 0.71, 0.73), radius=0.12, tone=1.0)  # head
    p.ellipse((0.19, 0.04, 0.81, 0.59), tone=1.0)
    _eye(p, 0.38, 0.47, 0.09)
    _eye(p, 0.62, 0.47, 0.09)
    p.arc((0.41, 0.52, 0.59, 0.67), 20, 160, width=0.035, ink=DARK)  # mouth


def mouse(p: Sketch) -> None:
    p.tube(((0.64, 0.87), (1.06, 0.97), (0.78, 0.60), (0.92, 0.38)), 0.09, 0.06, tone=0.8, natural=PINK)  # tail
    p.top()
    p.ellipse((0.50, 0.10, 0.80, 0.42), tone=0.75)  # far ear
    p.ellipse((0.56, 0.16, 0.74, 0.36), tone=1.15, natural=PINK)
    p.base()
    p.ellipse((0.26, 0.38, 0.78, 0.92), tone=1.0)  # body
    p.ellipse((0.24, 0.60, 0.48, 0.90), tone=1.0)
    p.ellipse((0.58, 0.65, 0.77, 0.91), tone=0.85)  # haunch
    p.ellipse((0.20, 0.84, 0.40, 0.94), tone=1.25, natural=PINK)  # feet
    p.ellipse((0.48, 0.84, 0.72, 0.94), tone=1.25, natural=PINK)
    p.top()
    p.polygon(
        [(0.05, 0.68), (0.26, 0.45), (0.42, 0.36), (0.56, 0.42), (0.62, 0.58), (0.52, 0.76), (0.34, 0.83), (0.07, 0.77)]
    )  # head
    p.ellipse((0.24, 0.37, 0.62, 0.83))
    p.ellipse((0.10, 0.05, 0.48, 0.46), tone=1.0)  # near ear
    p.ellipse((0.17, 0.12, 0.42, 0.40), tone=1.35, natural=PINK)
    for y in (0.68, 0.79):  # whiskers
        p.line([(0.19, 0.735), (0.34, y)], width=0.022, ink=METAL)
    _eye(p, 0.26, 0.57, 0.08)
    p.ellipse((0.035, 0.66, 0.155, 0.78), ink=DARK)  # nose


def cat(p: Sketch) -> None:
    p.tube(((0.56, 0.90), (0.98, 0.94), (0.74, 0.66), (0.89, 0.56)), 0.12, 0.12, tone=0.75)  # tail
    p.ellipse((0.18, 0.48, 0.72, 0.97), tone=0.85)  # body
    p.ellipse((0.31, 0.56, 0.59, 0.94), tone=1.3, natural=CREAM)  # chest
    p.ellipse((0.22, 0.85, 0.43, 0.97), tone=1.1)  # paws
    p.ellipse((0.47, 0.85, 0.68, 0.97), tone=1.1)
    p.top()
    for s in (-1, 1):  # ears
        p.polygon([(0.45 + s * 0.37, 0.38), (0.45 + s * 0.35, 0.03), (0.45 + s * 0.05, 0.19)], tone=0.95)
        p.polygon([(0.45 + s * 0.31, 0.28), (0.45 + s * 0.30, 0.11), (0.45 + s * 0.15, 0.20)], tone=0.65, natural=PINK)
    p.ellipse((0.06, 0.15, 0.84, 0.64), tone=1.0)  # head
    p.ellipse((0.29, 0.42, 0.61, 0.62), tone=1.35, natural=CREAM)  # muzzle
    for s in (-1, 1):  # whiskers
        for y in (0.48, 0.57):
            p.line([(0.45 + s * 0.20, 0.50), (0.45 + s * 0.36, y)], width=0.022, ink=METAL)
        _eye(p, 0.45 + s * 0.18, 0.37, 0.09)
    p.polygon([(0.39, 0.44), (0.51, 0.44), (0.45, 0.51)], ink=DARK)  # nose
    p.arc((0.36, 0.47, 0.45, 0.56), 20, 140, width=0.025, ink=DARK)  # mouth
    p.arc((0.45, 0.47, 0.54, 0.56), 40, 160, width=0.025, ink=DARK)


def fish(p: Sketch) -> None:
    fin = (226, 96, 40)
    p.tube(((0.70, 0.50), (0.78, 0.38), (0.82, 0.28), (0.89, 0.26)), 0.14, 0.12, tone=0.75, natural=fin)  # tail
    p.tube(((0.70, 0.50), (0.78, 0.62), (0.82, 0.72), (0.89, 0.74)), 0.14, 0.12, tone=0.75, natural=fin)
    p.polygon([(0.70, 0.50), (0.85, 0.24), (0.86, 0.76)], tone=0.75, natural=fin)
    p.top()
    p.tube(((0.30, 0.28), (0.42, 0.18), (0.50, 0.15), (0.60, 0.15)), 0.16, 0.12, tone=0.7, natural=fin)  # fins
    p.polygon([(0.30, 0.30), (0.58, 0.14), (0.66, 0.36)], tone=0.7, natural=fin)
    p.base()
    p.tube(((0.44, 0.74), (0.48, 0.82), (0.52, 0.86), (0.58, 0.86)), 0.14, 0.10, tone=0.7, natural=fin)
    p.ellipse((0.04, 0.20, 0.78, 0.80), tone=1.0)  # body
    p.top()
    p.pie((0.04, 0.20, 0.78, 0.80), 90, 270, tone=1.0)  # head: the front of the body
    p.ellipse((0.20, 0.20, 0.66, 0.79), tone=1.0)
    p.base()
    p.pie((0.42, 0.52, 0.64, 0.74), 300, 520, tone=0.7, natural=fin)  # side fin
    p.top()
    p.arc((0.04, 0.26, 0.37, 0.74), -62, 62, width=0.045, tone=0.6)  # gill
    _eye(p, 0.20, 0.42, 0.09)
    p.arc((0.06, 0.50, 0.20, 0.62), 20, 130, width=0.035, ink=DARK)  # mouth


def dog(p: Sketch) -> None:
    patch = (96, 62, 44)
    p.tube(((0.80, 0.58), (0.92, 0.54), (0.94, 0.40), (0.90, 0.30)), 0.12, 0.08, tone=0.8)  # tail
    p.rect((0.46, 0.66, 0.58, 0.95), radius=0.05, tone=0.7)  # far legs
    p.rect((0.64, 0.66, 0.76, 0.95), radius=0.05, tone=0.7)
    p.rect((0.30, 0.46, 0.88, 0.80), radius=0.17, tone=1.0)  # body
    p.ellipse((0.58, 0.46, 0.80, 0.62), tone=0.7, natural=patch)  # patch on the back
    p.rect((0.32, 0.60, 0.46, 0.96), radius=0.05, tone=1.0)  # near legs
    p.rect((0.74, 0.60, 0.88, 0.96), radius=0.05, tone=1.0)
    p.rect((0.28, 0.88, 0.46, 0.965), radius=0.04, tone=1.3, natural=CREAM)  # paws
    p.rect((0.70, 0.88, 0.88, 0.965), radius=0.04, tone=1.3, natural=CREAM)
    p.line([(0.34, 0.53), (0.52, 0.50)], width=0.09, ink=COLLAR)
    p.top()
    p.ellipse((0.13, 0.36, 0.29, 0.64), ink=TONGUE)
    p.ellipse((0.14, 0.06, 0.58, 0.52), tone=1.05)  # head
    p.ellipse((0.04, 0.25, 0.36, 0.52), tone=1.35, natural=CREAM)  # muzzle
    p.ellipse((0.035, 0.23, 0.165, 0.34), ink=DARK)  # nose
    p.arc((0.06, 0.32, 0.32, 0.49), 30, 140, width=0.03, ink=DARK)  # mouth
    p.tube(((0.46, 0.12), (0.60, 0.16), (0.56, 0.34), (0.55, 0.46)), 0.13, 0.17, tone=0.6, natural=patch)  # ear
    _eye(p, 0.31, 0.21, 0.075)


def elephant(p: Sketch) -> None:
    p.tube(((0.88, 0.46), (0.97, 0.50), (0.93, 0.62), (0.945, 0.70)), 0.05, 0.05, tone=0.7)  # tail
    p.rect((0.43, 0.66, 0.57, 0.95), radius=0.03, tone=0.7)  # far legs
    p.rect((0.63, 0.66, 0.77, 0.95), radius=0.03, tone=0.7)
    p.rect((0.28, 0.22, 0.92, 0.82), radius=0.27, tone=1.0)  # body
    p.rect((0.32, 0.62, 0.49, 0.96), radius=0.03, tone=1.0)  # near legs
    p.rect((0.72, 0.58, 0.89, 0.96), radius=0.03, tone=1.0)
    for x in (0.34, 0.42, 0.74, 0.82):  # nails
        p.pie((x, 0.90, x + 0.06, 1.02), 180, 360, ink=LIGHT)
    p.top()
    p.tube(((0.20, 0.36), (0.08, 0.60), (0.16, 0.88), (0.07, 0.82)), 0.22, 0.09, tone=0.9)  # trunk
    p.ellipse((0.10, 0.10, 0.54, 0.56), tone=1.05)  # head
    p.polygon([(0.16, 0.50), (0.28, 0.52), (0.22, 0.62), (0.12, 0.66)], ink=LIGHT)  # tusk
    p.ellipse((0.32, 0.06, 0.70, 0.62), tone=0.8)  # ear
    p.ellipse((0.38, 0.14, 0.64, 0.54), tone=1.2, natural=(206, 156, 160))
    _eye(p, 0.22, 0.29, 0.07)


def penguin(p: Sketch) -> None:
    for x in (0.24, 0.52):  # feet
        p.ellipse((x, 0.86, x + 0.24, 0.965), ink=BEAK)
    p.tube(((0.26, 0.50), (0.16, 0.58), (0.10, 0.66), (0.10, 0.76)), 0.16, 0.09, tone=0.75)  # flippers
    p.tube(((0.74, 0.50), (0.84, 0.58), (0.90, 0.66), (0.90, 0.76)), 0.16, 0.09, tone=0.75)
    p.ellipse((0.19, 0.32, 0.81, 0.93), tone=1.0)  # body
    p.ellipse((0.28, 0.44, 0.72, 0.92), tone=1.5, natural=WHITE)  # belly
    p.top()
    p.ellipse((0.21, 0.03, 0.79, 0.54), tone=1.0)  # head
    for x in (0.40, 0.60):  # face
        p.ellipse((x - 0.14, 0.15, x + 0.14, 0.45), tone=1.5, natural=WHITE)
    p.ellipse((0.30, 0.28, 0.70, 0.50), tone=1.5, natural=WHITE)
    _eye(p, 0.38, 0.27, 0.075)
    _eye(p, 0.62, 0.27, 0.075)
    p.polygon([(0.38, 0.35), (0.50, 0.31), (0.62, 0.35), (0.50, 0.47)], ink=BEAK)


def dinosaur(p: Sketch) -> None:
    plate = (226, 130, 50)
    for x, y in ((0.76, 0.48), (0.85, 0.41)):  # plates of the tail
        p.polygon([(x - 0.07, y + 0.08), (x - 0.01, y - 0.10), (x + 0.08, y + 0.04)], tone=0.7, natural=plate)
    p.tube(((0.62, 0.66), (0.86, 0.72), (0.90, 0.52), (0.945, 0.38)), 0.32, 0.05, tone=1.0)  # tail
    p.rect((0.42, 0.70, 0.55, 0.95), radius=0.05, tone=0.7)  # far legs
    p.rect((0.62, 0.70, 0.75, 0.95), radius=0.05, tone=0.7)
    p.ellipse((0.26, 0.43, 0.82, 0.88), tone=1.0)  # body
    p.rect((0.30, 0.66, 0.45, 0.96), radius=0.06, tone=1.0)  # near legs
    p.rect((0.68, 0.66, 0.83, 0.96), radius=0.06, tone=1.0)
    for x, y in ((0.50, 0.54), (0.62, 0.56), (0.73, 0.60)):  # spots
        p.ellipse((x - 0.045, y - 0.045, x + 0.045, y + 0.045), tone=0.7)
    p.top()
    for x, y in ((0.36, 0.11), (0.43, 0.23), (0.44, 0.36)):  # plates of the neck
        p.polygon([(x - 0.07, y - 0.06), (x + 0.10, y), (x - 0.05, y + 0.10)], tone=0.7, natural=plate)
    p.tube(((0.38, 0.62), (0.27, 0.46), (0.38, 0.32), (0.26, 0.18)), 0.26, 0.19, tone=1.0)  # neck
    p.ellipse((0.04, 0.10, 0.34, 0.33), tone=1.0)  # head
    p.ellipse((0.13, 0.04, 0.38, 0.29), tone=1.0)
    p.ellipse((0.075, 0.17, 0.11, 0.205), ink=DARK)  # nostril
    p.line([(0.08, 0.265), (0.15, 0.28), (0.22, 0.265)], width=0.03, ink=DARK)  # mouth
    _eye(p, 0.24, 0.14, 0.07)


def owl(p: Sketch) -> None:
    for x in (0.30, 0.54):  # feet
        p.ellipse((x, 0.87, x + 0.16, 0.965), ink=BEAK)
    p.ellipse((0.16, 0.30, 0.84, 0.94), tone=1.0)  # body
    p.ellipse((0.28, 0.46, 0.72, 0.92), tone=1.35, natural=CREAM)  # belly
    for x, y in ((0.39, 0.66), (0.50, 0.66), (0.61, 0.66), (0.445, 0.77), (0.555, 0.77)):  # its feathers
        p.arc((x - 0.055, y - 0.06, x + 0.055, y + 0.05), 10, 170, 0.03, tone=0.8, natural=(176, 128, 84))
    p.ellipse((0.06, 0.40, 0.31, 0.88), tone=0.7)  # wings
    p.ellipse((0.69, 0.40, 0.94, 0.88), tone=0.7)
    p.top()
    p.polygon([(0.14, 0.36), (0.13, 0.03), (0.44, 0.16)], tone=0.8)  # tufts
    p.polygon([(0.86, 0.36), (0.87, 0.03), (0.56, 0.16)], tone=0.8)
    p.ellipse((0.13, 0.09, 0.87, 0.59), tone=1.0)  # head
    for x in (0.33, 0.67):
        p.ellipse((x - 0.19, 0.15, x + 0.19, 0.53), tone=1.35, natural=CREAM)
        _eye(p, x, 0.34, 0.145)
    p.polygon([(0.43, 0.40), (0.57, 0.40), (0.50, 0.56)], ink=BEAK)


def bear(p: Sketch) -> None:
    p.tube(((0.26, 0.56), (0.16, 0.62), (0.12, 0.68), (0.13, 0.76)), 0.18, 0.17, tone=0.8)  # arms
    p.tube(((0.74, 0.56), (0.84, 0.62), (0.88, 0.68), (0.87, 0.76)), 0.18, 0.17, tone=0.8)
    p.ellipse((0.18, 0.42, 0.82, 0.95), tone=1.0)  # body
    p.ellipse((0.31, 0.54, 0.69, 0.90), tone=1.3, natural=(196, 146, 100))  # belly
    for x in (0.16, 0.56):  # feet
        p.ellipse((x, 0.78, x + 0.28, 0.965), tone=0.85)
        p.ellipse((x + 0.07, 0.83, x + 0.21, 0.94), tone=1.3, natural=(196, 146, 100))
    p.top()
    for x in (0.24, 0.76):  # ears
        p.ellipse((x - 0.13, 0.03, x + 0.13, 0.29), tone=0.85)
        p.ellipse((x - 0.07, 0.09, x + 0.07, 0.23), tone=1.3, natural=(196, 146, 100))
    p.ellipse((0.14, 0.09, 0.86, 0.60), tone=1.0)  # head
    p.ellipse((0.33, 0.32, 0.67, 0.57), tone=1.35, natural=CREAM)  # muzzle
    p.ellipse((0.42, 0.34, 0.58, 0.44), ink=DARK)  # nose
    p.line([(0.50, 0.42), (0.50, 0.49)], 0.025, ink=DARK)
    p.arc((0.41, 0.42, 0.59, 0.53), 30, 150, 0.025, ink=DARK)  # mouth
    _eye(p, 0.33, 0.28, 0.07)
    _eye(p, 0.67, 0.28, 0.07)


KINDS = (
    Kind(
        "horse",
        "horses",
        horse,
        (150, 96, 58),
        (0.56, 0.56),
        waist=(0.38, 0.50, 0.34),
        creature=True,
        mouth=(0.06, 0.40),
        crown=(0.36, 0.14, 0.24),
        back=(0.69, 0.40),
    ),
    Kind(
        "squirrel",
        "squirrels",
        squirrel,
        (170, 96, 50),
        (0.42, 0.66),
        waist=(0.32, 0.50, 0.36),
        creature=True,
        mouth=(0.10, 0.49),
        hand=(0.14, 0.68),
        crown=(0.30, 0.21, 0.36),
    ),
    Kind(
        "octopus",
        "octopuses",
        octopus,
        (200, 80, 110),
        (0.50, 0.27),
        waist=(0.50, 0.66, 0.46),
        creature=True,
        mouth=(0.50, 0.63),
        hand=(0.92, 0.52),
        crown=(0.50, 0.10, 0.50),
    ),
    Kind(
        "mouse",
        "mice",
        mouse,
        (150, 144, 140),
        (0.52, 0.66),
        waist=(0.42, 0.78, 0.40),
        neck=(0.42, 0.62, 0.40),
        creature=True,
        mouth=(0.06, 0.79),
        hand=(0.44, 0.88),
        crown=(0.42, 0.38, 0.36),
    ),
    Kind(
        "cat",
        "cats",
        cat,
        (226, 150, 70),
        (0.46, 0.75),
        waist=(0.45, 0.58, 0.50),
        creature=True,
        mouth=(0.45, 0.55),
        hand=(0.26, 0.89),
        crown=(0.45, 0.20, 0.52),
    ),
    Kind(
        "fish",
        "fish",
        fish,
        (240, 140, 50),
        (0.52, 0.50),
        waist=(0.36, 0.74, 0.44),
        neck=(0.30, 0.76, 0.50),
        mouth=(0.06, 0.56),
        crown=(0.34, 0.24, 0.36),
        grip=(0.50, 0.50),
        food=True,
        bite=(0.58, 0.26),
    ),
    Kind(
        "dog",
        "dogs",
        dog,
        (214, 160, 100),
        (0.60, 0.66),
        waist=(0.40, 0.50, 0.38),
        creature=True,
        mouth=(0.08, 0.47),
        hand=(0.33, 0.90),
        crown=(0.36, 0.11, 0.36),
    ),
    Kind(
        "elephant",
        "elephants",
        elephant,
        (136, 142, 156),
        (0.64, 0.60),
        waist=(0.36, 0.52, 0.40),
        neck=(0.40, 0.54, 0.40),
        creature=True,
        mouth=(0.05, 0.80),
        hand=(0.07, 0.82),
        crown=(0.34, 0.13, 0.34),
        back=(0.76, 0.25),
    ),
    Kind(
        "penguin",
        "penguins",
        penguin,
        (52, 56, 72),
        (0.50, 0.66),
        waist=(0.50, 0.48, 0.52),
        creature=True,
        mouth=(0.50, 0.43),
        hand=(0.10, 0.76),
        crown=(0.50, 0.09, 0.42),
    ),
    Kind(
        "dinosaur",
        "dinosaurs",
        dinosaur,
        (96, 166, 84),
        (0.56, 0.60),
        waist=(0.36, 0.56, 0.34),
        creature=True,
        mouth=(0.06, 0.28),
        crown=(0.26, 0.06, 0.26),
        back=(0.62, 0.46),
    ),
    Kind(
        "owl",
        "owls",
        owl,
        (146, 100, 62),
        (0.50, 0.68),
        waist=(0.50, 0.54, 0.60),
        creature=True,
        mouth=(0.50, 0.53),
        hand=(0.12, 0.82),
        crown=(0.50, 0.14, 0.46),
    ),
    Kind(
        "bear",
        "bears",
        bear,
        (124, 80, 50),
        (0.50, 0.70),
        waist=(0.50, 0.56, 0.56),
        creature=True,
        mouth=(0.50, 0.50),
        hand=(0.13, 0.78),
        crown=(0.50, 0.12, 0.44),
        back=(0.50, 0.12),
        astride=True,
    ),
)
