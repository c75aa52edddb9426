"""Fixed maps that styles are made of: noise, paper, cells of tiles, directions of brush strokes; and local operations.

Maps depend on the size alone and are kept for a few sizes. Every machine computes the same: whole numbers, or floating
point with + - * / and square roots only.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter

_SIZES = 4  # image sizes that maps are kept for


def pixels(image: Image.Image) -> np.ndarray:
    """float32 (height, width, 3), or (height, width) for L."""
    return np.asarray(image, dtype=np.float32)


def picture(values: np.ndarray) -> Image.Image:
    """The image of the nearest 8-bit values."""
    return Image.fromarray((np.clip(values, 0, 255) + np.float32(0.5)).astype(np.uint8))


def blurred(image: Image.Image, radius: float) -> np.ndarray:
    """float32 (height, width, …): a box blur, twice, so that it shows no box."""
    return pixels(image.filter(ImageFilter.BoxBlur(radius)).filter(ImageFilter.BoxBlur(radius)))


def shifted(values: np.ndarray, dx: int, dy: int) -> np.ndarray:
    """out[y, x] = values[y + dy, x + dx], with the edges repeated."""
    height, width = values.shape[:2]
    y, x = np.clip(np.arange(height) + dy, 0, height - 1), np.clip(np.arange(width) + dx, 0, width - 1)
    return values[y][:, x]


def dilated(values: np.ndarray, radius: int) -> np.ndarray:
    """The maximum within a diamond of this radius."""
    for _ in range(radius):
        padded = np.pad(values, [(1, 1), (1, 1)] + [(0, 0)] * (values.ndim - 2), mode="edge")
        values = np.maximum(
            np.maximum(padded[1:-1, :-2], padded[1:-1, 2:]),
            np.maximum(np.maximum(padded[:-2, 1:-1], padded[2:, 1:-1]), values),
        )
    return values


def eroded(values: np.ndarray, radius: int) -> np.ndarray:
    """The minimum within a diamond of this radius, of values from 0 to 255."""
    return 255 - dilated(255 - values, radius)


def closed(values: np.ndarray, radius: int) -> np.ndarray:
    """Values from 0 to 255 without dark lines thinner than about twice the radius."""
    return eroded(dilated(values, radius), radius)


def highest(values: np.ndarray) -> np.ndarray:
    """The maximum of the three channels, (height, width)."""
    return np.maximum(np.maximum(values[..., 0], values[..., 1]), values[..., 2])


def lowest(values: np.ndarray) -> np.ndarray:
    """The minimum of the three channels, (height, width)."""
    return np.minimum(np.minimum(values[..., 0], values[..., 1]), values[..., 2])


def luma(values: np.ndarray) -> np.ndarray:
    """The lightness of colours, (height, width)."""
    return (values[..., 0] * np.float32(77) + values[..., 1] * np.float32(151) + values[..., 2] * np.float32(28)) / 256


def ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 up to `low`, 1 from `high` on, a smooth step between."""
    t = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)


def generator(seed: int) -> np.random.Generator:
    """Random numbers that are the same in all versions of numpy, as far as `random` is concerned."""
    return np.random.Generator(np.random.PCG64(seed))


@lru_cache(maxsize=64)
def noise(size: int, cells: int, seed: int = 0) -> np.ndarray:
    """Smooth noise from -1 to 1 with about `cells` bumps along a side: float32 (size, size)."""
    n = max(2, min(cells, size))
    grid = Image.fromarray((generator(seed).random((n, n)) * 256).astype(np.uint8))
    values = pixels(grid.resize((size, size), Image.Resampling.BICUBIC))
    return (values - values.min()) / (values.max() - values.min()) * 2 - 1


@lru_cache(maxsize=_SIZES)
def grain(size: int) -> np.ndarray:
    """The grain of rough paper, from -1 to 1, about 40 to 64 bumps along a side however large the image."""
    return 0.6 * noise(size, 64, seed=11) + 0.4 * noise(size, 42, seed=12)


@lru_cache(maxsize=8 * _SIZES)
def wobble(size: int, cells: int, reach: float, seed: int) -> np.ndarray:
    """Indices (size, size) into the pixels of an image, up to `reach` (of its side) beside each pixel."""
    grid = np.arange(size)
    dx, dy = (np.round(reach * size * noise(size, cells, seed + k)).astype(int) for k in (0, 1))
    return np.clip(grid[:, None] + dy, 0, size - 1) * size + np.clip(grid[None, :] + dx, 0, size - 1)


