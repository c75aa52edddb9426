"""The description of a scene, as plain data.

`t2i.data.toybox.scene.Scene` adds the caption and the image made from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from t2i.checks import check_choice
from t2i.data.toybox.attributes import ATTRIBUTES, COLOURS
from t2i.data.toybox.backgrounds import BACKGROUNDS
from t2i.data.toybox.kinds import KINDS
from t2i.data.toybox.styles import STYLES

PLACES = ("on top of", "below", "left of", "right of", "inside", "in front of", "behind")
ACTIONS = ("riding", "eating", "holding", "wearing", "sitting on")
RELATIONS = (*PLACES, *ACTIONS)
SIZES = ("big", "small")
MAX_COUNT = 4
MAX_THINGS = 5
MAX_TEXT = 25


@dataclass(frozen=True)
class Thing:
    """`count` (1 to MAX_COUNT) objects of one kind that look alike.

    Attributes:
        kind: a name in KINDS.
        attribute: a name in ATTRIBUTES; None: not specified, and rendered in the kind's natural colours.
        size: one of SIZES; None: not specified, and in between.
        count: the number of objects.
        head: a name in KINDS whose top it has, for a hybrid: "a penguin with the head of a cat"; None: its own.
        text: the inscription on its board, up to MAX_TEXT printable ASCII characters; None: no inscription.
        without: an attribute that it must not have; None: any is right.

    Raises ValueError for an unknown name or a value out of range, for a thing made of itself ("avocado avocado"), for
    an inscription on a kind without a board, and for more than one object with a head or an inscription.
    """

    kind: str
    attribute: str | None = None
    size: str | None = None
    count: int = 1
    head: str | None = None
    text: str | None = None
    without: str | None = None

    def __post_init__(self) -> None:
        check_choice("kind", str(self.kind), KINDS)
        for what, name, names in (
            ("kind", self.head, KINDS),
            ("attribute", self.attribute, ATTRIBUTES),
            ("attribute", self.without, ATTRIBUTES),
            ("size", self.size, SIZES),
        ):
            if name is not None:
                check_choice(what, str(name), names)
        if self.attribute in self.kinds:
            raise ValueError(f"a thing cannot be made of itself: {self.attribute} {self.kind}")
        if self.attribute is not None and self.attribute == self.without:
            raise ValueError(f"a {self.kind} cannot be {self.attribute} and not {self.without}")
        if isinstance(self.count, bool) or not isinstance(self.count, int) or not 1 <= self.count <= MAX_COUNT:
            raise ValueError(f"count must be a whole number from 1 to {MAX_COUNT}, not {self.count!r}")
        if self.count > 1 and (self.head or self.text):
            raise ValueError("things with the head of another kind, or with an inscription, have count 1")
        if self.head is not None and self.text is not None:
            raise ValueError("a thing has the head of another kind or an inscription, not both")
        if self.head == self.kind:
            raise ValueError(f"a hybrid needs two kinds, both are {self.kind!r}")
        if self.text is not None:
            if KINDS[self.kind].board is None:
                raise ValueError(f"a {self.kind} has no surface for an inscription")
            printable = self.text.isascii() and self.text.isprintable() and '"' not in self.text
            if not 1 <= len(self.text) <= MAX_TEXT or not printable:
                raise ValueError(
                    f'an inscription has 1 to {MAX_TEXT} printable ASCII characters other than ", not {self.text!r}'
                )

    @property
    def shown(self) -> str | None:
        """The attribute that is rendered; where only one is excluded, some other colour."""
        if self.attribute is None and self.without is not None:
            return next(colour for colour in COLOURS if colour != self.without)
        return self.attribute

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that it is made of: its own, and that of its head if it has another's."""
        return (self.kind,) if self.head is None else (self.kind, self.head)


@dataclass(frozen=True)
class Relation:
    """things[subject] is `name` things[object]. Raises ValueError for an unknown name."""

    subject: int
    name: str
    object: int

    def __post_init__(self) -> None:
        check_choice("relation", str(self.name), RELATIONS)


@dataclass(frozen=True)
class SceneDescription:
    """One to MAX_THINGS things, all of different kinds, some of them in relations.

    Attributes:
        things: the things, from left to right unless relations say otherwise.
        relations: at most one chain of relations leads from a thing to another, so that any set can be laid out.
        style: a name in STYLES.
        background: a name in BACKGROUNDS; None: not specified, and rendered white.
        jitter_seed: seed of everything the caption does not specify (sizes, positions, mirroring, tints, lettering), so
            that `render` is a pure function of the scene.

    Raises ValueError for an invalid description.
    """

    things: tuple[Thing, ...]
    relations: tuple[Relation, ...] = ()
    style: str = "plain"
    background: str | None = None
    jitter_seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "things", tuple(self.things))  # lists are accepted, but a frozen scene needs tuples
        object.__setattr__(self, "relations", tuple(self.relations))
        check_choice("style", str(self.style), STYLES)
        if self.background is not None:
            check_choice("background", str(self.background), BACKGROUNDS)
        if isinstance(self.jitter_seed, bool) or not isinstance(self.jitter_seed, int) or self.jitter_seed < 0:
            raise ValueError(f"jitter_seed must be a whole number from 0 up, not {self.jitter_seed!r}")
        if not 1 <= len(self.things) <= MAX_THINGS:
            raise ValueError(f"a scene has 1 to {MAX_THINGS} things, not {len(self.things)}")
        kinds = [kind for thing in self.things for kind in thing.kinds]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"the things must differ in kind, not {', '.join(kinds)}")
        group = list(range(len(self.things)))  # of things connected by relations, by its first thing
        for relation in self.relations:
            self._check(relation)
            a, b = group[relation.subject], group[relation.object]
            if a == b:
                raise ValueError("two chains of relations lead from a thing to another")
            group = [a if g == b else g for g in group]

    def _check(self, relation: Relation) -> None:
        if not all(0 <= i < len(self.things) for i in (relation.subject, relation.object)):
            raise ValueError(f"a relation of things {relation.subject} and {relation.object} of {len(self.things)}")
        subject, thing = self.things[relation.subject], self.things[relation.object]
        if relation.name in ("left of", "right of"):
            return
        if subject.count > 1 or thing.count > 1:
            raise ValueError(f"{relation.name!r} is between single things, not several of a kind")
        if not can(subject, relation.name, thing):
            raise ValueError(f"a {subject.kind} cannot be {relation.name} a {thing.kind}")


def can(subject: Thing, relation: str, thing: Thing) -> bool:
    """Whether kinds allow a relation. A hybrid eats and wears with its head, and does everything else with its body."""
    head, body, kind = KINDS[subject.head or subject.kind], KINDS[subject.kind], KINDS[thing.kind]
    match relation:
        case "riding":
            return body.creature and kind.back is not None
        case "eating":
            return head.mouth is not None and kind.food
        case "holding":
            return body.hand is not None and kind.grip is not None
        case "wearing":
            return head.crown is not None and kind.brim is not None
        case "sitting on":
            return body.creature and kind.seat is not None
        case "inside":
            return kind.rim is not None
        case _:
            return True
