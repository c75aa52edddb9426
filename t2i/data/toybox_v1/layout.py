"""Placement of the objects of a scene: position, size and orientation.

Lengths are integers in 64ths of the image side, so that images of 64 and 256 pixels show the same scene, and few enough
sizes occur for `composite.layers` to cache them all.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from t2i.data.toybox_v1.composite import bounds
from t2i.data.toybox_v1.description import SceneDescription

UNITS = 64
_MARGIN = 1  # kept free along the image's edges
_FAR = UNITS - _MARGIN


@dataclass(frozen=True)
class Placement:
    """One object: index of its thing, top left corner and side of its box in 64ths of the image side."""

    thing: int
    x: int
    y: int
    size: int
    mirrored: bool
    shadow: bool = True  # an object on top of another casts none on the ground


class Jitter:
    """Small random choices from a seed. Only `random.random` is used: Python guarantees its stream for all versions."""

    def __init__(self, seed: int):
        self._random = random.Random(seed).random

    def pick(self, low: int, high: int, step: int = 1) -> int:
        """One of low, low + step, … up to high, both included; low where the range is empty."""
        return low + step * int(self._random() * max(1, (high - low) // step + 1))

    def coin(self) -> bool:
        return self._random() < 0.5

    def near(self, centre: float, spread: float) -> float:
        return centre + spread * (2 * self._random() - 1)


def layout(scene: SceneDescription, jitter: Jitter) -> list[Placement]:
    """The placements of all objects, in painting order. All boxes lie inside the image."""
    if scene.relation is not None:
        kinds = [thing.kind for thing in scene.things]
        if scene.relation in ("on top of", "below"):
            upper = 0 if scene.relation == "on top of" else 1
            return _stack(kinds, upper, jitter)
        left = 0 if scene.relation == "left of" else 1
        return _side_by_side(left, jitter)
    count = scene.things[0].count
    return [_single(jitter)] if count == 1 else _group(count, jitter)


def _single(jitter: Jitter) -> Placement:
    size = jitter.pick(40, 58, step=2)
    x = jitter.pick(_MARGIN, _FAR - size)
    # Near the lower edge, which is ground in every background: nothing floats in the sky.
    y = _FAR - size - jitter.pick(0, min(10, _FAR - _MARGIN - size))
    return Placement(0, x, y, size, jitter.coin())


def _stack(kinds: list[str], upper: int, jitter: Jitter) -> list[Placement]:
    """One object on top of the other: their drawings, not only their boxes, touch."""
    lower = 1 - upper
    top, base = jitter.pick(27, 31, step=2), jitter.pick(27, 31, step=2)
    y_base = jitter.pick(_FAR - base - 2, _FAR - base)
    # They overlap by one unit, since outlines are soft and lids and heads are round.
    _, head, _, _ = bounds(kinds[lower])
    _, _, _, foot = bounds(kinds[upper])
    y_top = max(_MARGIN, round(y_base + head * base - foot * top) + 1)
    x_base = jitter.pick((UNITS - base) // 2 - 8, (UNITS - base) // 2 + 8)
    x_top = x_base + (base - top) // 2 + jitter.pick(-2, 2)
    return [
        Placement(lower, x_base, y_base, base, jitter.coin()),
        Placement(upper, x_top, y_top, top, jitter.coin(), shadow=False),
    ]


def _side_by_side(left: int, jitter: Jitter) -> list[Placement]:
    sizes = [jitter.pick(27, 31, step=2) for _ in range(2)]
    gap = jitter.pick(0, _FAR - _MARGIN - sum(sizes))
    x = jitter.pick(_MARGIN, _FAR - sum(sizes) - gap)
    ground = jitter.pick(_FAR - 16, _FAR - 1)  # both stand on it approximately
    placements = []
    for thing, size in zip((left, 1 - left), sizes, strict=True):
        placements.append(Placement(thing, x, ground - size + jitter.pick(-1, 1), size, jitter.coin()))
        x += size + gap
    return placements


def _group(count: int, jitter: Jitter) -> list[Placement]:
    """Two in a row; three in a row or a triangle; four in a square. Each is jittered within its own cell."""
    if count == 2:
        size, y = 29, jitter.pick(16, 32)
        cells = [(1, y), (33, y)]
    elif count == 3 and jitter.coin():
        size, y = 19, jitter.pick(24, 42)
        cells = [(1, y), (22, y), (43, y)]
    elif count == 3:
        size = 29
        cells = [(17, 1), (1, 33), (33, 33)]
    else:
        size = 29
        cells = [(1, 1), (33, 1), (1, 33), (33, 33)]
    mirrored = jitter.coin()
    return [Placement(0, x + jitter.pick(0, 1), y + jitter.pick(0, 1), size, mirrored) for x, y in cells]
