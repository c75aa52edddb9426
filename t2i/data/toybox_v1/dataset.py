"""Toybox v1 as a map-style dataset, and its export to disk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from t2i.data.toybox.dataset import SceneDataset
from t2i.data.toybox.export import export as export_dataset
from t2i.data.toybox_v1.kinds import KINDS
from t2i.data.toybox_v1.label_maps import LABELS
from t2i.data.toybox_v1.scene import FAMILIES, Scene
from t2i.data.toybox_v1.split import SPLITS

VERSION = 1  # of the images and captions: increment it when a change of the code changes any of them


class Toybox(SceneDataset):
    """Toybox v1's scenes: a `SceneDataset` with the splits "train", "zero_shot" and "all", and the families "single",
    "count" and "relation".
    """

    version, splits, held_out, families, pairs = VERSION, SPLITS, "zero_shot", FAMILIES, "relation"
    kinds, labels = tuple(KINDS), LABELS

    def __init__(
        self, split: str = "train", size: int = 64, seed: int = 0, num: int = 100_000, family: str | None = None
    ):
        super().__init__(split, size, seed, num, family)

    def scene(self, index: int) -> tuple[Scene, str]:
        rng = np.random.default_rng(self.entropy(index))
        scene = Scene.sample(rng, self.split, self.family)
        return scene, scene.caption(rng)


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
