"""Compositing of one object: a texture laid over the body, with lighting, outline, and the details on top.

The layers of a kind and the textures are drawn once, at a multiple of the final size, downsampled and cached. Composing
an object is then four operations on small images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

from PIL import Image, ImageChops, ImageFilter, ImageOps

from t2i.data.toybox.attributes import COLOURS, fruit, pattern, tinted
from t2i.data.toybox.textures import FRUITS
from t2i.data.toybox_v1.kinds import KINDS
from t2i.data.toybox_v1.painter import Painter

OUTLINE = (44, 38, 46)


@dataclass(frozen=True)
class Layers:
    """One kind at one size, without its texture. All images are `size` × `size`.

    Attributes:
        body: L, the surface that takes the texture.
        light: L, the light on it; 128 leaves the texture as it is.
        detail: RGBA, the parts that keep their own colour.
        alpha: L, opacity of body, details and outline together.
    """

    body: Image.Image
    light: Image.Image
    detail: Image.Image
    alpha: Image.Image


def _oversampling(size: int) -> int:
    """The oversampling factor: edges of small images need more, large images cost more.

    At least 96 pixels are drawn: below that, thin parts would vanish by rounding.
    """
    return max(4 if size <= 96 else 3 if size <= 256 else 2, -(-96 // size))


def _paint(kind: str, size: int, mirrored: bool) -> Painter:
    painter = Painter(size)
    KINDS[kind].draw(painter)
    if mirrored:  # before the lighting, so that the light stays at the top left
        painter.mask, painter.light = ImageOps.mirror(painter.mask), ImageOps.mirror(painter.light)
        painter.detail = ImageOps.mirror(painter.detail)
    return painter


def _lit(painter: Painter) -> Image.Image:
    """The painter's light (L) with creases between the parts and a soft volume, as if lit from the top left."""
    size, mask, light = painter.size, painter.mask, painter.light
    width = max(3, 2 * round(size / 90) + 1)
    crease = ImageChops.subtract(light.filter(ImageFilter.MaxFilter(width)), light, scale=0.9)
    crease = crease.point(lambda v: 0 if v < 8 else min(44, 14 + v))  # parts of one tone have no crease between them
    # Where the blurred silhouette rises along the diagonal, the surface faces the light; where it falls, it faces away.
    height = mask.filter(ImageFilter.BoxBlur(size / 24)).filter(ImageFilter.BoxBlur(size / 24))
    step = max(1, size // 40)
    lit = ImageChops.subtract(ImageChops.offset(height, -step), ImageChops.offset(height, step), scale=2.6, offset=128)
    lit = lit.filter(ImageFilter.BoxBlur(size / 64))
    light = ImageChops.add(light, lit, offset=-128)
    return ImageChops.subtract(light, ImageChops.multiply(crease, mask))


# All caches together take about 30 MB for 64-pixel images and 0.5 GB for 256. The placement uses few sizes, so that
# these entries suffice.
@lru_cache(maxsize=1024)
def layers(kind: str, size: int, mirrored: bool = False) -> Layers:
    """The layers of a kind (a name in KINDS) at `size` pixels."""
    factor = _oversampling(size)
    painter = _paint(kind, size * factor, mirrored)
    cover = ImageChops.lighter(painter.mask, painter.detail.getchannel("A"))
    # A dark outline of about 1/64 of the box keeps a white cat on snow and a black one in shadow visible.
    edge = cover.filter(ImageFilter.BoxBlur(max(painter.size / 64, 0.6 * factor))).point(lambda v: 255 if v > 40 else 0)
    return Layers(
        body=painter.mask.reduce(factor),
        light=_lit(painter).reduce(factor),
        detail=painter.detail.reduce(factor),
        alpha=edge.reduce(factor),
    )


@lru_cache(maxsize=512)
def _pattern(name: str, size: int) -> Image.Image:
    factor = _oversampling(size)
    return pattern(name, size * factor).reduce(factor)


@lru_cache(maxsize=1024)
def _fruit(name: str, kind: str, size: int, mirrored: bool) -> Image.Image:
    factor = _oversampling(size)
    x, y = KINDS[kind].heart
    return fruit(name, _paint(kind, size * factor, mirrored).mask, (1 - x if mirrored else x, y)).reduce(factor)


def compose(parts: Layers, texture: Image.Image) -> Image.Image:
    """Lay `texture` (RGB, the size of the layers) over the body; return the finished object as RGBA.

    Hard-light blending (ISO 32000-1 §11.3.5) keeps the texture where the light is 128, multiplies below and screens
    above.
    """
    picture = Image.new("RGB", texture.size, OUTLINE)
    light = Image.merge("RGB", (parts.light,) * 3)
    picture.paste(ImageChops.hard_light(texture, light), mask=parts.body)
    picture.paste(parts.detail, mask=parts.detail)
    picture.putalpha(parts.alpha)
    return picture


def sprite(
    kind: str,
    attribute: str,
    size: int,
    mirrored: bool = False,
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Image.Image:
    """One finished object, RGBA, `size` × `size`, on a transparent background.

    `tint` multiplies the channels of a colour; textures ignore it.
    """
    if attribute in COLOURS:
        texture = Image.new("RGB", (size, size), tinted(COLOURS[attribute], tint))
    elif attribute in FRUITS:
        texture = _fruit(attribute, kind, size, mirrored)
    else:
        texture = _pattern(attribute, size)
    return compose(layers(kind, size, mirrored), texture)


@cache
def bounds(kind: str) -> tuple[float, float, float, float]:
    """Bounding box of a kind's drawing in the unit square, outline included: x0, y0, x1, y1."""
    return tuple(v / 96 for v in layers(kind, 96).alpha.getbbox())
