"""Placement of the objects of a scene: position, size, orientation, and who covers whom.

Lengths are in units of the image side, so that images of 64 and 256 pixels show the same scene.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from t2i.data.toybox.description import Relation, SceneDescription, Thing
from t2i.data.toybox.facts import INVERSE
from t2i.data.toybox.hybrid import form
from t2i.data.toybox.kind import Kind
from t2i.data.toybox.kinds import KINDS
from t2i.data.toybox.sketch import Box, Point
from t2i.data.toybox.sprite import COLUMNS, bounds, profile, text_scale
from t2i.data.toybox.styles import LETTER_SCALE

MARGIN = 1 / 64  # kept free along the image's edges
STEP = 1 / 64  # sides are multiples of it: few enough sizes for `sprite.layers` to cache them
LEAST, MOST = 8 * STEP, 60 * STEP  # smallest and largest side
SCALES = {"big": 1.45, None: 1.0, "small": 0.55}  # side relative to that of a thing of no stated size
ALONE = {"big": (56, 60), None: (36, 48), "small": (15, 20)}  # range of the side of a single object, in STEPs


@dataclass(frozen=True)
class Placement:
    """One object.

    Attributes:
        thing: index of its thing.
        x, y: top left corner of its box.
        side: side of its box.
        mirrored: whether left and right are exchanged.
        grounded: whether it stands on the ground and casts a shadow.
        hidden_below: opening (centre x, y, width) in which everything below y is hidden, or None.
        bite: centre of the bite taken out of it, or None.
    """

    thing: int
    x: float
    y: float
    side: float
    mirrored: bool = False
    grounded: bool = True
    hidden_below: tuple[float, float, float] | None = None
    bite: Point | None = None

    def at(self, point: Sequence[float]) -> Point:
        """Where a point of the unit square is in the image."""
        x = 1 - point[0] if self.mirrored else point[0]
        return self.x + x * self.side, self.y + point[1] * self.side

    def box(self, thing: Thing) -> Box:
        """The box around the drawing."""
        x0, y0, x1, y1 = bounds(thing.kind, thing.head)
        (ax, top), (bx, bottom) = self.at((x0, y0)), self.at((x1, y1))
        return min(ax, bx), top, max(ax, bx), bottom

    def moved(self, scale: float, dx: float, dy: float) -> Placement:
        """The placement with every point p at scale · p + (dx, dy)."""
        hidden = self.hidden_below
        if hidden is not None:
            hidden = scale * hidden[0] + dx, scale * hidden[1] + dy, scale * hidden[2]
        bite = None if self.bite is None else (scale * self.bite[0] + dx, scale * self.bite[1] + dy)
        x, y, side = scale * self.x + dx, scale * self.y + dy, scale * self.side
        return replace(self, x=x, y=y, side=side, hidden_below=hidden, bite=bite)


class Jitter:
    """Small random choices from a seed. Only `random.random` is used: Python guarantees its stream for all versions."""

    def __init__(self, seed: int):
        self._random = random.Random(seed).random

    def pick(self, low: int, high: int) -> int:
        """A whole number from low to high, both included; low if there is none."""
        return low + int(self._random() * max(1, high - low + 1))

    def coin(self) -> bool:
        return self._random() < 0.5

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()


class Layout:
    """Puts things together, group by group. A group is a list of placements in painting order."""

    def __init__(self, scene: SceneDescription, jitter: Jitter):
        self.things, self.style, self.jitter = scene.things, scene.style, jitter
        self.groups = [self._group(i, thing) for i, thing in enumerate(scene.things)]

    def placements(self, relations: Sequence[Relation]) -> list[Placement]:
        """All placements, in painting order; every drawing lies inside the image."""
        for relation in sorted(relations, key=lambda r: r.name in ("left of", "right of", "in front of", "behind")):
            self._relate(relation)
        rows = list(dict.fromkeys(map(id, self.groups)))
        groups = [next(g for g in self.groups if id(g) == row) for row in rows]
        if len(groups) > 3 or (len(groups) == 3 and self._wide(groups)):  # two rows
            half = len(groups) // 2
            whole = self._above(self._row(groups[:half]), self._row(groups[half:]))
        else:
            whole = self._row(groups)
        return self._framed(whole)

    def _wide(self, groups: Sequence[list[Placement]]) -> bool:
        """Whether groups side by side would be more than three times as wide as high."""
        boxes = [self._box(group) for group in groups]
        return sum(x1 - x0 for x0, _, x1, _ in boxes) > 3 * max(y1 - y0 for _, y0, _, y1 in boxes)

    # --- groups -----------------------------------------------------------------------------------------------------

    def _group(self, i: int, thing: Thing) -> list[Placement]:
        """One object; two in a row; three in a row or a triangle; four in a square."""
        side, mirrored = SCALES[thing.size], self.jitter.coin()
        cells = {1: [(0, 0)], 2: [(0, 0), (1, 0)], 3: [(0.5, 0), (0, 1), (1, 1)], 4: [(0, 0), (1, 0), (0, 1), (1, 1)]}
        places = cells[thing.count]
        if thing.count == 3 and len(self.things) == 1 and self.jitter.coin():  # among other things it would be tiny
            places = [(0, 0), (1, 0), (2, 0)]
        return [Placement(i, 1.04 * side * x, 1.04 * side * y, side, mirrored) for x, y in places]

    def _box(self, group: Sequence[Placement]) -> Box:
        x0, y0, x1, y1 = zip(*(p.box(self.things[p.thing]) for p in group), strict=True)
        return min(x0), min(y0), max(x1), max(y1)

    def _form(self, i: int) -> Kind:
        return form(self.things[i].kind, self.things[i].head)

    def _placement(self, i: int) -> Placement:
        return next(p for p in self.groups[i] if p.thing == i)

    def _merge(self, i: int, j: int, group: list[Placement]) -> None:
        """Make `group` that of the things connected to i and j."""
        old = self.groups[i], self.groups[j]
        self.groups = [group if any(g is o for o in old) else g for g in self.groups]

    # --- relations --------------------------------------------------------------------------------------------------

    def _relate(self, relation: Relation) -> None:
        i, j = relation.subject, relation.object
        match relation.name:
            case "right of" | "behind" | "below":
                self._relate(Relation(j, INVERSE[relation.name], i))
            case "left of":
                self._merge(i, j, self._row([self.groups[i], self.groups[j]]))
            case "in front of":
                self._cover(i, j)
            case "on top of":
                self._stack(i, j)
            case "inside":
                self._insert(i, j)
            case "riding":
                self._ride(i, j)
            case "sitting on":
                self._attach(i, self._hips(i), j, self._form(j).seat, 0.75, front=True)
            case "holding":
                self._hold(i, j)
            case "eating":
                self._eat(i, j)
            case "wearing":
                brim, crown = self._form(j).brim, self._form(i).crown
                ratio = self._placement(i).side / self._placement(j).side * crown[2] / brim[2]
                self._attach(j, brim, i, crown, ratio, front=True)

    def _attach(self, i: int, point: Sequence[float], j: int, to: Sequence[float], ratio: float, front: bool) -> None:
        """Put a point of thing i at a point of thing j, with i's group scaled by `ratio`, before or behind j's."""
        guest, host = self.groups[i], self.groups[j]
        x, y = self._placement(j).at(to)
        px, py = self._placement(i).at(point)
        guest = [replace(p.moved(ratio, x - ratio * px, y - ratio * py), grounded=False) for p in guest]
        self._merge(i, j, [*host, *guest] if front else [*guest, *host])

    def _feet(self, i: int) -> Point:
        """The lowest point of the drawing, in the middle of its box."""
        x0, _, x1, y1 = bounds(self.things[i].kind, self.things[i].head)
        return (x0 + x1) / 2, y1

    def _hips(self, i: int) -> Point:
        """The point that is on a seat when the thing sits: its hips, or a little above its foot if it has none."""
        x, foot = self._feet(i)
        return self._form(i).hips or (x, foot - 0.04)

    def _stack(self, upper: int, lower: int) -> None:
        """One thing on top of another: on the back of an animal, on a head, or on the middle of anything else.

        Their drawings touch, with a small overlap, as lids and heads are round.
        """
        form, thing = self._form(lower), self.things[lower]
        x0, y0, x1, _ = bounds(thing.kind, thing.head)
        x, ratio = (x0 + x1) / 2, 1.0
        if form.creature and form.back is not None and not form.astride:
            x, ratio = form.back[0], 0.8  # smaller, to leave the animal's head visible
        elif form.crown is not None:
            x = form.crown[0]
        x += self.jitter.between(-0.06, 0.06)
        near = [column for column in profile(thing.kind, thing.head)[round(COLUMNS * x) - 2 :][:4] if column]
        y = min((top for top, _ in near), default=y0)
        foot, at = self._feet(upper), self._placement(lower).at((x, y))
        guest, below = self._placement(upper), self._placement(lower)
        px, py = guest.at(foot)
        gap = self._gap(guest.moved(ratio, at[0] - ratio * px, at[1] - ratio * py), below) / below.side
        self._attach(upper, foot, lower, (x, y + 0.04 + gap), ratio, front=True)

    def _gap(self, upper: Placement, lower: Placement) -> float:
        """How far a thing can sink until it touches the one below it: a tilted surfboard on a wave."""
        gaps, (above, below) = [0.15 * lower.side], (self.things[p.thing] for p in (upper, lower))
        surface = profile(below.kind, below.head)
        for i, column in enumerate(profile(above.kind, above.head)):
            x = (upper.at(((i + 0.5) / COLUMNS, 0))[0] - lower.x) / lower.side
            k = int(COLUMNS * (1 - x if lower.mirrored else x))
            if column and 0 <= k < COLUMNS and surface[k]:
                gaps.append(lower.at((0, surface[k][0]))[1] - upper.at((0, column[1]))[1])
        return max(0.0, min(gaps))

    def _ride(self, rider: int, mount: int) -> None:
        """A rider on the back of a mount, with the legs before it, or on its shoulders, with the legs behind its head.

        Both faces are visible.
        """
        form = self._form(mount)
        if form.astride:
            (x, foot), chin = self._feet(rider), self._form(rider).waist[1]
            self._attach(rider, (x, max(foot - 0.28, chin + 0.08)), mount, form.back, 0.9, front=False)
        else:
            self._attach(rider, self._hips(rider), mount, form.back, 0.72, front=True)

    def _insert(self, i: int, j: int) -> None:
        """Thing i in the opening of thing j, which hides its lower part."""
        x, y, width = self._form(j).rim
        x0, y0, x1, y1 = bounds(self.things[i].kind, self.things[i].head)
        ratio = self._placement(j).side / self._placement(i).side * min(1.1, 0.85 * width / (x1 - x0))
        middle = (x0 + x1) / 2, y0 + 0.68 * (y1 - y0)
        self._attach(i, middle, j, (x, y), ratio, front=True)
        container = self._placement(j)
        centre, level = container.at((x, y))
        group = [
            replace(p, hidden_below=(centre, level, width * container.side)) if p.thing == i else p
            for p in self.groups[j]
        ]
        self._merge(i, j, group)

    def _eat(self, eater: int, food: int) -> None:
        """The food at the eater's mouth, with a bite taken out of it.

        It is before a face in profile, and below a mouth that faces the viewer, so that it does not hide the eyes.
        """
        form, (x, y) = self._form(food), self._form(eater).mouth
        x0, y0, x1, _ = bounds(self.things[food].kind, self.things[food].head)
        side = KINDS[self.things[eater].head or self.things[eater].kind].mouth[0]  # where the face looks
        if abs(side - 0.5) > 0.2:
            leftwards = (side < 0.5) != self._placement(eater).mirrored
            edge = x1 - 0.04 if leftwards != self._placement(food).mirrored else x0 + 0.04, form.grip[1]
        else:
            edge, y = form.bite or (form.grip[0], y0 + 0.08), y + 0.03
        self._attach(food, edge, eater, (x, y), 0.42, front=True)
        at = self._placement(eater).at((x, y))
        self._merge(eater, food, [replace(p, bite=at) if p.thing == food else p for p in self.groups[eater]])

    def _hold(self, holder: int, held: int) -> None:
        """A thing in the holder's hand; one that is held at a side, such as a cup, points away from the holder."""
        hand, grip = self._form(holder).hand, self._form(held).grip
        left = (hand[0] < 0.5) != self._placement(holder).mirrored  # whether the hand is on the left
        if abs(grip[0] - 0.5) > 0.2 and len(self.groups[held]) == 1:
            self._merge(held, held, [replace(self._placement(held), mirrored=(grip[0] < 0.5) == left)])
        self._attach(held, grip, holder, hand, 0.46, front=True)

    def _cover(self, front: int, back: int) -> None:
        """One group partly before another, lower and to one side."""
        nearer, further = self.groups[front], self.groups[back]
        ax0, _, ax1, ay1 = self._box([p for p in nearer if p.thing == front])  # of the things alone: a box around what
        bx0, _, bx1, by1 = self._box([p for p in further if p.thing == back])  # is next to them would hide them
        ratio = 0.8 * (bx1 - bx0) / (ax1 - ax0)
        dy = by1 + 0.08 * (bx1 - bx0) - ratio * ay1
        groups = []
        for side in (1, -1) if self.jitter.coin() else (-1, 1):
            centre = (bx0 + bx1) / 2 + side * 0.36 * (bx1 - bx0)
            groups.append([p.moved(ratio, centre - ratio * (ax0 + ax1) / 2, dy) for p in nearer])
        self._merge(front, back, [*further, *min(groups, key=lambda group: self._overlap(group, further))])

    def _overlap(self, group: Sequence[Placement], other: Sequence[Placement]) -> float:
        """The area that the boxes of two groups share."""
        area = 0.0
        for p, q in product(group, other):
            (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = p.box(self.things[p.thing]), q.box(self.things[q.thing])
            area += max(0.0, min(ax1, bx1) - max(ax0, bx0)) * max(0.0, min(ay1, by1) - max(ay0, by0))
        return round(area, 6)  # equal on both sides, if nothing else is near: min takes the first

    # --- composition ------------------------------------------------------------------------------------------------

    def _row(self, groups: Sequence[list[Placement]]) -> list[Placement]:
        """Groups side by side on the same ground."""
        row, x = [], 0.0
        for group in groups:
            x0, _, x1, y1 = self._box(group)
            row += [p.moved(1.0, x - x0, self.jitter.between(-0.04, 0.04) - y1) for p in group]
            x += x1 - x0 + self.jitter.between(0.05, 0.2)
        return row

    def _above(self, upper: list[Placement], lower: list[Placement]) -> list[Placement]:
        ax0, _, ax1, ay1 = self._box(upper)
        bx0, by0, bx1, _ = self._box(lower)
        dx, dy = (bx0 + bx1) / 2 - (ax0 + ax1) / 2, by0 - 0.06 - ay1
        return [p.moved(1.0, dx, dy) for p in upper] + lower

    def _framed(self, group: list[Placement]) -> list[Placement]:
        """The group scaled and moved into the image, near its lower edge, which is ground in every background."""
        jitter, room = self.jitter, 1 - 2 * MARGIN
        x0, y0, x1, y1 = self._box(group)
        largest = room / max(x1 - x0, y1 - y0)
        if len(group) == 1:
            side = self._readable(STEP * jitter.pick(*ALONE[self.things[0].size]))
            scale = min(largest, side / group[0].side)
        else:
            scale = largest * jitter.between(0.86, 1.0)
        group = [self._rounded(p.moved(scale, 0, 0)) for p in group]
        x0, y0, x1, y1 = self._box(group)
        fit = min(1.0, room / max(x1 - x0, y1 - y0))  # rounding may have made it larger
        dx = MARGIN - fit * x0 + jitter.between(0, room - fit * (x1 - x0))
        dy = 1 - MARGIN - fit * y1 - jitter.between(0, min(0.16, room - fit * (y1 - y0)))
        return [p.moved(fit, dx, dy) for p in group]

    def _readable(self, side: float) -> float:
        """The side of a single thing: at least `side`, and large enough to read its inscription unless it is small."""
        thing = self.things[0]
        if thing.text is None or thing.size == "small":
            return side
        scale = text_scale(thing.kind, round(128 * side), thing.text)
        return min(MOST, max(side, side * LETTER_SCALE[self.style] / scale)) if scale else MOST

    def _rounded(self, p: Placement) -> Placement:
        """The placement with a side that is a multiple of STEP; the middle of its foot stays where it is."""
        side = min(MOST, max(LEAST, STEP * round(p.side / STEP)))
        return replace(p, x=p.x + (p.side - side) / 2, y=p.y + p.side - side, side=side)


def layout(scene: SceneDescription, jitter: Jitter) -> list[Placement]:
    """The placements of all objects, in painting order. All drawings lie inside the image."""
    return Layout(scene, jitter).placements(scene.relations)
