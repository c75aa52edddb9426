"""A kind of thing: its names, its drawing, and the points where other things meet it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from t2i.data.toybox.sketch import Box, Ink, Point, Shape, Sketch, sketched

Span = tuple[float, float, float]  # x and y of its centre, width


@dataclass(frozen=True, eq=False)
class Kind:
    """One kind of thing. All points are in the unit square of the drawing.

    Attributes:
        name: singular, as used in captions.
        plural: plural, as used in captions.
        draw: function that draws it.
        natural: colour of its body where it has no attribute; single shapes may have others.
        heart: centre of its largest uninterrupted surface, where the avocado's pit is.
        waist: where top and base meet, of which hybrids are made.
        neck: where the top of another kind meets its base; None: at the waist.
        creature: whether it can ride, and sit on something.
        mouth: where it eats; None: it cannot.
        hand: where it holds things; None: it cannot.
        crown: where a hat sits; None: it cannot wear one.
        brim: of a hat: the span that is put on a crown; None: it is no hat.
        back: where a rider sits or stands; None: it cannot be ridden.
        astride: whether a rider sits on its shoulders, behind its head.
        hips: the point of it that is on the seat or on the back when it sits or rides; None: its foot.
        seat: where one sits on it; None: one cannot.
        rim: front edge of its opening; None: nothing can be inside.
        grip: where it is held, and the height at which a face in profile bites into it; None: it can be neither held
            nor eaten.
        food: whether it can be eaten.
        bite: where a face that looks at the viewer bites into it; None: its upper edge.
        board: the surface for writing; None: it has none.
    """

    name: str
    plural: str
    draw: Callable[[Sketch], None]
    natural: Ink
    heart: Point = (0.5, 0.5)
    waist: Span = (0.5, 0.5, 0.6)
    neck: Span | None = None
    creature: bool = False
    mouth: Point | None = None
    hand: Point | None = None
    crown: Span | None = None
    brim: Span | None = None
    back: Point | None = None
    astride: bool = False
    hips: Point | None = None
    seat: Point | None = None
    rim: Span | None = None
    grip: Point | None = None
    food: bool = False
    bite: Point | None = None
    board: Box | None = None

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """The drawing."""
        return sketched(self.draw, self.natural)
