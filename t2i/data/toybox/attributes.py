"""The attributes of an object: ten colours and ten textures.

A colour is one RGB value. A texture is an image (`textures.py`): stripes, bricks, a starry night. Three textures, the
cut fruits, follow the object's silhouette, so that an avocado armchair has the avocado's rind along its own outline.
"""

from __future__ import annotations

from PIL import Image

from t2i.data.toybox.textures import FRUITS, PATTERNS

Colour = tuple[int, int, int]

# Far apart from each other, from the wood and brick textures, and from the pale backgrounds.
COLOURS: dict[str, Colour] = {
    "red": (222, 32, 38),
    "green": (42, 160, 62),
    "blue": (34, 92, 222),
    "yellow": (250, 212, 30),
    "purple": (122, 44, 172),
    "pink": (255, 138, 190),
    "brown": (106, 62, 32),
    "black": (42, 42, 48),
    "white": (244, 244, 242),
    "gray": (136, 140, 146),
}

TEXTURES: tuple[str, ...] = (*FRUITS, *PATTERNS)

ATTRIBUTES: tuple[str, ...] = (*COLOURS, *TEXTURES)


def tinted(colour: Colour, tint: tuple[float, float, float]) -> Colour:
    """The colour with each channel multiplied by a factor near 1, clipped to 0..255."""
    return tuple(min(255, round(c * t)) for c, t in zip(colour, tint, strict=True))


def pattern(name: str, size: int) -> Image.Image:
    """A texture that does not depend on the silhouette: RGB, `size` × `size`."""
    return PATTERNS[name](size)


def fruit(name: str, mask: Image.Image, heart: tuple[float, float]) -> Image.Image:
    """The texture of a cut fruit: RGB, the size of `mask` (mode L, the body's silhouette).

    `heart` is the centre of the pit or segments, in the unit square.
    """
    return FRUITS[name](mask, heart)
