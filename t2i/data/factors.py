"""Toybox images with five independent factors of variation, for measuring the disentanglement of latents.

The factors are the kind, colour, x and y position of the centre, and size of one object on white. All combinations are
equally likely, and none is among the held-out pairs. A fixed tenth of the 27,744 combinations is reserved for testing,
since the others are soon all seen in training.
Shapes: S image side
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Literal

import numpy as np
from PIL import Image

from t2i.data.fingerprint import combine
from t2i.data.toybox_v1.captions import name
from t2i.data.toybox_v1.composite import sprite
from t2i.data.toybox_v1.dataset import VERSION
from t2i.data.toybox_v1.layout import UNITS
from t2i.data.toybox_v1.scene import Thing

# The values of each factor. Lengths are in 64ths of the image side, in steps that are whole pixels at S = 32.
FACTORS: dict[str, tuple[str, ...] | tuple[int, ...]] = {
    "kind": ("heart", "house", "tree", "car"),
    "colour": ("red", "green", "blue", "yellow", "purple", "black"),
    "across": tuple(range(16, 49, 2)),
    "down": tuple(range(16, 49, 2)),
    "size": (20, 24, 28, 32),
}


Part = Literal["all", "train", "test"]


class ToyboxFactors:
    """A map-style dataset of `num` images; item i depends only on (seed, i) and `part`.

    Args:
        size: image side in pixels, at least 16.
        seed: non-negative; different seeds give unrelated images.
        num: number of items.
        part: which combinations of factors: those for "train", those for "test", or "all".
    """

    def __init__(self, size: int = 32, seed: int = 0, num: int = 10_000, part: Part = "all"):
        if size < 16 or seed < 0 or num < 0:
            raise ValueError(f"size must be at least 16, seed and num at least 0, not {size=}, {seed=}, {num=}")
        if part not in ("all", "train", "test"):
            raise ValueError(f"unknown part {part!r}: choose 'all', 'train' or 'test'")
        self.size, self.seed, self.num, self.part = size, seed, num, part

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> dict:
        """dict(image=uint8 (S, S, 3), text=caption, label=kind, factors=indices of values in FACTORS, int64 (5,))"""
        chosen = self.factors(index)
        image = render(chosen, self.size)
        return {"image": image, "text": _caption(chosen), "label": int(chosen[0]), "factors": chosen}

    def factors(self, index: int) -> np.ndarray:
        """An item's factors, without rendering it: int64 (5,); IndexError beyond the end."""
        if not 0 <= index < self.num:
            raise IndexError(f"index {index} is out of range for {self.num} items")
        rng = np.random.default_rng((self.seed, index))
        while True:
            chosen = np.array([int(rng.random() * len(values)) for values in FACTORS.values()])
            if self.part == "all" or held_out()[tuple(chosen)] == (self.part == "test"):
                return chosen

    def captions(self, limit: int) -> Iterator[str]:
        """The captions of the first `limit` items."""
        return (_caption(self.factors(i)) for i in range(min(limit, self.num)))

    def fingerprint(self) -> str:
        return combine("toybox-factors", VERSION, self.size, self.seed, self.num, self.part)


@cache
def held_out() -> np.ndarray:
    """Which combinations are reserved for testing: bool, one axis per factor."""
    counts = [len(values) for values in FACTORS.values()]
    order = np.random.default_rng(0).permutation(np.prod(counts)).reshape(counts)
    return order < order.size // 10


def render(chosen: np.ndarray, size: int) -> np.ndarray:
    """Render the image with these values of FACTORS (5,), deterministically: uint8 (size, size, 3)."""
    kind, colour, across, down, side = _values(chosen)
    pixels = round(side * size / UNITS)
    x, y = (int((middle - side / 2) * size / UNITS + 0.5) for middle in (across, down))
    image = Image.new("RGB", (size, size), "white")
    thing = sprite(kind, colour, pixels)
    image.paste(thing, (x, y), mask=thing)
    return np.array(image)


def _caption(chosen: np.ndarray) -> str:
    kind, colour, *_ = _values(chosen)
    return name(Thing(kind, colour))


def _values(chosen: np.ndarray) -> list:
    return [values[i] for values, i in zip(FACTORS.values(), chosen, strict=True)]
