"""A scene: the description of an image, with the caption and the image made from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TypeVar

import numpy as np
from PIL import Image

from t2i.checks import UsageError, check_choice, check_real
from t2i.data.toybox import captions, parser, render
from t2i.data.toybox.attributes import ATTRIBUTES
from t2i.data.toybox.backgrounds import BACKGROUNDS
from t2i.data.toybox.description import (
    ACTIONS,
    MAX_COUNT,
    MAX_THINGS,
    PLACES,
    SIZES,
    Relation,
    SceneDescription,
    Thing,
    can,
)
from t2i.data.toybox.facts import facts
from t2i.data.toybox.inscriptions import inscription
from t2i.data.toybox.kinds import KINDS
from t2i.data.toybox.split import SPLITS, held_out_sorts
from t2i.data.toybox.styles import LETTER_SCALE, STYLES

# The world's mixture: how often each family of scenes, each style and each optional part occurs.
FAMILIES = {
    "single": 0.26,  # one thing
    "count": 0.10,  # two to four of a kind
    "place": 0.22,  # two things in a spatial relation
    "action": 0.14,  # two things in an action
    "hybrid": 0.08,  # the top of one kind on the base of another
    "inscription": 0.10,  # one thing with a text on it
    "several": 0.10,  # three to five things, some of them in relations
}
P_STYLE = 0.25  # of a style other than plain
P_NATURAL = 0.3  # of a thing without an attribute
P_SIZE = 0.1  # of a thing that is stated to be big or small

T = TypeVar("T")


class Scene(SceneDescription):
    """One to five things, in relations or not. Attributes and errors are those of `SceneDescription`."""

    def render(self, size: int = 128) -> Image.Image:
        """The image: RGB, `size` × `size`; the same scene always gives the same bytes."""
        return render.render(self, size)

    def layout(self, size: int = 128) -> np.ndarray:
        """The label of each pixel of `render(size)`: uint8 (size, size), indices into LABELS, 0 the background."""
        return render.label_map(self, size)

    def caption(self, rng: np.random.Generator | None = None) -> str:
        """A caption in one of many phrasings; without `rng`, the canonical one."""
        return captions.caption(self, rng).text

    @classmethod
    def from_caption(cls, text: str) -> Scene:
        """The scene that a prompt describes, with everything unspecified left open.

        Raises ValueError for a prompt that has unknown words or describes no scene of toybox, naming them.
        """
        found = parser.parse(text)
        if found.unknown:
            raise ValueError(f"toybox does not know: {', '.join(found.unknown)}")
        if found.scene is None:
            raise ValueError(found.problem)
        return cls(found.scene.things, found.scene.relations, found.scene.style, found.scene.background)

    @property
    def family(self) -> str:
        """One of FAMILIES."""
        if len(self.things) > 2 or (len(self.things) == 2 and not self.relations):
            return "several"
        if len(self.things) == 2:
            return "action" if self.relations[0].name in ACTIONS else "place"
        thing = self.things[0]
        return "hybrid" if thing.head else "inscription" if thing.text else "count" if thing.count > 1 else "single"

    def to_dict(self) -> dict:
        """The scene as JSON-serialisable data, without what is not specified."""
        things = [
            {name: value for name, value in vars(t).items() if value is not None and (name, value) != ("count", 1)}
            for t in self.things
        ]
        whole = {"style": self.style, "background": self.background, "jitter_seed": self.jitter_seed}
        return {"things": things, "relations": [[r.subject, r.name, r.object] for r in self.relations], **whole}

    @classmethod
    def from_dict(cls, data: dict) -> Scene:
        """The inverse of `to_dict`; raises ValueError (or TypeError for unknown keys) on anything else."""
        rest = {key: value for key, value in data.items() if key not in ("things", "relations")}
        relations = tuple(Relation(*relation) for relation in data.get("relations", ()))
        return cls(things=tuple(Thing(**thing) for thing in data["things"]), relations=relations, **rest)

    @classmethod
    def sample(
        cls, rng: np.random.Generator, split: str = "train", family: str | Mapping[str, float] | None = None
    ) -> Scene:
        """A random scene.

        Args:
            rng: the only source of randomness.
            split: "train" has nothing that is held out, "all" may have anything, and a sort of what is held out, such
                as "pair", has that sort and no other. "phrasing" has scenes of "train" that can be phrased so.
            family: one of those in FAMILIES, or a mixture: {family: weight}; by default FAMILIES.
        """
        check_choice("split", split, SPLITS)
        mixture = mixture_of(split, family)
        chosen = family if isinstance(family, str) else _family(rng.random, mixture)
        while True:
            scene = cls(*_Sampler(rng.random, split).scene(chosen))
            sorts = held_out_sorts(facts(scene))
            if split != "all" and sorts != ({split} if split not in ("train", "phrasing") else set()):
                continue
            if render.inscription_scale(scene) >= LETTER_SCALE[scene.style]:
                return scene


# All randomness comes from rng.random(): numpy changes the streams of its other methods between versions.
def _pick(random: Callable[[], float], options: Sequence[T]) -> T:
    return options[int(random() * len(options))]


# The families in which what is held out occurs, where that is not all.
_SPLIT_FAMILIES = {
    "hybrid": ("hybrid",),
    "action": ("action", "several"),
    "word": ("inscription",),
    "phrasing": ("place", "action"),
}


def families_of(split: str) -> tuple[str, ...]:
    """The families that scenes of a split can be of."""
    return _SPLIT_FAMILIES.get(split, tuple(FAMILIES))


def mixture_of(split: str, family: str | Mapping[str, float] | None = None) -> dict[str, float]:
    """{family: weight} of a family or a mixture; by default of all families that scenes of the split can be of.

    Raises UsageError for a family that they cannot be of, and ValueError for weights below 0, or all 0.
    """
    possible = families_of(split)
    if family is None:
        return {name: FAMILIES[name] for name in possible}
    mixture = {family: 1.0} if isinstance(family, str) else dict(family)
    for name, weight in mixture.items():
        check_choice("family", name, FAMILIES)
        if name not in possible:
            raise UsageError(
                f"the split {split!r} has no scenes of the family {name!r}, only of: {', '.join(possible)}"
            )
        check_real(f"weight of {name}", weight, least=0)
    if not any(mixture.values()):
        raise ValueError("a mixture needs a family with a weight above 0")
    return mixture


def _family(random: Callable[[], float], mixture: Mapping[str, float]) -> str:
    """A family of a mixture."""
    point = random() * sum(mixture.values())
    for family, weight in mixture.items():
        point -= weight
        if point < 0:
            return family
    return family  # if rounding made the sum smaller than the point


_KINDS = tuple(KINDS)
# In these, things have sizes that fit: who rides, eats or holds a thing, or what fits into, onto and before it.
_SIZING = ("inside", "in front of", "behind", *ACTIONS)
_COVERING = ("on top of", "in front of", "riding", "sitting on")
_BOARDS = tuple(name for name, kind in KINDS.items() if kind.board is not None)
_STYLES = tuple(name for name in STYLES if name != "plain")


@cache  # not when the module is imported: it takes a tenth of a second
def _pairs(relation: str) -> tuple[tuple[str, str], ...]:
    """The kinds that can be in a relation."""
    return tuple((a, b) for a in KINDS for b in KINDS if a != b and can(Thing(a), relation, Thing(b)))


def _with_visible_sizes(things: Sequence[Thing], relations: Sequence[Relation]) -> tuple[Thing, ...]:
    """The things without sizes that cannot be seen: in relations that determine them, or if all have the same one."""
    fixed = {i for relation in relations if relation.name in _SIZING for i in (relation.subject, relation.object)}
    things = tuple(replace(thing, size=None) if i in fixed else thing for i, thing in enumerate(things))
    if len(things) > 1 and len({thing.size for thing in things}) == 1:
        things = tuple(replace(thing, size=None) for thing in things)
    return things


class _Sampler:
    """Samples the parts of a scene."""

    def __init__(self, random: Callable[[], float], split: str):
        self.random, self.split = random, split

    def scene(self, family: str) -> tuple:
        """The arguments of a scene of a family."""
        things, relations = getattr(self, f"_{family}")()
        plain = self.split != "style" and self.random() >= P_STYLE
        style = "plain" if plain else _pick(self.random, _STYLES)
        things = _with_visible_sizes(things, relations)
        return things, relations, style, _pick(self.random, BACKGROUNDS), int(self.random() * 2**31)

    def thing(self, kind: str, count: int = 1, **more) -> Thing:
        """A thing with an attribute and a size, or without."""
        attribute = size = None
        if self.random() >= P_NATURAL or self.split == "pair":
            attribute = _pick(self.random, [a for a in ATTRIBUTES if a not in (kind, more.get("head"))])
        if count == 1 and self.random() < P_SIZE:
            size = _pick(self.random, SIZES)
        return Thing(kind, attribute, size, count, **more)

    def kinds(self, count: int) -> list[str]:
        """Different kinds."""
        chosen: list[str] = []
        while len(chosen) < count:
            kind = _pick(self.random, _KINDS)
            if kind not in chosen:
                chosen.append(kind)
        return chosen

    def _single(self) -> tuple:
        return (self.thing(_pick(self.random, _KINDS)),), ()

    def _count(self) -> tuple:
        return (self.thing(_pick(self.random, _KINDS), _pick(self.random, range(2, MAX_COUNT + 1))),), ()

    def _place(self) -> tuple:
        name = _pick(self.random, PLACES)
        if name == "inside":
            things = tuple(self.thing(kind) for kind in _pick(self.random, _pairs("inside")))
        else:
            counts = (1, 1, 1, 1, 2, 3) if name in ("left of", "right of") else (1,)
            things = tuple(self.thing(kind, _pick(self.random, counts)) for kind in self.kinds(2))
        return things, (Relation(0, name, 1),)

    def _action(self) -> tuple:
        name = _pick(self.random, ACTIONS)
        return tuple(self.thing(kind) for kind in _pick(self.random, _pairs(name))), (Relation(0, name, 1),)

    def _hybrid(self) -> tuple:
        kind, head = self.kinds(2)
        return (self.thing(kind, head=head),), ()

    def _inscription(self) -> tuple:
        text = inscription(self.random, self.split == "word")
        thing = self.thing(_pick(self.random, _BOARDS), text=text)
        return (replace(thing, size=None),), ()  # the inscription determines the size

    def _several(self) -> tuple:
        things = tuple(
            self.thing(kind, _pick(self.random, (1, 1, 1, 2, 3)))
            for kind in self.kinds(_pick(self.random, range(3, MAX_THINGS + 1)))
        )
        relations, i = [], 0
        while i + 1 < len(things) and self.random() < 0.5:
            names = [n for n in (*PLACES, *ACTIONS) if n != "inside" and self._possible(things[i], n, things[i + 1])]
            if relations and relations[-1].object == i and relations[-1].name in _COVERING:
                names = [n for n in names if n not in ("below", "behind")]  # both would hide each other
            relations.append(Relation(i, _pick(self.random, names), i + 1))
            i += 2 if self.random() < 0.7 else 1
        return things, tuple(relations)

    @staticmethod
    def _possible(a: Thing, name: str, b: Thing) -> bool:
        return name in ("left of", "right of") or (a.count == b.count == 1 and can(a, name, b))
