"""Drawing one object: shapes in the unit square, some of which take the attribute while others keep their own colour.

Every kind is a function `draw(p: Painter)` that draws in a unit square (x to the right, y down, origin top left).
A shape without `ink` belongs to the *body*: the surface that takes the colour or texture. Its `tone` is the light on it
(1 neutral, 0 black, 2 white). A shape with `ink` is a *detail* that keeps its own colour: eyes, wheels, a visor.
Shapes cover what was drawn before them.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # x0, y0, x1, y1
Ink = tuple[int, int, int]

DARK: Ink = (38, 34, 40)  # eyes, tyres, soles
LIGHT: Ink = (250, 248, 242)  # whites of eyes, visors
METAL: Ink = (150, 156, 166)  # hubs, buckles, antennas


class Painter:
    """Three layers of one object, `size` × `size` pixels: the body's mask, the light on it, the details over it."""

    def __init__(self, size: int):
        self.size = size
        self.mask = Image.new("L", (size, size), 0)
        self.light = Image.new("L", (size, size), 128)
        self.detail = Image.new("RGBA", (size, size), (0, 0, 0, 0))
        self._mask = ImageDraw.Draw(self.mask)
        self._light = ImageDraw.Draw(self.light)
        self._detail = ImageDraw.Draw(self.detail)

    def ellipse(self, box: Box, tone: float = 1.0, ink: Ink | None = None) -> None:
        self._put("ellipse", self._scale(box), tone, ink)

    def rect(self, box: Box, radius: float = 0.0, tone: float = 1.0, ink: Ink | None = None) -> None:
        self._put("rounded_rectangle", self._scale(box), tone, ink, radius=radius * self.size)

    def polygon(self, points: Sequence[Point], tone: float = 1.0, ink: Ink | None = None) -> None:
        self._put("polygon", [(x * self.size, y * self.size) for x, y in points], tone, ink)

    def line(self, points: Sequence[Point], width: float, tone: float = 1.0, ink: Ink | None = None) -> None:
        """A polyline with round joints and round ends, `width` in units of the box."""
        pixels = [(x * self.size, y * self.size) for x, y in points]
        thick = max(1, round(width * self.size))
        self._put("line", pixels, tone, ink, width=thick, joint="curve")
        if thick > 2:
            r = thick / 2
            for x, y in (pixels[0], pixels[-1]):
                self._put("ellipse", (x - r, y - r, x + r, y + r), tone, ink)

    def arc(self, box: Box, start: float, end: float, width: float, tone: float = 1.0, ink: Ink | None = None) -> None:
        """Part of an ellipse's outline, angles in degrees clockwise from three o'clock."""
        self._put("arc", self._scale(box), tone, ink, start=start, end=end, width=max(1, round(width * self.size)))

    def pie(self, box: Box, start: float, end: float, tone: float = 1.0, ink: Ink | None = None) -> None:
        """A slice of an ellipse, angles in degrees clockwise from three o'clock; 180 to 360 is its upper half."""
        self._put("pieslice", self._scale(box), tone, ink, start=start, end=end)

    def _scale(self, box: Box) -> tuple[float, ...]:
        return tuple(v * self.size for v in box)

    def _put(self, shape: str, where, tone: float, ink: Ink | None, **how) -> None:
        if ink is not None:
            getattr(self._detail, shape)(where, fill=(*ink, 255), **how)
            return
        getattr(self._mask, shape)(where, fill=255, **how)
        getattr(self._light, shape)(where, fill=min(255, round(tone * 128)), **how)
        getattr(self._detail, shape)(where, fill=(0, 0, 0, 0), **how)  # a body part covers the details drawn before it
