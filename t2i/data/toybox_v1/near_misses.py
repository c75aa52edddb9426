"""Hard negatives: scenes that differ from another in one fact, such as which object has which attribute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from t2i.data.toybox.attributes import ATTRIBUTES
from t2i.data.toybox_v1.classifier import Prediction
from t2i.data.toybox_v1.kinds import KINDS
from t2i.data.toybox_v1.scene import MAX_COUNT, RELATIONS, Scene, Thing

T = TypeVar("T")
_TURNED = {"on top of": "below", "below": "on top of", "left of": "right of", "right of": "left of"}


def turned_round(scene: Scene) -> Scene:
    """The same image described from the other thing: "a red cat on top of a blue car", "a blue car below a red cat".

    A scene of one thing is returned unchanged.
    """
    if scene.relation is None:
        return scene
    return replace(scene, things=scene.things[::-1], relation=_TURNED[scene.relation])


def near_misses(scene: Scene, num: int, rng: np.random.Generator) -> list[Scene]:
    """`num` distinct scenes that differ from `scene` in one fact; the background is the same.

    With two things, first the attributes are swapped, then the things ("a blue cat on top of a red car", "a blue car on
    top of a red cat"); the others change a kind, an attribute, a count or the relation. Held-out pairs occur only if
    the scene itself has one. Positions are sampled anew.

    Args:
        scene: is not modified.
        num: at least 0.
        rng: the only source of randomness.
    """
    found, seen = [], {Prediction.of(scene)}
    candidates = _candidates(scene, rng)
    while len(found) < num:
        things, relation = next(candidates)
        if not _allowed(things, scene):
            continue
        seed = int(rng.random() * 2**31)
        other = replace(scene, things=tuple(Thing(*t) for t in things), relation=relation, jitter_seed=seed)
        meaning = Prediction.of(other)  # "left of" with the things swapped is "right of"
        if meaning not in seen:
            seen.add(meaning)
            found.append(other)
    return found


def _candidates(scene: Scene, rng: np.random.Generator) -> Iterator[tuple[list[tuple[str, str, int]], str | None]]:
    """Infinite stream of (kind, attribute, count) of each thing and the relation; some are not valid scenes."""
    own = [(t.kind, t.attribute, t.count) for t in scene.things]
    if len(own) == 2:
        (kind, attribute, _), (kind2, attribute2, _) = own
        exchanged = [[(kind, attribute2, 1), (kind2, attribute, 1)], own[::-1]]
        for things in exchanged if rng.random() < 0.5 else exchanged[::-1]:
            yield things, scene.relation
    while True:
        things, relation = list(own), scene.relation
        i = int(rng.random() * len(own))
        kind, attribute, count = own[i]
        match _pick(rng, ("kind", "attribute", "count" if len(own) == 1 else "relation")):
            case "kind":
                things[i] = (_pick(rng, tuple(KINDS)), attribute, count)
            case "attribute":
                things[i] = (kind, _pick(rng, ATTRIBUTES), count)
            case "count":
                things[i] = (kind, attribute, 1 + int(rng.random() * MAX_COUNT))
            case "relation":
                relation = _pick(rng, RELATIONS)
        yield things, relation


def _allowed(things: Sequence[tuple[str, str, int]], scene: Scene) -> bool:
    kinds = [kind for kind, _, _ in things]
    if len(set(kinds)) < len(kinds) or any(kind == attribute for kind, attribute, _ in things):
        return False
    return any(t.held_out for t in scene.things) or not any(Thing(*t).held_out for t in things)


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """As in scene.py: uses only rng.random()."""
    return options[int(rng.random() * len(options))]
