"""Rendering of a scene as an image (background, shadows, objects) and as a label map."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from t2i.data.toybox.backgrounds import NUM_VARIANTS, background
from t2i.data.toybox_v1.composite import bounds, layers, sprite
from t2i.data.toybox_v1.description import SceneDescription
from t2i.data.toybox_v1.label_maps import LABELS
from t2i.data.toybox_v1.layout import UNITS, Jitter, Placement, layout

_SHADOW = (70, 66, 84)


def check_size(size: int) -> None:
    """Raise ValueError for images too small to show what the caption describes."""
    if size < 16:
        raise ValueError(f"toybox has images of at least 16×16 pixels, not {size}×{size}: give a larger --image-size")


def render(scene: SceneDescription, size: int = 64) -> Image.Image:
    """The scene as RGB, `size` × `size` (at least 16). A pure function: the same scene gives the same bytes.

    The outermost rows and columns show only the background.
    """
    check_size(size)
    jitter = Jitter(scene.jitter_seed)
    placements = layout(scene, jitter)
    tints = [_tint(jitter) for _ in scene.things]
    image = background(scene.background, size, jitter.pick(0, NUM_VARIANTS - 1)).copy()
    for placement in placements:
        if placement.shadow:
            _cast_shadow(image, placement, scene.things[placement.thing].kind)
    for placement in placements:
        thing = scene.things[placement.thing]
        x, y, side = _pixels(placement, size)
        picture = sprite(thing.kind, thing.attribute, side, placement.mirrored, tints[placement.thing])
        image.paste(picture, (x, y), mask=picture)
    return image


def label_map(scene: SceneDescription, size: int = 64) -> np.ndarray:
    """The label of each pixel of `render(scene, size)`: uint8 (size, size), indices into LABELS.

    A pixel belongs to the topmost object that covers at least half of it, outline included; shadows are background.
    """
    check_size(size)
    labels = Image.new("L", (size, size), 0)
    for placement in layout(scene, Jitter(scene.jitter_seed)):
        kind = scene.things[placement.thing].kind
        x, y, side = _pixels(placement, size)
        covered = layers(kind, side, placement.mirrored).alpha.point(lambda v: 255 if v >= 128 else 0)
        labels.paste(LABELS.index(kind), (x, y), mask=covered)
    return np.array(labels)


def _tint(jitter: Jitter) -> tuple[float, float, float]:
    """Brightness within 5 % and each channel within 1 %: gray must stay gray."""
    brightness = jitter.near(1.0, 0.05)
    return tuple(brightness * jitter.near(1.0, 0.01) for _ in range(3))


def _pixels(placement: Placement, size: int) -> tuple[int, int, int]:
    """Corner and side of a placement in pixels, clear of the outermost rows after rounding."""
    side = min(round(placement.size * size / UNITS), size - 2)
    x, y = (max(1, min(round(v * size / UNITS), size - 1 - side)) for v in (placement.x, placement.y))
    return x, y, side


def _cast_shadow(image: Image.Image, placement: Placement, kind: str) -> None:
    """A soft flat ellipse where the object meets the ground."""
    x, y, side = _pixels(placement, image.width)
    x0, _, x1, y1 = bounds(kind)
    width, height = round((x1 - x0) * side), max(3, round(0.13 * side))
    left = x + round(x0 * side)
    top = min(round(y + y1 * side - 0.6 * height), image.height - 1 - height)
    image.paste(_SHADOW, (left, top), mask=_ellipse(width, height))


@lru_cache(maxsize=1024)
def _ellipse(width: int, height: int) -> Image.Image:
    """A faint ellipse that fades towards its edge, as an L mask."""
    x = (np.arange(width) + 0.5) / width * 2 - 1
    y = (np.arange(height) + 0.5) / height * 2 - 1
    depth = np.clip(1 - x[None, :] ** 2 - y[:, None] ** 2, 0, 1)
    return Image.fromarray(np.round(110 * depth).astype(np.uint8))
