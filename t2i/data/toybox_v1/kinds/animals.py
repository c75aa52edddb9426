"""Animals."""

from __future__ import annotations

from t2i.data.toybox_v1.painter import DARK, LIGHT, METAL, Painter, Point


def _eye(p: Painter, x: float, y: float, r: float) -> None:
    """A round eye: white, pupil, glint."""
    p.ellipse((x - r, y - r, x + r, y + r), ink=LIGHT)
    p.ellipse((x - 0.72 * r, y - 0.72 * r, x + 0.72 * r, y + 0.72 * r), ink=DARK)
    p.ellipse((x - 0.45 * r, y - 0.5 * r, x, y - 0.05 * r), ink=LIGHT)


def _tube(p: Painter, curve: tuple[Point, Point, Point, Point], w0: float, w1: float, tone: float) -> None:
    """A tail or an arm along a cubic Bézier curve, with a width from w0 to w1."""
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = curve
    for i in range(41):
        t = i / 40
        k0, k1, k2, k3 = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
        x, y, r = k0 * ax + k1 * bx + k2 * cx + k3 * dx, k0 * ay + k1 * by + k2 * cy + k3 * dy, (w0 + (w1 - w0) * t) / 2
        p.ellipse((x - r, y - r, x + r, y + r), tone=tone)


def horse(p: Painter) -> None:
    _tube(p, ((0.74, 0.44), (0.96, 0.36), (0.84, 0.60), (0.91, 0.78)), 0.11, 0.10, tone=0.6)  # tail
    p.polygon([(0.36, 0.60), (0.50, 0.60), (0.47, 0.95), (0.38, 0.95)], tone=0.7)  # far legs
    p.polygon([(0.56, 0.60), (0.70, 0.60), (0.65, 0.95), (0.56, 0.95)], tone=0.7)
    _tube(p, ((0.32, 0.10), (0.47, 0.08), (0.53, 0.26), (0.56, 0.43)), 0.14, 0.12, tone=0.6)  # mane
    p.rect((0.24, 0.37, 0.81, 0.68), radius=0.15, tone=1.0)  # body
    p.polygon([(0.24, 0.56), (0.26, 0.24), (0.36, 0.10), (0.45, 0.20), (0.55, 0.42), (0.48, 0.60)], tone=1.0)  # neck
    p.polygon([(0.24, 0.50), (0.39, 0.62), (0.36, 0.95), (0.265, 0.95)], tone=1.0)  # near legs
    p.polygon([(0.65, 0.62), (0.81, 0.50), (0.79, 0.95), (0.695, 0.95)], tone=1.0)
    p.polygon([(0.29, 0.18), (0.30, 0.03), (0.40, 0.15)], tone=1.25)  # ear
    p.line([(0.31, 0.21), (0.13, 0.37)], width=0.17, tone=1.1)  # head
    p.ellipse((0.04, 0.29, 0.215, 0.465), tone=1.35)  # muzzle
    p.ellipse((0.075, 0.345, 0.12, 0.39), ink=DARK)  # nostril
    _eye(p, 0.26, 0.225, 0.045)
    for x in (0.262, 0.377, 0.557, 0.692):  # hooves
        p.rect((x, 0.90, x + 0.10, 0.965), ink=DARK)


def squirrel(p: Painter) -> None:
    _tube(p, ((0.50, 0.82), (0.98, 0.92), (0.80, 0.54), (0.78, 0.32)), 0.24, 0.28, tone=0.75)  # tail
    p.ellipse((0.55, 0.04, 0.96, 0.46), tone=0.75)  # its curl
    _tube(p, ((0.79, 0.74), (0.86, 0.60), (0.82, 0.50), (0.84, 0.38)), 0.07, 0.07, tone=1.25)
    p.arc((0.625, 0.115, 0.885, 0.385), 150, 390, width=0.07, tone=1.25)
    p.polygon([(0.15, 0.28), (0.15, 0.06), (0.30, 0.22)], tone=0.7)  # ears
    p.polygon([(0.28, 0.26), (0.37, 0.04), (0.46, 0.28)], tone=0.9)
    p.ellipse((0.20, 0.42, 0.62, 0.95), tone=1.0)  # body
    p.ellipse((0.20, 0.50, 0.40, 0.88), tone=1.4)  # belly
    p.ellipse((0.36, 0.60, 0.66, 0.95), tone=1.1)  # haunch
    p.ellipse((0.16, 0.86, 0.54, 0.965), tone=0.8)  # foot
    p.ellipse((0.09, 0.18, 0.51, 0.53), tone=1.05)  # head
    p.ellipse((0.05, 0.33, 0.27, 0.52), tone=1.35)  # muzzle
    p.ellipse((0.04, 0.34, 0.11, 0.41), ink=DARK)  # nose
    _eye(p, 0.29, 0.32, 0.06)
    p.ellipse((0.10, 0.58, 0.26, 0.78), ink=(140, 108, 76))  # acorn
    p.pie((0.08, 0.54, 0.28, 0.74), 180, 360, ink=(84, 66, 54))
    p.line([(0.42, 0.59), (0.33, 0.68), (0.24, 0.69)], width=0.09, tone=0.8)  # arm


