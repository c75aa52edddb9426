"""The description of a scene, as plain data.

`t2i.data.toybox_v1.scene.Scene` adds the caption and the image made from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from t2i.checks import check_choice
from t2i.data.toybox.attributes import ATTRIBUTES
from t2i.data.toybox.backgrounds import BACKGROUNDS
from t2i.data.toybox_v1.kinds import KINDS
from t2i.data.toybox_v1.split import HELD_OUT

RELATIONS = ("on top of", "below", "left of", "right of")
MAX_COUNT = 4


@dataclass(frozen=True)
class Thing:
    """`count` (1 to 4) objects of one kind (a name in KINDS) that share one attribute (a name in ATTRIBUTES).

    Raises ValueError for an unknown name, a count out of range, and for a thing made of itself ("avocado avocado").
    """

    kind: str
    attribute: str
    count: int = 1

    def __post_init__(self) -> None:
        check_choice("kind", str(self.kind), KINDS)
        check_choice("attribute", str(self.attribute), ATTRIBUTES)
        if self.attribute == self.kind:
            raise ValueError(f"a thing cannot be made of itself: {self.attribute} {self.kind}")
        if isinstance(self.count, bool) or not isinstance(self.count, int) or not 1 <= self.count <= MAX_COUNT:
            raise ValueError(f"count must be a whole number from 1 to {MAX_COUNT}, not {self.count!r}")

    @property
    def held_out(self) -> bool:
        """Whether the pair belongs to the zero-shot split."""
        return (self.attribute, self.kind) in HELD_OUT


@dataclass(frozen=True)
class SceneDescription:
    """One thing (1 to 4 of a kind), or two things in a relation: things[0] is `relation` things[1].

    Attributes:
        things: one Thing, or two of different kinds with count 1 each.
        relation: a name in RELATIONS for two things, None for one.
        background: a name in BACKGROUNDS.
        jitter_seed: seed of everything the caption does not specify (sizes, positions, mirroring, tints, height of the
            horizon), so that `render` is a pure function of the scene.

    Raises ValueError for an invalid description.
    """

    things: tuple[Thing, ...]
    relation: str | None = None
    background: str = "white"
    jitter_seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "things", tuple(self.things))  # a list is accepted, but a frozen scene needs a tuple
        check_choice("background", str(self.background), BACKGROUNDS)
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
        check_choice("relation", str(self.relation), RELATIONS)
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
