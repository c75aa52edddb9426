"""Rendering of a scene as an image (background, shadows, objects, style) and as a label map."""

from __future__ import annotations

import colorsys
from functools import lru_cache
from math import inf

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageOps

from t2i.data.toybox.backgrounds import NUM_VARIANTS, background
from t2i.data.toybox.description import SceneDescription, Thing
from t2i.data.toybox.hybrid import form
from t2i.data.toybox.kinds import KINDS
from t2i.data.toybox.layout import Jitter, Placement, layout
from t2i.data.toybox.lettering import LETTERINGS
from t2i.data.toybox.sketch import Box
from t2i.data.toybox.sprite import layers, lines_written, sprite, text_scale, write
from t2i.data.toybox.styles import STYLES

LABELS: tuple[str, ...] = ("background", *KINDS)  # label 0 is the background with the shadows on it
_SHADOW = (70, 66, 84)


def check_size(size: int) -> None:
    """Raise ValueError for images too small to show what the caption describes."""
    if size < 16:
        raise ValueError(f"toybox has images of at least 16×16 pixels, not {size}×{size}: give a larger --image-size")


def render(scene: SceneDescription, size: int = 128) -> Image.Image:
    """The scene as RGB, `size` × `size` (at least 16). A pure function: the same scene gives the same bytes."""
    check_size(size)
    jitter, placements, lettering = _arranged(scene)
    tints = [tuple(jitter.pick(238, 255) for _ in range(3)) for _ in scene.things]
    image = background(scene.background or "white", size, jitter.pick(0, NUM_VARIANTS - 1)).copy()
    for placement in placements:
        if placement.grounded:
            _cast_shadow(image, placement, scene.things[placement.thing])
    for placement in placements:
        thing = scene.things[placement.thing]
        x, y, side = pixels(placement, size)
        drawing = sprite(thing.kind, thing.shown, side, thing.head, tints[placement.thing])
        if placement.mirrored:
            drawing = ImageOps.mirror(drawing)
        if thing.text is not None:
            write(drawing, board_of(thing, placement.mirrored), thing.text, lettering)
        image.paste(drawing, (x, y), mask=_visible(drawing.getchannel("A"), placement, x, y, size))
    return STYLES[scene.style](image)


def _arranged(scene: SceneDescription) -> tuple[Jitter, list[Placement], str]:
    """The placements of a scene, its lettering, and the jitter for what follows."""
    jitter = Jitter(scene.jitter_seed)
    return jitter, layout(scene, jitter), LETTERINGS[jitter.pick(0, len(LETTERINGS) - 1)]


def board_of(thing: Thing, mirrored: bool) -> Box:
    """The box of a thing's inscription in the unit square."""
    x0, y0, x1, y1 = form(thing.kind).board
    return (1 - x1, y0, 1 - x0, y1) if mirrored else (x0, y0, x1, y1)


def label_map(scene: SceneDescription, size: int = 128) -> np.ndarray:
    """The label of each pixel of `render(scene, size)`: uint8 (size, size), indices into LABELS.

    A pixel belongs to the topmost object that covers at least half of it, outline included; shadows are background. A
    hybrid has the label of its base.
    """
    check_size(size)
    labels = Image.new("L", (size, size), 0)
    for placement in layout(scene, Jitter(scene.jitter_seed)):
        thing = scene.things[placement.thing]
        x, y, side = pixels(placement, size)
        alpha = layers(thing.kind, thing.head, side).alpha
        alpha = _visible(ImageOps.mirror(alpha) if placement.mirrored else alpha, placement, x, y, size)
        labels.paste(LABELS.index(thing.kind), (x, y), mask=alpha.point(lambda v: 255 if v >= 128 else 0))
    return np.array(labels)


def pixels(placement: Placement, size: int) -> tuple[int, int, int]:
    """Corner and side of a placement in pixels."""
    return round(placement.x * size), round(placement.y * size), max(2, round(placement.side * size))


