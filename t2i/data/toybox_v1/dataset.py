"""Toybox v1 as a map-style dataset, and its export to disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from t2i.checks import check_choice
from t2i.data.fingerprint import combine
from t2i.data.toybox.export import export as export_dataset
from t2i.data.toybox_v1.render import check_size
from t2i.data.toybox_v1.scene import Scene
from t2i.data.toybox_v1.split import SPLITS

VERSION = 1  # of the images and captions: increment it when a change of the code changes any of them


class Toybox:
    """A map-style dataset of `num` scenes.

    Item i depends only on (seed, split, i), not on `num` or the order of access.

    Args:
        split: "train", "zero_shot" or "all".
        size: image side in pixels.
        seed: non-negative; different seeds give unrelated scenes.
        num: number of items.
        family: "single", "count", "relation", or None for a mixture of the three.
    """

    def __init__(
        self, split: str = "train", size: int = 64, seed: int = 0, num: int = 100_000, family: str | None = None
    ):
        check_choice("split", split, SPLITS)
        check_size(size)
        if seed < 0 or num < 0:
            raise ValueError(f"seed and num must not be negative: {seed=}, {num=}")
        self.split, self.size, self.seed, self.num, self.family = split, size, seed, num, family

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> dict:
        """dict(image=uint8 array (size, size, 3), text=caption, scene=Scene); IndexError beyond the end."""
        scene, text = self.scene(index)
        return {"image": np.array(scene.render(self.size)), "text": text, "scene": scene}

    def scene(self, index: int) -> tuple[Scene, str]:
        """Scene and caption of an item, without rendering it; IndexError beyond the end."""
        if not -self.num <= index < self.num:
            raise IndexError(f"index {index} is out of range for {self.num} items")
        rng = np.random.default_rng((self.seed, SPLITS.index(self.split), index % self.num))
        scene = Scene.sample(rng, self.split, self.family)
        return scene, scene.caption(rng)

    def captions(self, limit: int) -> Iterator[str]:
        """The captions of the first `limit` items."""
        return (self.scene(i)[1] for i in range(min(limit, self.num)))

    def fingerprint(self) -> str:
        """Fingerprint of everything that determines the images and captions; see `t2i.data.fingerprint`."""
        return combine(type(self).__name__, VERSION, self.split, self.size, self.seed, self.num, self.family)


def export(
    out: str | os.PathLike,
    num: int,
    split: str = "train",
    size: int = 64,
    seed: int = 0,
    workers: int = 1,
    layout: str = "folder",
    layouts: bool = False,
) -> Path:
    """Render `Toybox(split, size, seed, num)` to disk; `t2i.data.toybox.export` calls `layout` the file format."""
    return export_dataset(Toybox(split, size, seed, num), out, workers, layout, layouts)
