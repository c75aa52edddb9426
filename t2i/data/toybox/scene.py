"""A scene: what is in a picture, as data. Caption and picture are both made from it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

from t2i.data.toybox.attributes import ATTRIBUTES
from t2i.data.toybox.backgrounds import BACKGROUNDS
from t2i.data.toybox.captions import caption as _caption
from t2i.data.toybox.kinds import KINDS
from t2i.data.toybox.render import label_map as _label_map
from t2i.data.toybox.render import render as _render
from t2i.data.toybox.split import HELD_OUT, SPLITS

RELATIONS = ("on top of", "below", "left of", "right of")
MAX_COUNT = 4

FAMILIES = {"single": 0.45, "count": 0.20, "relation": 0.35}  # and how often each is sampled

T = TypeVar("T")


def check_name(what: str, name: str, known: Iterable[str]) -> None:
    """Raise ValueError, naming the nearest known name, unless `name` is one of `known`."""
    known = tuple(known)
    if name in known:
        return
    nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
    raise ValueError(f"unknown {what} {name!r}; did you mean {nearest[0]!r}? known: {', '.join(known)}")


@dataclass(frozen=True)
class Thing:
    """`count` (1 to 4) objects of one kind (a name in KINDS) that share one attribute (a name in ATTRIBUTES).

    Raises ValueError for an unknown name, a count out of range, and for a thing made of itself ("avocado avocado").
    """

    kind: str
    attribute: str
    count: int = 1

    def __post_init__(self) -> None:
        check_name("kind", self.kind, KINDS)
        check_name("attribute", self.attribute, ATTRIBUTES)
        if self.attribute == self.kind:
            raise ValueError(f"a thing cannot be made of itself: {self.attribute} {self.kind}")
        if isinstance(self.count, bool) or not isinstance(self.count, int) or not 1 <= self.count <= MAX_COUNT:
            raise ValueError(f"count must be a whole number from 1 to {MAX_COUNT}, not {self.count!r}")

    @property
    def held_out(self) -> bool:
        """Whether the pair belongs to the zero-shot split."""
        return (self.attribute, self.kind) in HELD_OUT


@dataclass(frozen=True)
class Scene:
    """One thing (1 to 4 of a kind), or two that stand in a relation: things[0] is `relation` things[1].

    Attributes:
        things: one Thing, or two of different kinds with count 1 each.
        relation: a name in RELATIONS for two things, None for one.
        background: a name in BACKGROUNDS.
        jitter_seed: everything that the caption does not tell (sizes, places, mirroring, tints, the height of the
            horizon) follows from this number, so that `render` is a pure function of the scene.

    Raises ValueError when made wrongly.
    """

    things: tuple[Thing, ...]
    relation: str | None = None
    background: str = "white"
    jitter_seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "things", tuple(self.things))  # a list is welcome, a frozen scene needs a tuple
        check_name("background", self.background, BACKGROUNDS)
        if isinstance(self.jitter_seed, bool) or not isinstance(self.jitter_seed, int) or self.jitter_seed < 0:
            raise ValueError(f"jitter_seed must be a whole number from 0 up, not {self.jitter_seed!r}")
        if len(self.things) not in (1, 2):
            raise ValueError(f"a scene has one or two things, not {len(self.things)}")
        if len(self.things) == 1:
            if self.relation is not None:
                raise ValueError(f"relation {self.relation!r} needs two things, this scene has one")
            return
        if self.relation is None:
            raise ValueError(f"two things need a relation, one of: {', '.join(RELATIONS)}")
        check_name("relation", self.relation, RELATIONS)
        first, second = self.things
        if first.kind == second.kind:
            raise ValueError(f"the two things must differ in kind, both are {first.kind!r}")
        if first.count != 1 or second.count != 1:
            raise ValueError("things in a relation have count 1 each")

    @property
    def family(self) -> str:
        """One of FAMILIES."""
        if self.relation is not None:
            return "relation"
        return "single" if self.things[0].count == 1 else "count"

    def render(self, size: int = 64) -> Image.Image:
        """The picture: RGB, `size` × `size`, the same bytes for the same scene, always."""
        return _render(self, size)

    def layout(self, size: int = 64) -> np.ndarray:
        """What each pixel of `render(size)` shows: uint8 (size, size), each an index into LABELS, 0 the ground."""
        return _label_map(self, size)

    def caption(self, rng: np.random.Generator | None = None) -> str:
        """A caption in one of several phrasings; without `rng` the canonical one."""
        return _caption(self, rng)

    def to_dict(self) -> dict:
        """Plain data that JSON can hold."""
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
            rng: the only source of chance.
            split: "train" has no held-out pair in any thing, "zero_shot" has one in every thing, "all" does not ask.
            family: one of FAMILIES; None draws one (45 % single, 20 % count, 35 % relation).
        """
        check_name("split", split, SPLITS)
        if family is None:
            family = _pick_family(rng)
        check_name("family", family, FAMILIES)
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


# All chance comes from rng.random(): numpy changes the streams of its other methods between versions.
def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.random() * len(options))]


def _pick_family(rng: np.random.Generator) -> str:
    """A family, as often as FAMILIES says."""
    point = rng.random()
    for family, p in FAMILIES.items():
        point -= p
        if point < 0:
            return family
    return family  # rounding of the sum


# The pairs that each split draws from, in a fixed order: the order of a set of strings changes from process to process.
_EVERY = [(a, k) for a in ATTRIBUTES for k in KINDS if a != k]
_PAIRS: dict[str, list[tuple[str, str]]] = {
    "train": [pair for pair in _EVERY if pair not in HELD_OUT],
    "zero_shot": [pair for pair in _EVERY if pair in HELD_OUT],
    "all": _EVERY,
}
