"""Outlines of shapes as polygons, and polygons cut at the waist, from which kinds with a top and a base are drawn.

Plain arithmetic only: sines differ in the last bit between machines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from t2i.data.toybox.sketch import Box, Ink, Point, Sketch


def bezier(a: Point, b: Point, c: Point, d: Point, steps: int = 20) -> list[Point]:
    """Points along a cubic Bézier curve from a to d."""
    points = []
    for i in range(steps + 1):
        t = i / steps
        k0, k1, k2, k3 = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
        points.append((k0 * a[0] + k1 * b[0] + k2 * c[0] + k3 * d[0], k0 * a[1] + k1 * b[1] + k2 * c[1] + k3 * d[1]))
    return points


def oval(box: Box, steps: int = 16) -> list[Point]:
    """The outline of the ellipse in a box, `steps` points for each quarter."""
    (x0, y0, x1, y1), quarter = box, []
    for i in range(steps):
        t = i / steps
        quarter.append(((1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)))
    unit = quarter + [(-s, c) for c, s in quarter] + [(-c, -s) for c, s in quarter] + [(s, -c) for c, s in quarter]
    return [((x0 + x1) / 2 + c * (x1 - x0) / 2, (y0 + y1) / 2 + s * (y1 - y0) / 2) for c, s in unit]


def mirrored(points: Sequence[Point], x: float = 0.5) -> list[Point]:
    """The points mirrored left to right at x, in reverse order: the other half of a symmetric outline."""
    return [(2 * x - px, py) for px, py in reversed(points)]


def _cut(points: Sequence[Point], y: float) -> tuple[list[list[Point]], list[list[Point]]]:
    """The pieces of a polygon above and below a horizontal line. It is cut into as many as it has, if not convex."""
    chains, cuts = [[]], []  # the outline between cuts: chain i leads from cut i - 1 to cut i
    for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True):
        chains[-1].append((ax, ay))
        if (ay < y) != (by < y):
            cuts.append((ax + (bx - ax) * (y - ay) / (by - ay), y))
            chains[-1].append(cuts[-1])
            chains.append([cuts[-1]])
    if not cuts:
        return ([list(points)], []) if points[0][1] < y else ([], [list(points)])
    chains[0] = chains.pop() + chains[0]
    along = sorted(range(len(cuts)), key=lambda i: cuts[i][0])  # inside the polygon from the first to the second, …
    partner = {i: along[place ^ 1] for place, i in enumerate(along)}
    pieces, left = ([], []), set(range(len(chains)))
    while left:
        first = i = min(left)
        piece = []
        while i in left:
            left.remove(i)
            piece += chains[i]
            i = (partner[i] + 1) % len(chains)
        is_below = (points[0][1] >= y) == (first % 2 == 0)  # the chains lie in turn on the two sides
        pieces[is_below].append(piece)
    return pieces


def halved(
    p: Sketch,
    outline: Iterable[Point],
    waist: float,
    tone: float = 1.0,
    natural: Ink | None = None,
    overlap: float = 0.06,
) -> None:
    """A polygon of the body whose lower half belongs to the base and whose upper half belongs to the top.

    Either half goes beyond the waist by `overlap`, so that no gap shows between it and the half of another kind. The
    shapes that follow belong to the top.
    """
    outline = list(outline)
    p.base()
    for piece in _cut(outline, waist - overlap)[1]:
        p.polygon(piece, tone, natural=natural)
    p.top()
    for piece in _cut(outline, waist + overlap)[0]:
        p.polygon(piece, tone, natural=natural)
