"""Scenes as sets of facts: what a caption states, what a scene fulfils, and how many atoms a prompt has."""

from __future__ import annotations

from t2i.data.toybox.description import SceneDescription

Fact = tuple  # ("kind", kind), ("attribute", kind, attribute), … : see `facts`
INVERSE = {
    "below": "on top of",
    "right of": "left of",
    "behind": "in front of",
}
TURNED = INVERSE | {there: here for here, there in INVERSE.items()}  # a is left of b: b is right of a


def relation_fact(subject: str, name: str, thing: str) -> Fact:
    """The same for "a is left of b" and "b is right of a"."""
    if name in INVERSE:
        subject, name, thing = thing, INVERSE[name], subject
    return "relation", subject, name, thing


def facts(scene: SceneDescription) -> frozenset[Fact]:
    """What a scene states: a kind for each thing, and everything that is specified about it and about the whole.

    ("kind", kind), ("attribute", kind, attribute), ("without", kind, attribute), ("size", kind, size), ("count", kind,
    count) of two or more, ("head", kind, head), ("text", kind, text), ("relation", kind, relation, kind), ("style",
    style) other than plain, ("background", background).
    """
    found: set[Fact] = set()
    for thing in scene.things:
        found.add(("kind", thing.kind))
        stated = {"attribute": thing.attribute, "without": thing.without, "size": thing.size, "head": thing.head}
        stated |= {"text": thing.text, "count": thing.count if thing.count > 1 else None}
        found |= {(name, thing.kind, value) for name, value in stated.items() if value is not None}
    for relation in scene.relations:
        subject, thing = scene.things[relation.subject].kind, scene.things[relation.object].kind
        found.add(relation_fact(subject, relation.name, thing))
    if scene.style != "plain":
        found.add(("style", scene.style))
    if scene.background is not None:
        found.add(("background", scene.background))
    return frozenset(found)
