"""Label maps: the kind that each pixel of a scene's image belongs to, and their PNG files.

Shapes: S image side
"""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image

from t2i.data.toybox.kinds import KINDS

LABELS: tuple[str, ...] = ("background", *KINDS)  # label 0 is the background with the shadows on it
_GOLDEN = 0.618034  # steps of this fraction of the circle keep any number of hues apart


def layout_image(labels: np.ndarray) -> Image.Image:
    """uint8 (H, W) -> image of mode P: its pixels are the labels, its palette gives each label a colour."""
    image = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8)).convert("L")
    image.putpalette(_palette())  # this sets mode P
    return image


def _palette() -> list[int]:
    """256 colours: 0 is black, the others are bright, and successive ones far apart."""
    colours = [
        colorsys.hsv_to_rgb(i * _GOLDEN % 1, 0.85 - 0.4 * (i % 2), 1 - 0.3 * (i % 3 == 1)) for i in range(1, 256)
    ]
    return [0, 0, 0, *(round(255 * channel) for colour in colours for channel in colour)]