def _visible(alpha: Image.Image, placement: Placement, x: int, y: int, size: int) -> Image.Image:
    """The opacity (L) of an object at (x, y) without what an opening hides, and without the bite taken out of it."""
    if placement.hidden_below is not None:
        centre, level, width = (size * v for v in placement.hidden_below)
        shown = Image.new("L", alpha.size, 0)
        draw, r = ImageDraw.Draw(shown), width / 2
        draw.rectangle((-1, -1, alpha.width, level - y), fill=255)
        draw.ellipse((centre - r - x, level - 0.25 * r - y, centre + r - x, level + 0.25 * r - y), fill=255)
        alpha = ImageChops.multiply(alpha, shown)
    if placement.bite is not None:
        (bx, by), r = placement.bite, 0.11 * alpha.width
        alpha, cx, cy = alpha.copy(), bx * size - x, by * size - y
        draw = ImageDraw.Draw(alpha)
        for dx, dy in ((0, 0), (1, 0), (0.5, 0.87), (-0.5, 0.87), (-1, 0), (-0.5, -0.87), (0.5, -0.87)):  # teeth marks
            draw.ellipse((cx + (dx - 1) * r, cy + (dy - 1) * r, cx + (dx + 1) * r, cy + (dy + 1) * r), fill=0)
    return alpha


def inscription_scale(scene: SceneDescription, size: int = 128) -> float:
    """Pixels per unit of the smallest letters in `render(scene, size)`; see `letter_scale`. Infinite without any."""
    if all(thing.text is None for thing in scene.things):
        return inf
    of = [(scene.things[p.thing], pixels(p, size)[2]) for p in _arranged(scene)[1]]
    return min(text_scale(thing.kind, side, thing.text) for thing, side in of if thing.text is not None)


def _cast_shadow(image: Image.Image, placement: Placement, thing: Thing) -> None:
    """A soft flat ellipse where the object meets the ground."""
    x0, _, x1, y1 = (round(v * image.width) for v in placement.box(thing))
    width, height = x1 - x0, max(3, round(0.13 * placement.side * image.width))
    top = min(round(y1 - 0.6 * height), image.height - 1 - height)
    image.paste(_SHADOW, (x0, top), mask=_ellipse(width, height))


@lru_cache(maxsize=1024)
def _ellipse(width: int, height: int) -> Image.Image:
    """A faint ellipse that fades towards its edge, as an L mask."""
    x = (np.arange(width) + 0.5) / width * 2 - 1
    y = (np.arange(height) + 0.5) / height * 2 - 1
    depth = np.clip(1 - x[None, :] ** 2 - y[:, None] ** 2, 0, 1)
    return Image.fromarray(np.round(110 * depth).astype(np.uint8))


def label_image(labels: np.ndarray) -> Image.Image:
    """uint8 (H, W) -> image of mode P: its pixels are the labels, its palette gives each label a colour."""
    image = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8)).convert("L")
    image.putpalette(_palette())  # this sets mode P
    return image


def _palette() -> list[int]:
    """256 colours: 0 is black, the others are bright, and successive ones far apart."""
    golden = 0.618034  # steps of this fraction of the circle keep any number of hues apart
    colours = [colorsys.hsv_to_rgb(i * golden % 1, 0.85 - 0.4 * (i % 2), 1 - 0.3 * (i % 3 == 1)) for i in range(1, 256)]
    return [0, 0, 0, *(round(255 * channel) for colour in colours for channel in colour)]


def inscription_box(scene: SceneDescription, size: int = 128) -> tuple[Box, int]:
    """Where the inscription is in `render(scene, size)`: its box, in units of the image side, and its number of lines.

    Zeros if there is none.
    """
    if all(thing.text is None for thing in scene.things):
        return (0.0, 0.0, 0.0, 0.0), 0
    _, placements, lettering = _arranged(scene)
    for placement in placements:
        thing = scene.things[placement.thing]
        if thing.text is not None:
            x, y, side = pixels(placement, size)
            x0, y0, x1, y1 = board = board_of(thing, placement.mirrored)
            box = (x + x0 * side) / size, (y + y0 * side) / size, (x + x1 * side) / size, (y + y1 * side) / size
            return box, lines_written(board, side, thing.text, lettering)
    return (0.0, 0.0, 0.0, 0.0), 0