def warped(image: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The pixels of an image at the indices."""
    return np.take(image.reshape(-1, *image.shape[2:]), indices, axis=0)


@lru_cache(maxsize=4 * _SIZES)
def tiles(size: int, across: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Irregular tiles, about `across` along a side.

    Returns the number of the tile of each pixel, int (size, size); and how far the pixel is from the joint with the
    next tile, float32 (size, size), 1 for the width of a tile.
    """
    jitter = generator(seed).random((across + 2, across + 2, 2)).astype(np.float32)
    # Rows are set off against each other by half a tile, as bricks are, so that joints form no long lines.
    rows, columns = np.mgrid[-1 : across + 1, -1 : across + 1].astype(np.float32)
    x = (
        columns
        + np.float32(0.25) * ((rows + 1) % 2 * 2 - 1)
        + np.float32(0.5)
        + np.float32(0.62) * (jitter[..., 0] - np.float32(0.5))
    )
    y = rows + np.float32(0.5) + np.float32(0.62) * (jitter[..., 1] - np.float32(0.5))
    place = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * across / size
    cell = place.astype(int) + 1
    first, second = (np.full((size, size), 99, dtype=np.float32) for _ in range(2))
    nearest = np.zeros((size, size), dtype=int)
    for dy in (-1, 0, 1):
        for dx in (-2, -1, 0, 1, 2):
            r = np.clip(cell + dy, 0, across + 1)[:, None]
            c = np.clip(cell + dx, 0, across + 1)[None, :]
            away = np.sqrt((x[r, c] - place[None, :]) ** 2 + (y[r, c] - place[:, None]) ** 2)
            number, new = r * (across + 2) + c, r * (across + 2) + c != nearest
            closer = (away < first) & new
            second = np.where(closer, first, np.where(new & (away < second), away, second))
            nearest = np.where(closer, number, nearest)
            first = np.where(closer, away, first)
    return np.unique(nearest, return_inverse=True)[1].reshape(size, size), second - first


DIRECTIONS = 8  # of brush strokes, 180°/8 apart
_C1, _C2, _C3 = 0.9238795, 0.7071068, 0.3826834  # cosines of 22.5°, 45° and 67.5°
_STEPS = ((1, 0), (_C1, _C3), (_C2, _C2), (_C3, _C1), (0, 1), (-_C3, _C1), (-_C2, _C2), (-_C1, _C3))
# Directions have no sign, so they are compared by twice their angle.
_DOUBLED = ((1, 0), (_C2, _C2), (0, 1), (-_C2, _C2), (-1, 0), (-_C2, -_C2), (0, -1), (_C2, -_C2))


@lru_cache(maxsize=4 * _SIZES)
def strokes(size: int, length: float, width: float, seed: int) -> np.ndarray:
    """Brush strokes in each of the directions, from -1 to 1: float32 (DIRECTIONS, size, size).

    `length` and `width` of a stroke are parts of the side.
    """
    base, n = noise(size, max(2, round(1 / width)), seed), max(1, round(length * size / 2))
    maps = []
    for dx, dy in _STEPS:
        total = sum(np.roll(base, (round(k * dy), round(k * dx)), axis=(0, 1)) for k in range(-n, n + 1))
        maps.append(total / max(np.abs(total).max(), 1e-6))
    return np.stack(maps).astype(np.float32)


def directions(image: Image.Image, radius: float) -> np.ndarray:
    """The direction along the edges around each pixel, 0 to DIRECTIONS - 1: int (size, size).

    Where there are no edges, the directions swirl slowly.
    """
    size = image.width
    light = blurred(image.convert("L"), max(1, radius / 3))
    gx, gy = (shifted(light, 1, 0) - shifted(light, -1, 0)), (shifted(light, 0, 1) - shifted(light, 0, -1))
    # The structure tensor's double angle, turned by 90° from the gradient to the edge, blurred in 8 bits.
    tensor = [128 + np.clip((gy * gy - gx * gx) / 4, -127, 127), 128 + np.clip(-gx * gy / 2, -127, 127)]
    u, v = (blurred(picture(part), radius) - 128 for part in tensor)
    u, v = u + 1.5 * noise(size, 4, seed=21), v + 1.5 * noise(size, 4, seed=22)
    fits = np.stack([np.float32(c) * u + np.float32(s) * v for c, s in _DOUBLED])
    return fits.argmax(0)


def along(maps: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Of maps (DIRECTIONS, size, size), at each pixel that of its direction."""
    return np.take_along_axis(maps, direction[None], axis=0)[0]
