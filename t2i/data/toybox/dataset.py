"""Toybox as a map-style dataset."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import ClassVar

import numpy as np

from t2i.checks import check_choice
from t2i.data.fingerprint import combine
from t2i.data.toybox.captions import caption
from t2i.data.toybox.kinds import KINDS
from t2i.data.toybox.render import LABELS, check_size
from t2i.data.toybox.scene import FAMILIES, Scene, mixture_of
from t2i.data.toybox.split import SPLITS

VERSION = 4  # of the images and captions: increment it when a change of the code changes any of them


class SceneDataset:
    """A map-style dataset of `num` scenes, each with an image and a caption; subclasses define `scene`.

    Item i depends only on (seed, split, i), not on `num` or the order of access.

    Args:
        split: a name in `splits`.
        size: image side in pixels.
        seed: non-negative; different seeds give unrelated scenes.
        num: number of items.
        family: a name in `families`, or None for a mixture of all; in toybox also any other mixture: {family: weight}.
    """

    # Of the world: version of its images and captions, its splits and one of what is held out, its families and that of
    # two things in a place, the names of its kinds, and of the labels of its label maps.
    version: ClassVar[int]
    splits: ClassVar[tuple[str, ...]]
    held_out: ClassVar[str]
    families: ClassVar[Collection[str]]
    pairs: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]
    labels: ClassVar[tuple[str, ...]]

    def __init__(self, split: str, size: int, seed: int, num: int, family: str | Mapping[str, float] | None):
        check_choice("split", split, self.splits)
        check_size(size)
        self.check_family(split, family)
        if seed < 0 or num < 0:
            raise ValueError(f"seed and num must not be negative: {seed=}, {num=}")
        self.split, self.size, self.seed, self.num, self.family = split, size, seed, num, family

    def check_family(self, split: str, family: str | Mapping[str, float] | None) -> None:
        """Raise UsageError if no scene of a split is of a family."""
        if family is not None:
            check_choice("family", family, self.families)

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> dict:
        """dict(image=uint8 array (size, size, 3), text=caption, scene=Scene); IndexError beyond the end."""
        scene, text = self.scene(index)
        return {"image": np.array(scene.render(self.size)), "text": text, "scene": scene}

    def scene(self, index: int) -> tuple:
        """Scene and caption of an item, without rendering it; IndexError beyond the end."""
        raise NotImplementedError

    def captions(self, limit: int) -> Iterator[str]:
        """The captions of the first `limit` items."""
        return (self.scene(i)[1] for i in range(min(limit, self.num)))

    def fingerprint(self) -> str:
        """Fingerprint of everything that determines the images and captions; see `t2i.data.fingerprint`."""
        return combine(type(self).__name__, self.version, self.split, self.size, self.seed, self.num, self.family)

    def entropy(self, index: int) -> tuple[int, int, int]:
        """Numbers that determine an item, for a random generator; IndexError beyond the end."""
        if not -self.num <= index < self.num:
            raise IndexError(f"index {index} is out of range for {self.num} items")
        return self.seed, self.splits.index(self.split), index % self.num


class Toybox(SceneDataset):
    """Toybox scenes: a `SceneDataset` with the splits in SPLITS and the families in FAMILIES."""

    version, splits, held_out, families, pairs = VERSION, SPLITS, "pair", FAMILIES, "place"
    kinds, labels = tuple(KINDS), LABELS

    def __init__(
        self,
        split: str = "train",
        size: int = 128,
        seed: int = 0,
        num: int = 1_000_000,
        family: str | Mapping[str, float] | None = None,
    ):
        super().__init__(split, size, seed, num, family)

    def check_family(self, split: str, family: str | Mapping[str, float] | None) -> None:
        mixture_of(split, family)

    def scene(self, index: int) -> tuple[Scene, str]:
        rng = np.random.default_rng((*self.entropy(index), VERSION))
        scene = Scene.sample(rng, self.split, self.family)
        return scene, caption(scene, rng, held_out=self.split == "phrasing").text
