"""Unpaired images of two domains, for training unpaired translation.

Shapes: S image side
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from t2i.checks import check_choice
from t2i.data.fingerprint import combine
from t2i.data.sources import TOYBOX_ITEMS, Source, open_source
from t2i.data.toybox_v1 import ATTRIBUTES, KINDS, Scene, Toybox
from t2i.data.unreadable import skip_unreadable

PREFIX = "toybox-v1:"
SEEDS = 2  # toybox seeds per seed: one for each domain, so that no scene is in both


class OneAttribute(Toybox):
    """Toybox scenes of one thing with a fixed attribute, such as "zebra".

    Two instances with the same seed and different attributes show the same scenes.

    Raises ValueError for an unknown attribute, and for one that is also a kind.
    """

    def __init__(self, attribute: str, size: int, seed: int = 0, num: int = TOYBOX_ITEMS):
        check_choice("attribute", attribute, [name for name in ATTRIBUTES if name not in KINDS])
        super().__init__("all", size, seed, num, family="single")
        self.attribute = attribute

    def scene(self, index: int) -> tuple[Scene, str]:
        scene, _ = super().scene(index)
        scene = replace(scene, things=[replace(thing, attribute=self.attribute) for thing in scene.things])
        return scene, scene.caption()

    def fingerprint(self) -> str:
        return combine(super().fingerprint(), self.attribute)


class Unpaired:
    """Images of two domains: the items are those of the first, combined with random items of the second, `b`.

    The image of `b` is sampled anew each time an item is prepared (see `PrepareBoth`), so that there are no pairs.

    Args:
        a, b: "toybox-v1:ATTRIBUTE" (see `OneAttribute`), or a source name as in `open_source`.
        size: image side.
        seed: seed of toybox.
        columns: column names as in `open_source`.

    Raises ValueError if the two domains are the same, and as `open_source` does.
    """

    def __init__(self, a: str, b: str, size: int, seed: int = 0, **columns: str):
        if a == b:
            raise ValueError(f"both domains are {a!r}: name two, such as 'toybox-v1:white' and 'toybox-v1:zebra'")
        self.size = size
        self.a, self.b = (_open(name, size, SEEDS * seed + i, columns) for i, name in enumerate((a, b)))

    def __len__(self) -> int:
        return len(self.a)

    def __getitem__(self, index: int) -> dict:
        return self.a[index]

    def captions(self, limit: int) -> Iterator[str]:
        return self.a.captions(limit)

    def fingerprint(self) -> str:
        return combine(self.a.fingerprint(), self.b.fingerprint())

    def pairs(self, num: int, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The same new scenes in both domains: uint8 (num, S, S, 3) each; None if a domain is not toybox."""
        if not all(isinstance(source, OneAttribute) for source in (self.a, self.b)):
            return None
        variants = [OneAttribute(source.attribute, self.size, seed, num) for source in (self.a, self.b)]
        return tuple(np.stack([variant[i]["image"] for i in range(num)]) for variant in variants)


@dataclass(frozen=True)
class PrepareBoth:
    """Combine an image of the first domain with one sampled uniformly from the second."""

    b: Source

    def __call__(self, item: dict, rng: np.random.Generator) -> dict:
        """-> a and b, uint8 (S, S, 3)"""
        return {"a": item["image"], "b": self.b[int(rng.integers(len(self.b)))]["image"]}


def _open(name: str, size: int, seed: int, columns: dict[str, str]) -> Source:
    if name.startswith(PREFIX):
        return OneAttribute(name.removeprefix(PREFIX), size, seed)
    return skip_unreadable(open_source(name, size, seed=seed, **columns, captions=False))
