"""What a classifier predicts of an image, and whether that is what a prompt states."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from t2i.data.toybox.description import SceneDescription
from t2i.data.toybox.facts import Fact, facts

UPON = ("on top of", "sitting on", "riding")  # one class: who rides or sits on a thing is on top of it

_OTHER = {"big": "small", "small": "big"}


@dataclass(frozen=True)
class Prediction:
    """Prediction for one image.

    Attributes:
        facts: what the image shows, as of `t2i.data.toybox.facts.facts`; a thing without attribute is "natural", and
            each two things are in a relation, where riding and sitting count as being on top.
    """

    facts: frozenset[Fact]

    @classmethod
    def of(cls, scene: SceneDescription) -> Prediction:
        """The correct prediction for an image of a scene, without relations that the scene does not state."""
        upon = {fact for fact in facts(scene) if fact[0] == "relation" and fact[2] in UPON}
        found = facts(scene) - upon | {("relation", a, "on top of", b) for _, a, _, b in upon}
        return cls(found | {("attribute", t.kind, t.shown or "natural") for t in scene.things})

    def holds(self, fact: Fact) -> bool:
        """Whether a fact of a prompt holds in the image."""
        match fact:
            case ("without", kind, attribute):
                return ("kind", kind) in self.facts and ("attribute", kind, attribute) not in self.facts
            case ("size", kind, size):  # what others are small next to is big, unless others are bigger still
                sizes = {fact[1]: fact[2] for fact in self.facts if fact[0] == "size"}
                alike = ("kind", kind) in self.facts and kind not in sizes and set(sizes.values()) == {_OTHER[size]}
                return sizes.get(kind) == size or alike
            case ("relation", subject, name, thing):
                same = {("relation", subject, "on top of" if name in UPON else name, thing)}
                same |= {("relation", thing, "on top of", subject)} if name == "wearing" else set()
                same |= {("relation", thing, "wearing", subject)} if name in UPON else set()
                return bool(same & self.facts)
        return fact in self.facts

    def fulfils(self, stated: frozenset[Fact]) -> bool:
        """Whether all facts of a prompt hold, and the image has no more than it names: no other things, no more of one,
        and no inscription.
        """
        more = {fact[:2] for fact in self.facts if fact[0] in ("count", "text")} - {fact[:2] for fact in stated}
        return not more and self.kinds <= _kinds(stated) and all(map(self.holds, stated))

    @property
    def kinds(self) -> set[str]:
        """All kinds in the image, the heads of hybrids among them."""
        return _kinds(self.facts)


def facts_right(answers: Iterable[tuple[Prediction, frozenset[Fact]]]) -> dict[str, list[bool]]:
    """{type of fact: whether each fact of that type holds}, for predictions and what their images should show."""
    right: dict[str, list[bool]] = {}
    for prediction, stated in answers:
        for fact in sorted(stated, key=str):
            right.setdefault(fact[0], []).append(prediction.holds(fact))
    return right


def _kinds(stated: frozenset[Fact]) -> set[str]:
    return {fact[1] for fact in stated if fact[0] == "kind"} | {fact[2] for fact in stated if fact[0] == "head"}
