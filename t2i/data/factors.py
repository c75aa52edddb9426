"""Toybox pictures of five things that vary independently of each other: for asking what a model's latents tell of them.

One object on white: its kind and colour, where its middle is across and down, and how large it is. Every combination is
as likely as any other, and none is among the held-out pairs. A tenth of the 27,744 combinations, always the same ones,
is for tests alone: the others are soon all seen.
Shapes: S side
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Literal

import numpy as np
from PIL import Image

from t2i.data.fingerprint import combine
from t2i.data.toybox.captions import name
from t2i.data.toybox.composite import sprite
from t2i.data.toybox.dataset import VERSION
from t2i.data.toybox.layout import UNITS
from t2i.data.toybox.scene import Thing

# What each factor's values are. Lengths are in 64ths of the frame, in steps that are whole pixels at S = 32.
FACTORS: dict[str, tuple[str, ...] | tuple[int, ...]] = {
    "kind": ("heart", "house", "tree", "car"),
    "colour": ("red", "green", "blue", "yellow", "purple", "black"),
    "across": tuple(range(16, 49, 2)),
    "down": tuple(range(16, 49, 2)),
    "size": (20, 24, 28, 32),
}


Part = Literal["all", "train", "test"]


class ToyboxFactors:
    """A map-style data set of `num` pictures; item i depends on (seed, i) alone.

    Args:
        size: side of the pictures in pixels, at least 16.
        seed: from 0 up; two seeds give unrelated pictures.
        num: how many items there are.
        part: the combinations that are for "train" or for "test", or "all".
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
        """dict(image=uint8 (S, S, 3), text=caption, label=kind, factors=which value of each in FACTORS, int64 (5,))"""
        chosen = self.factors(index)
        picture = draw(chosen, self.size)
        return {"image": picture, "text": _caption(chosen), "label": int(chosen[0]), "factors": chosen}

    def factors(self, index: int) -> np.ndarray:
        """An item's factors, not drawn: int64 (5,); IndexError beyond the end."""
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
    """Which combinations are for tests: bool, an axis for each factor."""
    counts = [len(values) for values in FACTORS.values()]
    order = np.random.default_rng(0).permutation(np.prod(counts)).reshape(counts)
    return order < order.size // 10


def draw(chosen: np.ndarray, size: int) -> np.ndarray:
    """The picture with these values of FACTORS (5,): uint8 (size, size, 3), the same bytes always."""
    kind, colour, across, down, side = _values(chosen)
    pixels = round(side * size / UNITS)
    x, y = (int((middle - side / 2) * size / UNITS + 0.5) for middle in (across, down))
    picture = Image.new("RGB", (size, size), "white")
    thing = sprite(kind, colour, pixels)
    picture.paste(thing, (x, y), mask=thing)
    return np.array(picture)


def _caption(chosen: np.ndarray) -> str:
    kind, colour, *_ = _values(chosen)
    return name(Thing(kind, colour))


def _values(chosen: np.ndarray) -> list:
    return [values[i] for values, i in zip(FACTORS.values(), chosen, strict=True)]
