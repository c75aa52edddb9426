"""A scene: the description of an image, with the caption and the image made from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

from t2i.checks import check_choice
from t2i.data.toybox.attributes import ATTRIBUTES
from t2i.data.toybox.backgrounds import BACKGROUNDS
from t2i.data.toybox_v1 import captions, render
from t2i.data.toybox_v1.description import MAX_COUNT, RELATIONS, SceneDescription, Thing
from t2i.data.toybox_v1.kinds import KINDS
from t2i.data.toybox_v1.split import HELD_OUT, SPLITS

__all__ = ["FAMILIES", "MAX_COUNT", "RELATIONS", "Scene", "Thing"]

FAMILIES = {"single": 0.45, "count": 0.20, "relation": 0.35}  # with the probability of each

T = TypeVar("T")


@dataclass(frozen=True)
class Scene(SceneDescription):
    """A scene with one thing (1 to 4 of a kind) or with two in a relation: things[0] is `relation` things[1].

    Attributes and errors are those of `SceneDescription`.
    """

    def render(self, size: int = 64) -> Image.Image:
        """The image: RGB, `size` × `size`; the same scene always gives the same bytes."""
        return render.render(self, size)

    def layout(self, size: int = 64) -> np.ndarray:
        """The label of each pixel of `render(size)`: uint8 (size, size), indices into LABELS, 0 the background."""
        return render.label_map(self, size)

    def caption(self, rng: np.random.Generator | None = None) -> str:
        """A caption in one of several phrasings; without `rng`, the canonical one."""
        return captions.caption(self, rng)

    def to_dict(self) -> dict:
        """The scene as JSON-serialisable data."""
        things = [{"kind": t.kind, "attribute": t.attribute, "count": t.count} for t in self.things]
        return {
            "things": things,
            "relation": self.relation,
            "background": self.background,
            "jitter_seed": self.jitter_seed,
        }

    @classmethod
    def from_dict(cls, data: dict) -> Scene:
        """The inverse of `to_dict`; raises ValueError (or TypeError for unknown keys) on anything else."""
        rest = {key: value for key, value in data.items() if key != "things"}
        return cls(things=tuple(Thing(**thing) for thing in data["things"]), **rest)

    @classmethod
    def sample(cls, rng: np.random.Generator, split: str = "train", family: str | None = None) -> Scene:
        """A random scene.

        Args:
            rng: the only source of randomness.
            split: "train" has no held-out pairs, in "zero_shot" every thing is one, "all" has both.
            family: one of FAMILIES; by default sampled (45 % single, 20 % count, 35 % relation).
        """
        check_choice("split", split, SPLITS)
        if family is None:
            family = _pick_family(rng)
        check_choice("family", family, FAMILIES)
        if family == "relation":
            first = second = cls._sample_thing(rng, split)
            while second.kind == first.kind:
                second = cls._sample_thing(rng, split)
            things, relation = (first, second), _pick(rng, RELATIONS)
        else:
            count = 1 if family == "single" else _pick(rng, range(2, MAX_COUNT + 1))
            things, relation = (cls._sample_thing(rng, split, count),), None
        return cls(things, relation, _pick(rng, BACKGROUNDS), int(rng.random() * 2**31))

    @staticmethod
    def _sample_thing(rng: np.random.Generator, split: str, count: int = 1) -> Thing:
        attribute, kind = _pick(rng, _PAIRS[split])
        return Thing(kind, attribute, count)


# All randomness comes from rng.random(): numpy changes the streams of its other methods between versions.
def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.random() * len(options))]


def _pick_family(rng: np.random.Generator) -> str:
    """A family, with the probabilities in FAMILIES."""
    point = rng.random()
    for family, p in FAMILIES.items():
        point -= p
        if point < 0:
            return family
    return family  # in case the probabilities sum to less than 1 by rounding


# The pairs of each split, in a fixed order: the order of a set of strings differs between processes.
_EVERY = [(a, k) for a in ATTRIBUTES for k in KINDS if a != k]
_PAIRS: dict[str, list[tuple[str, str]]] = {
    "train": [pair for pair in _EVERY if pair not in HELD_OUT],
    "zero_shot": [pair for pair in _EVERY if pair in HELD_OUT],
    "all": _EVERY,
}
