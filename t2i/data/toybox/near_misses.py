"""Hard negatives: scenes that differ from another in one fact, such as which thing has which attribute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from t2i.data.toybox.attributes import ATTRIBUTES, COLOURS
from t2i.data.toybox.captions import resembles
from t2i.data.toybox.description import MAX_COUNT, RELATIONS, SIZES
from t2i.data.toybox.facts import TURNED, facts
from t2i.data.toybox.kinds import KINDS
from t2i.data.toybox.prediction import Prediction
from t2i.data.toybox.scene import Scene
from t2i.data.toybox.split import held_out_sorts
from t2i.data.toybox.styles import STYLES

T = TypeVar("T")


def turned_round(scene: Scene) -> Scene:
    """The same image described from the other thing: "a red cat on top of a blue car", "a blue car below a red cat".

    A scene without a place that can be turned is returned unchanged.
    """
    turned = [
        replace(r, subject=r.object, name=TURNED[r.name], object=r.subject) if r.name in TURNED else r
        for r in scene.relations
    ]
    return replace(scene, relations=tuple(turned))


def near_misses(scene: Scene, num: int, rng: np.random.Generator) -> list[Scene]:
    """`num` distinct scenes that differ from `scene` in one fact; the background is the same.

    With two things or more, first their attributes are exchanged, and the parts of a relation ("a blue cat on top of a
    red car", "a blue car on top of a red cat"), and the halves of a hybrid; the others change a kind, an attribute, a
    size, a count, a relation, or the style. Nothing is held out of training unless `scene` has something that is.
    Positions are sampled anew.

    Args:
        scene: is not modified.
        num: at least 0.
        rng: the only source of randomness.
    """
    found: list[Scene] = []
    seen, may_hold_out, shown = {facts(scene)}, bool(held_out_sorts(facts(scene))), Prediction.of(scene)
    for other in _candidates(scene, rng.random):
        if len(found) == num:
            break
        meaning = facts(other)
        if shown.fulfils(meaning):  # "a hat below a cat" is right for a cat that wears it
            continue
        if meaning not in seen and (may_hold_out or not held_out_sorts(meaning)):
            seen.add(meaning)
            found.append(replace(other, jitter_seed=int(rng.random() * 2**31)))
    return found


def _candidates(scene: Scene, random: Callable[[], float]) -> Iterator[Scene]:
    """Infinite stream of scenes that differ in one fact, or in none."""
    exchanges = [_exchanged_attributes, _exchanged_parts, _exchanged_halves]
    for change in exchanges if random() < 0.5 else [*exchanges[1::-1], exchanges[2]]:
        if (other := _valid(change, scene, random)) is not None:
            yield other
    while True:
        change = _pick(random, (_kind, _attribute, _size, _count, _relation, _style))
        if (other := _valid(change, scene, random)) is not None:
            yield other


def _valid(change: Callable, scene: Scene, random: Callable[[], float]) -> Scene | None:
    """The changed scene; None if there is none, or none that is valid."""
    try:
        return change(scene, random)
    except ValueError:
        return None


def _exchanged_attributes(scene: Scene, random: Callable[[], float]) -> Scene | None:
    if len(scene.things) < 2:
        return None
    a, b = scene.things[:2]
    return _with(scene, {0: replace(a, attribute=b.attribute), 1: replace(b, attribute=a.attribute)})


def _exchanged_parts(scene: Scene, random: Callable[[], float]) -> Scene | None:
    if not scene.relations:
        return None
    first, *rest = scene.relations
    return replace(scene, relations=(replace(first, subject=first.object, object=first.subject), *rest))


def _exchanged_halves(scene: Scene, random: Callable[[], float]) -> Scene | None:
    thing = scene.things[0]
    return None if thing.head is None else _with(scene, {0: replace(thing, kind=thing.head, head=thing.kind)})


def _kind(scene: Scene, random: Callable[[], float]) -> Scene:
    i = int(random() * len(scene.things))
    return _with(scene, {i: replace(scene.things[i], kind=_pick(random, tuple(KINDS)))})


def _attribute(scene: Scene, random: Callable[[], float]) -> Scene | None:
    i = int(random() * len(scene.things))
    thing, attribute = scene.things[i], _pick(random, ATTRIBUTES)
    if thing.attribute is None and attribute in COLOURS and resembles(thing.kind, attribute):
        return None
    return _with(scene, {i: replace(thing, attribute=attribute)})


def _size(scene: Scene, random: Callable[[], float]) -> Scene:
    i = int(random() * len(scene.things))
    return _with(scene, {i: replace(scene.things[i], size=_pick(random, SIZES))})


def _count(scene: Scene, random: Callable[[], float]) -> Scene:
    i = int(random() * len(scene.things))
    return _with(scene, {i: replace(scene.things[i], count=1 + int(random() * MAX_COUNT))})


def _relation(scene: Scene, random: Callable[[], float]) -> Scene | None:
    if not scene.relations:
        return None
    first, *rest = scene.relations
    return replace(scene, relations=(replace(first, name=_pick(random, RELATIONS)), *rest))


def _style(scene: Scene, random: Callable[[], float]) -> Scene:
    return replace(scene, style=_pick(random, tuple(STYLES)))


def _with(scene: Scene, things: dict) -> Scene:
    """The scene with some of its things replaced, by index."""
    return replace(scene, things=tuple(things.get(i, thing) for i, thing in enumerate(scene.things)))


def _pick(random: Callable[[], float], options: Sequence[T]) -> T:
    """As in scene.py: uses only rng.random()."""
    return options[int(random() * len(options))]
