"""One finished object: a texture laid over the body, with lighting, outline, details, and an inscription on top.

The layers of a kind and the textures are drawn once, at a multiple of the final size, downsampled and cached. Composing
an object is then a few operations on small images.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

from PIL import Image, ImageChops, ImageFilter

from t2i.data.toybox.attributes import COLOURS, Colour, fruit, pattern
from t2i.data.toybox.hybrid import form
from t2i.data.toybox.lettering import letter_scale, text_lines, text_mask
from t2i.data.toybox.sketch import Box, Raster
from t2i.data.toybox.textures import FRUITS

COLUMNS = 32  # of `profile`
OUTLINE = (44, 38, 46)
PAPER, INK = (250, 246, 232), (30, 26, 34)  # of inscriptions


@dataclass(frozen=True)
class Layers:
    """One form at one size, without its texture. All images are `size` × `size`.

    Attributes:
        body: L, the surface that takes the texture.
        light: RGB, the light on it; 128 leaves the texture as it is.
        natural: RGB, the body's own colours.
        detail: RGBA, the parts that keep their own colour.
        alpha: L, opacity of body, details and outline together.
    """

    body: Image.Image
    light: Image.Image
    natural: Image.Image
    detail: Image.Image
    alpha: Image.Image


def _oversampling(size: int) -> int:
    """The oversampling factor: edges of small images need more, large images cost more.

    At least 96 pixels are drawn: below that, thin parts would vanish by rounding.
    """
    return max(4 if size <= 48 else 3 if size <= 128 else 2, -(-96 // size))


class ByteCache:
    """What was made last, by its arguments, up to a number of bytes: entries of large images are few."""

    def __init__(self, limit: int):
        self.limit, self.size, self.kept, self.lock = limit, 0, OrderedDict(), Lock()

    def get(self, make: Callable, *args, size: int):
        """make(*args), which takes `size` bytes, or what it gave before."""
        key = make, args
        with self.lock:
            if key in self.kept:
                self.kept.move_to_end(key)
                return self.kept[key][0]
        made = make(*args)
        with self.lock:
            if key not in self.kept:  # another thread may have made it meanwhile
                self.kept[key] = made, size
                self.size += size
            while self.size > self.limit and len(self.kept) > 1:
                self.size -= self.kept.popitem(last=False)[1][1]
        return made


_CACHE = ByteCache(160 * 2**20)  # for each process


def layers(kind: str, head: str | None, size: int) -> Layers:
    """The layers of a form at `size` pixels. Those of hybrids are not kept: there are too many."""
    return _CACHE.get(_layers, kind, None, size, size=12 * size**2) if head is None else _layers(kind, head, size)


def _layers(kind: str, head: str | None, size: int) -> Layers:
    factor = _oversampling(size)
    raster = Raster(form(kind, head).shapes, size * factor)
    cover = ImageChops.lighter(raster.mask, raster.detail.getchannel("A"))
    # A dark outline of about 1/64 of the box keeps a white cat on snow and a black one in shadow visible.
    radius = max(raster.size / 72, 0.6 * factor)
    edge = cover.filter(ImageFilter.BoxBlur(radius)).point(lambda v: 255 if v > 40 else 0)
    return Layers(
        body=raster.mask.reduce(factor),
        light=Image.merge("RGB", (_lit(raster, factor),) * 3),
        natural=raster.natural.reduce(factor),
        detail=raster.detail.reduce(factor),
        alpha=edge.reduce(factor),
    )


def _lit(raster: Raster, factor: int) -> Image.Image:
    """The light (L), reduced by `factor`, with creases between the parts and a soft volume, as if lit from above.

    From above, so that a mirrored object is lit from the same side.
    """
    light, reach = raster.light, max(1, round(raster.size / 90))
    brightest = light  # of the surroundings
    for dx, dy in ((reach, 0), (-reach, 0), (0, reach), (0, -reach)):
        brightest = ImageChops.lighter(brightest, ImageChops.offset(light, dx, dy))
    crease = ImageChops.subtract(brightest, light, scale=0.9)
    crease = crease.point(lambda v: 0 if v < 8 else min(44, 14 + v))  # parts of one tone have no crease between them
    crease = ImageChops.multiply(crease, raster.mask).reduce(factor)
    # Where the blurred silhouette rises downwards, the surface faces the light; where it falls, it faces away.
    mask = raster.mask.reduce(factor)
    height = mask.filter(ImageFilter.BoxBlur(mask.width / 24)).filter(ImageFilter.BoxBlur(mask.width / 24))
    step = max(1, round(mask.width / 30))
    above, below = (ImageChops.offset(height, 0, dy) for dy in (-step, step))
    lit = ImageChops.subtract(above, below, scale=2.6, offset=128).filter(ImageFilter.BoxBlur(mask.width / 64))
    return ImageChops.subtract(ImageChops.add(light.reduce(factor), lit, offset=-128), crease)


def _pattern(name: str, size: int) -> Image.Image:
    factor = _oversampling(size)
    return pattern(name, size * factor).reduce(factor)


def _fruit(name: str, kind: str, head: str | None, size: int) -> Image.Image:
    factor, of = _oversampling(size), form(kind, head)
    return fruit(name, Raster(of.shapes, size * factor).mask, of.heart).reduce(factor)


def sprite(
    kind: str,
    attribute: str | None,
    size: int,
    head: str | None = None,
    tint: Colour = (255, 255, 255),
) -> Image.Image:
    """One finished object, RGBA, `size` × `size`, on a transparent background.

    `tint` multiplies the channels of a plain colour and of natural colours, 255 leaving them; textures ignore it.
    """
    parts = layers(kind, head, size)
    if attribute is None:
        texture = ImageChops.multiply(parts.natural, Image.new("RGB", (size, size), tint))
    elif attribute in COLOURS:
        colour = tuple(c * t // 255 for c, t in zip(COLOURS[attribute], tint, strict=True))
        texture = Image.new("RGB", (size, size), colour)
    elif attribute in FRUITS:
        fixed = attribute, kind, head, size
        texture = _CACHE.get(_fruit, *fixed, size=3 * size**2) if head is None else _fruit(*fixed)
    else:
        texture = _CACHE.get(_pattern, attribute, size, size=3 * size**2)
    return _composed(parts, texture)


def _composed(parts: Layers, texture: Image.Image) -> Image.Image:
    """`texture` (RGB, the size of the layers) laid over the body, as RGBA.

    Hard-light blending (ISO 32000-1 §11.3.5) keeps the texture where the light is 128, multiplies below and screens
    above.
    """
    image = Image.new("RGB", texture.size, OUTLINE)
    image.paste(ImageChops.hard_light(texture, parts.light), mask=parts.body)
    image.paste(parts.detail, mask=parts.detail)
    image.putalpha(parts.alpha)
    return image


def write(image: Image.Image, board: Box, text: str, lettering: str) -> None:
    """Write `text` on the board of a finished object, on a label of paper."""
    x0, y0, x1, y1 = (round(v * image.width) for v in board)
    image.paste((*PAPER, 255), (x0, y0, x1, y1))
    pad, *size = _writing_area(board, image.width)
    image.paste((*INK, 255), (x0 + pad, y0 + pad), mask=text_mask(text, *size, lettering))


def lines_written(board: Box, side: int, text: str, lettering: str) -> int:
    """On how many lines `write` writes a text on an object of `side` pixels."""
    return len(text_lines(text, *_writing_area(board, side)[1:], lettering))


def text_scale(kind: str, side: int, text: str) -> float:
    """Pixels per unit of the letters of a text on an object of `side` pixels; see `letter_scale`."""
    return letter_scale(text, *_writing_area(form(kind).board, side)[1:])


def _writing_area(board: Box, side: int) -> tuple[int, int, int]:
    """Margin, width and height, in pixels, of a board's surface."""
    x0, y0, x1, y1 = (round(v * side) for v in board)
    pad = max(1, round(0.05 * (y1 - y0)))
    return pad, x1 - x0 - 2 * pad, y1 - y0 - 2 * pad


@lru_cache(maxsize=8192)
def bounds(kind: str, head: str | None = None) -> Box:
    """Bounding box of a form's drawing in the unit square, outline included: x0, y0, x1, y1."""
    return tuple(v / 96 for v in layers(kind, head, 96).alpha.getbbox())


@lru_cache(maxsize=8192)
def profile(kind: str, head: str | None = None) -> tuple[tuple[float, float] | None, ...]:
    """The highest and the lowest y of a form in each of COLUMNS equal columns of the unit square; None: empty ones."""
    alpha, width = layers(kind, head, 96).alpha, 96 // COLUMNS
    boxes = [alpha.crop((width * i, 0, width * (i + 1), 96)).getbbox() for i in range(COLUMNS)]
    return tuple(box and (box[1] / 96, box[3] / 96) for box in boxes)