def octopus(p: Painter) -> None:
    for s in (-1, 1):  # arms: raised, spread, low
        x = [0.5 + s * d for d in (0.10, 0.14, 0.20, 0.22, 0.25, 0.30, 0.36, 0.42, 0.40)]
        _tube(p, ((x[1], 0.62), (x[5], 0.76), (x[5], 0.54), (x[7], 0.52)), 0.15, 0.09, tone=0.75)
        _tube(p, ((x[1], 0.66), (x[3], 0.92), (x[6], 0.92), (x[7], 0.76)), 0.15, 0.09, tone=1.0)
        _tube(p, ((x[0], 0.66), (x[0], 0.82), (x[1], 0.90), (x[4], 0.91)), 0.15, 0.09, tone=0.75)
    _tube(p, ((0.50, 0.66), (0.50, 0.80), (0.50, 0.85), (0.50, 0.91)), 0.15, 0.09, tone=1.1)
    p.rect((0.29, 0.40, 0.71, 0.73), radius=0.12, tone=1.0)  # head
    p.ellipse((0.19, 0.04, 0.81, 0.59), tone=1.0)
    _eye(p, 0.38, 0.47, 0.09)
    _eye(p, 0.62, 0.47, 0.09)
    p.arc((0.41, 0.52, 0.59, 0.67), 20, 160, width=0.035, ink=DARK)  # mouth


def mouse(p: Painter) -> None:
    _tube(p, ((0.64, 0.87), (1.06, 0.97), (0.78, 0.60), (0.92, 0.38)), 0.09, 0.06, tone=0.8)  # tail
    p.ellipse((0.50, 0.10, 0.80, 0.42), tone=0.75)  # far ear
    p.ellipse((0.56, 0.16, 0.74, 0.36), tone=1.15)
    p.ellipse((0.28, 0.34, 0.78, 0.92), tone=1.0)  # body
    p.polygon([(0.06, 0.68), (0.26, 0.45), (0.44, 0.36), (0.60, 0.91), (0.24, 0.90), (0.07, 0.77)], tone=1.0)  # head
    p.ellipse((0.58, 0.65, 0.77, 0.91), tone=0.85)  # haunch
    p.ellipse((0.20, 0.84, 0.40, 0.94), tone=1.25)  # feet
    p.ellipse((0.48, 0.84, 0.72, 0.94), tone=1.25)
    p.ellipse((0.10, 0.05, 0.48, 0.46), tone=1.0)  # near ear
    p.ellipse((0.17, 0.12, 0.42, 0.40), tone=1.35)
    for y in (0.68, 0.79):  # whiskers
        p.line([(0.19, 0.735), (0.34, y)], width=0.022, ink=METAL)
    _eye(p, 0.25, 0.58, 0.075)
    p.ellipse((0.035, 0.66, 0.155, 0.78), ink=DARK)  # nose


def cat(p: Painter) -> None:
    _tube(p, ((0.56, 0.90), (0.98, 0.94), (0.74, 0.66), (0.89, 0.56)), 0.12, 0.12, tone=0.75)  # tail
    p.ellipse((0.18, 0.48, 0.72, 0.97), tone=0.85)  # body
    p.ellipse((0.31, 0.56, 0.59, 0.94), tone=1.3)  # chest
    p.ellipse((0.22, 0.85, 0.43, 0.97), tone=1.1)  # paws
    p.ellipse((0.47, 0.85, 0.68, 0.97), tone=1.1)
    for s in (-1, 1):  # ears
        p.polygon([(0.45 + s * 0.37, 0.38), (0.45 + s * 0.35, 0.03), (0.45 + s * 0.05, 0.19)], tone=0.95)
        p.polygon([(0.45 + s * 0.31, 0.28), (0.45 + s * 0.30, 0.11), (0.45 + s * 0.15, 0.20)], tone=0.65)
    p.ellipse((0.06, 0.15, 0.84, 0.64), tone=1.0)  # head
    p.ellipse((0.29, 0.42, 0.61, 0.62), tone=1.35)  # muzzle
    for s in (-1, 1):  # whiskers
        for y in (0.48, 0.57):
            p.line([(0.45 + s * 0.20, 0.50), (0.45 + s * 0.36, y)], width=0.022, ink=METAL)
        _eye(p, 0.45 + s * 0.18, 0.37, 0.09)
    p.polygon([(0.39, 0.44), (0.51, 0.44), (0.45, 0.51)], ink=DARK)  # nose
    p.arc((0.36, 0.47, 0.45, 0.56), 20, 140, width=0.025, ink=DARK)  # mouth
    p.arc((0.45, 0.47, 0.54, 0.56), 40, 160, width=0.025, ink=DARK)


def fish(p: Painter) -> None:
    _tube(p, ((0.70, 0.50), (0.78, 0.38), (0.82, 0.28), (0.89, 0.26)), 0.14, 0.12, tone=0.75)  # tail
    _tube(p, ((0.70, 0.50), (0.78, 0.62), (0.82, 0.72), (0.89, 0.74)), 0.14, 0.12, tone=0.75)
    p.polygon([(0.70, 0.50), (0.85, 0.24), (0.86, 0.76)], tone=0.75)
    _tube(p, ((0.30, 0.28), (0.42, 0.18), (0.50, 0.15), (0.60, 0.15)), 0.16, 0.12, tone=0.7)  # fins
    p.polygon([(0.30, 0.30), (0.58, 0.14), (0.66, 0.36)], tone=0.7)
    _tube(p, ((0.44, 0.74), (0.48, 0.82), (0.52, 0.86), (0.58, 0.86)), 0.14, 0.10, tone=0.7)
    p.ellipse((0.04, 0.20, 0.78, 0.80), tone=1.0)  # body
    p.arc((0.04, 0.26, 0.37, 0.74), -62, 62, width=0.045, tone=0.6)  # gill
    p.pie((0.42, 0.52, 0.64, 0.74), 300, 520, tone=0.7)  # side fin
    _eye(p, 0.20, 0.42, 0.09)
    p.arc((0.06, 0.50, 0.20, 0.62), 20, 130, width=0.035, ink=DARK)  # mouth
