"""Two sets of pictures with nothing to say which belongs to which: what unpaired translation learns from.

Shapes: S side of the pictures
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from t2i.checks import check_choice
from t2i.data.fingerprint import combine
from t2i.data.sources import TOYBOX_ITEMS, Source, open_source
from t2i.data.toybox import ATTRIBUTES, KINDS, Scene, Toybox

PREFIX = "toybox:"
WORLDS = 2  # of scenes a seed: one for each domain, so that no scene is in both


class OneLook(Toybox):
    """Toybox scenes of one thing, whose attribute is always the same: a world of zebras, say.

    Two of them with one seed show the same scenes, in two looks.

    Raises ValueError for an unknown attribute, and for one that is a kind of thing too.
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
    """Pictures of two domains: the items are those of the first; any of the second, `b`, may stand beside one.

    Which one does is drawn anew each time an item is prepared (see `PrepareBoth`), so that none belongs to any other.

    Args:
        a, b: "toybox:ATTRIBUTE" (see `OneLook`), or what `open_source` takes.
        size: side of the pictures.
        seed: of toybox's worlds.
        columns: as `open_source` takes them.

    Raises ValueError for two domains that are the same, and as `open_source` does.
    """

    def __init__(self, a: str, b: str, size: int, seed: int = 0, **columns: str):
        if a == b:
            raise ValueError(f"both domains are {a!r}: name two, such as 'toybox:white' and 'toybox:zebra'")
        self.size = size
        self.a, self.b = (_open(name, size, WORLDS * seed + i, columns) for i, name in enumerate((a, b)))

    def __len__(self) -> int:
        return len(self.a)

    def __getitem__(self, index: int) -> dict:
        return self.a[index]

    def captions(self, limit: int) -> Iterator[str]:
        return self.a.captions(limit)

    def fingerprint(self) -> str:
        return combine(self.a.fingerprint(), self.b.fingerprint())

    def pairs(self, num: int, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The same scenes in both looks, of a world of their own: uint8 (num, S, S, 3) each; None without the truth."""
        if not all(isinstance(source, OneLook) for source in (self.a, self.b)):
            return None
        looks = [OneLook(source.attribute, self.size, seed, num) for source in (self.a, self.b)]
        return tuple(np.stack([look[i]["image"] for i in range(num)]) for look in looks)


@dataclass(frozen=True)
class PrepareBoth:
    """A picture of the first domain, and beside it one of the second, each as likely, whatever the first shows."""

    b: Source

    def __call__(self, item: dict, rng: np.random.Generator) -> dict:
        """-> a and b, uint8 (S, S, 3)"""
        return {"a": item["image"], "b": self.b[int(rng.integers(len(self.b)))]["image"]}


def _open(name: str, size: int, seed: int, columns: dict[str, str]) -> Source:
    if name.startswith(PREFIX):
        return OneLook(name.removeprefix(PREFIX), size, seed)
    return open_source(name, size, seed=seed, **columns, captions=False)
