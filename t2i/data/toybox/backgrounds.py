"""Six plain, pale backgrounds. Each depends on height alone, so that even a small model learns them quickly."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image

RGB = tuple[int, int, int]
_SOFT = 0.012  # half the width of the edge between two areas, as a fraction of the image side

NUM_VARIANTS = 3  # each background has its horizon at one of three heights


def _ramp(y: np.ndarray, stops: list[tuple[float, RGB]]) -> np.ndarray:
    """Colours (H, 3) at heights `y` (H,), linear between the stops (height, colour)."""
    at = [height for height, _ in stops]
    return np.stack([np.interp(y, at, [ink[c] for _, ink in stops]) for c in range(3)], axis=-1)


def _split(y: np.ndarray, above: list[RGB], below: list[RGB], horizon: float) -> np.ndarray:
    """Two vertical gradients that meet at a horizon with a soft edge."""
    return _ramp(y, [(0, above[0]), (horizon - _SOFT, above[1]), (horizon + _SOFT, below[0]), (1, below[1])])


def _white(y: np.ndarray, shift: float) -> np.ndarray:
    return _ramp(y, [(0, (255, 255, 255)), (1, (255, 255, 255))])


def _studio(y: np.ndarray, shift: float) -> np.ndarray:
    return _ramp(y, [(0, (228, 224, 218)), (0.62 + shift, (246, 240, 228)), (1, (214, 204, 190))])


def _meadow(y: np.ndarray, shift: float) -> np.ndarray:
    return _split(y, [(186, 220, 246), (228, 242, 250)], [(176, 218, 142), (150, 204, 118)], 0.62 + shift)


def _beach(y: np.ndarray, shift: float) -> np.ndarray:
    horizon, shore = 0.42 + shift, 0.64 + shift
    stops = [(0, (200, 230, 248)), (horizon - _SOFT, (232, 244, 250)), (horizon + _SOFT, (112, 190, 216))]
    stops += [(shore - 0.03, (158, 220, 226)), (shore, (252, 252, 246)), (shore + 0.03, (246, 228, 184))]
    return _ramp(y, [*stops, (1, (238, 212, 160))])


def _room(y: np.ndarray, shift: float) -> np.ndarray:
    floor, board = 0.7 + shift, (250, 248, 244)  # a skirting board runs along the wall
    stops = [(0, (232, 214, 222)), (floor - 0.05 - _SOFT, (240, 224, 230)), (floor - 0.05 + _SOFT, board)]
    return _ramp(y, [*stops, (floor - _SOFT, board), (floor + _SOFT, (206, 180, 152)), (1, (222, 198, 172))])


def _snow(y: np.ndarray, shift: float) -> np.ndarray:
    return _split(y, [(176, 194, 216), (206, 218, 232)], [(250, 252, 255), (232, 240, 250)], 0.58 + shift)


_GROUNDS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "white": _white,
    "studio": _studio,
    "meadow": _meadow,
    "beach": _beach,
    "room": _room,
    "snow": _snow,
}

BACKGROUNDS: tuple[str, ...] = tuple(_GROUNDS)


@lru_cache(maxsize=128)
def background(name: str, size: int, variant: int = 0) -> Image.Image:
    """A background, RGB `size` × `size`; `variant` in 0..NUM_VARIANTS - 1. The image is cached: paint on a copy."""
    y = (np.arange(size * 4) + 0.5) / (size * 4)  # four lines per pixel, averaged: the horizon is anti-aliased
    lines = _GROUNDS[name](y, 0.04 * (variant - 1)).reshape(size, 4, 3).mean(axis=1)
    pixels = np.repeat(np.round(lines).astype(np.uint8)[:, None, :], size, axis=1)
    return Image.fromarray(pixels)
