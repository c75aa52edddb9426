"""Drawing a kind as a list of shapes in the unit square, and the layers of pixels made from it.

Every kind is a function `draw(p: Sketch)` (x to the right, y down, origin top left). A shape without `ink` belongs to
the *body*: the surface that takes the colour or texture. Its `tone` is the light on it (1 neutral, 0 black, 2 white).
A shape with `ink` is a *detail* that keeps its own colour: eyes, wheels, a visor. Shapes cover what was drawn before
them. Each shape belongs to the *top* of its kind (the head, the lid, the back of a chair) or to its *base*, from which
hybrids are put together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from PIL import Image, ImageDraw

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # x0, y0, x1, y1
Ink = tuple[int, int, int]

TOP, BASE = "top", "base"

DARK: Ink = (38, 34, 40)  # eyes, tyres, soles
LIGHT: Ink = (250, 248, 242)  # whites of eyes, visors
METAL: Ink = (150, 156, 166)  # hubs, buckles, antennas


@dataclass(frozen=True)
class Shape:
    """One shape.

    Attributes:
        name: method of `PIL.ImageDraw.ImageDraw` that draws it.
        points: its corners, or the two corners of its box.
        part: TOP or BASE.
        tone: light on it, if it belongs to the body.
        ink: its colour, if it is a detail.
        natural: its colour, if it belongs to a body without attribute.
        lengths: lengths, such as the width of a line, by the name of the method's argument.
        angles: the method's angles, in degrees clockwise from three o'clock.
    """

    name: str
    points: tuple[Point, ...]
    part: str
    tone: float
    ink: Ink | None
    natural: Ink
    lengths: dict[str, float] = field(default_factory=dict)
    angles: dict[str, float] = field(default_factory=dict)

    def moved(self, scale: float, dx: float, dy: float) -> Shape:
        """The shape with every point p at scale · p + (dx, dy)."""
        points = tuple((scale * x + dx, scale * y + dy) for x, y in self.points)
        return replace(self, points=points, lengths={name: scale * v for name, v in self.lengths.items()})


class Sketch:
    """Collects the shapes of a kind; `natural` is the colour of its body where it has no attribute."""

    def __init__(self, natural: Ink):
        self.natural, self.shapes, self._part = natural, [], BASE

    def top(self) -> None:
        """The shapes that follow belong to the top."""
        self._part = TOP

    def base(self) -> None:
        """The shapes that follow belong to the base, as do those before the first `top()`."""
        self._part = BASE

    def ellipse(self, box: Box, tone: float = 1.0, ink: Ink | None = None, natural: Ink | None = None) -> None:
        self._add("ellipse", (box[:2], box[2:]), tone, ink, natural)

    def rect(
        self, box: Box, radius: float = 0.0, tone: float = 1.0, ink: Ink | None = None, natural: Ink | None = None
    ) -> None:
        self._add("rounded_rectangle", (box[:2], box[2:]), tone, ink, natural, {"radius": radius})

    def polygon(
        self, points: Sequence[Point], tone: float = 1.0, ink: Ink | None = None, natural: Ink | None = None
    ) -> None:
        self._add("polygon", tuple(points), tone, ink, natural)

    def line(
        self,
        points: Sequence[Point],
        width: float,
        tone: float = 1.0,
        ink: Ink | None = None,
        natural: Ink | None = None,
    ) -> None:
        """A polyline with round joints and round ends, `width` in units of the box."""
        self._add("line", tuple(points), tone, ink, natural, {"width": width})

    def tube(
        self,
        curve: tuple[Point, Point, Point, Point],
        start: float,
        end: float,
        tone: float = 1.0,
        ink: Ink | None = None,
        natural: Ink | None = None,
    ) -> None:
        """A tail or an arm along a cubic Bézier curve, with a width from `start` to `end`."""
        (ax, ay), (bx, by), (cx, cy), (dx, dy) = curve
        for i in range(41):
            t = i / 40
            k0, k1, k2, k3 = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
            x, y = k0 * ax + k1 * bx + k2 * cx + k3 * dx, k0 * ay + k1 * by + k2 * cy + k3 * dy
            r = (start + (end - start) * t) / 2
            self.ellipse((x - r, y - r, x + r, y + r), tone, ink, natural)

    def arc(
        self,
        box: Box,
        start: float,
        end: float,
        width: float,
        tone: float = 1.0,
        ink: Ink | None = None,
        natural: Ink | None = None,
    ) -> None:
        """Part of an ellipse's outline, angles in degrees clockwise from three o'clock."""
        angles = {"start": start, "end": end}
        self._add("arc", (box[:2], box[2:]), tone, ink, natural, {"width": width}, angles)

    def pie(
        self,
        box: Box,
        start: float,
        end: float,
        tone: float = 1.0,
        ink: Ink | None = None,
        natural: Ink | None = None,
    ) -> None:
        """A slice of an ellipse, angles in degrees clockwise from three o'clock; 180 to 360 is its upper half."""
        self._add("pieslice", (box[:2], box[2:]), tone, ink, natural, angles={"start": start, "end": end})

    def _add(self, name, points, tone, ink, natural, lengths=None, angles=None) -> None:
        natural = self.natural if natural is None else natural
        self.shapes.append(Shape(name, points, self._part, tone, ink, natural, lengths or {}, angles or {}))


def sketched(draw: Callable[[Sketch], None], natural: Ink) -> tuple[Shape, ...]:
    """The shapes of a kind."""
    sketch = Sketch(natural)
    draw(sketch)
    return tuple(sketch.shapes)


class Raster:
    """Shapes as pixels, without anti-aliasing. All images are `size` × `size`.

    Attributes:
        mask: L, the body.
        light: L, the tone of the body; 128 is neutral.
        natural: RGB, the body's own colours.
        detail: RGBA, the details.
    """

    def __init__(self, shapes: Iterable[Shape], size: int):
        self.size = size
        self.mask = Image.new("L", (size, size), 0)
        self.light = Image.new("L", (size, size), 128)
        self.natural = Image.new("RGB", (size, size))
        self.detail = Image.new("RGBA", (size, size), (0, 0, 0, 0))
        self._layers = [ImageDraw.Draw(image) for image in (self.mask, self.light, self.natural, self.detail)]
        for shape in shapes:
            self._draw(shape)

    def _draw(self, shape: Shape) -> None:
        points = [(x * self.size, y * self.size) for x, y in shape.points]
        lengths = {name: v * self.size for name, v in shape.lengths.items()}
        if "width" in lengths:
            lengths["width"] = max(1, round(lengths["width"]))
        if shape.name == "line":
            self._put(shape, "line", points, width=lengths["width"], joint="curve")
            if lengths["width"] > 2:
                r = lengths["width"] / 2
                for x, y in (points[0], points[-1]):
                    self._put(shape, "ellipse", [(x - r, y - r), (x + r, y + r)])
            return
        self._put(shape, shape.name, points, **lengths, **shape.angles)

    def _put(self, shape: Shape, method: str, points: list[Point], **how) -> None:
        mask, light, natural, detail = (getattr(layer, method) for layer in self._layers)
        if shape.ink is not None:
            detail(points, fill=(*shape.ink, 255), **how)
            return
        mask(points, fill=255, **how)
        light(points, fill=min(255, round(shape.tone * 128)), **how)
        natural(points, fill=shape.natural, **how)
        detail(points, fill=(0, 0, 0, 0), **how)  # a part of the body covers the details drawn before it
