"""Hybrids: the top of one kind on the base of another, joined at their waists."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

from t2i.data.toybox.kind import Kind
from t2i.data.toybox.kinds import KINDS
from t2i.data.toybox.sketch import BASE, TOP, Box, Shape

LARGEST = 1.3  # scale of a top relative to its base, and at least 1 / LARGEST
MARGIN = 0.04  # kept free around the drawing


@lru_cache(maxsize=8192)
def form(kind: str, head: str | None = None) -> Kind:
    """A kind (a name in KINDS), or a kind with the top of another, as large as fits the unit square.

    It eats, wears hats and is looked at with the head's mouth, crown and eyes; everything else is the base's.
    """
    base = KINDS[kind]
    if head is None:
        return base
    top = KINDS[head]
    neck, waist = base.neck or base.waist, top.waist
    scale = min(LARGEST, max(1 / LARGEST, neck[2] / waist[2]))
    onto = scale, neck[0] - scale * waist[0], neck[1] - scale * waist[1]
    # The new top is drawn where the old one ended: what covered that, the arms of a chair, covers this.
    ends = max((i for i, shape in enumerate(base.shapes) if shape.part == TOP), default=len(base.shapes))
    shapes = [shape for shape in base.shapes[:ends] if shape.part == BASE]
    shapes += [shape.moved(*onto) for shape in top.shapes if shape.part == TOP]
    shapes += [shape for shape in base.shapes[ends:] if shape.part == BASE]
    x0, y0, x1, y1 = extent(shapes)
    fit = (1 - 2 * MARGIN) / max(x1 - x0, y1 - y0)
    fill = fit, 0.5 - fit * (x0 + x1) / 2, 1 - MARGIN - fit * y1
    whole = [shape.moved(*fill) for shape in shapes]
    points = {
        name: _moved(getattr(base, name), fill)
        for name in ("heart", "waist", "hand", "back", "hips", "seat", "rim", "grip", "bite", "brim")
    }
    points |= {name: _moved(_moved(getattr(top, name), onto), fill) for name in ("mouth", "crown")}
    return replace(base, draw=lambda sketch: sketch.shapes.extend(whole), board=None, **points)


def extent(shapes: Iterable[Shape]) -> Box:
    """The box around shapes, with half of the width of lines."""
    boxes = []
    for shape in shapes:
        (xs, ys), r = zip(*shape.points, strict=True), shape.lengths.get("width", 0) / 2 * (shape.name == "line")
        boxes.append((min(xs) - r, min(ys) - r, max(xs) + r, max(ys) + r))
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def _moved(place: tuple[float, ...] | None, by: tuple[float, float, float]) -> tuple[float, ...] | None:
    """A point or a span with its points p at scale · p + (dx, dy)."""
    if place is None:
        return None
    scale, dx, dy = by
    return (scale * place[0] + dx, scale * place[1] + dy, *(scale * width for width in place[2:]))
