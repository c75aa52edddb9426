"""Captions of scenes: several phrasings of each fact, some of which leave a fact out.

The first phrasing of each list is the canonical one: the most frequent, and the one that `caption(scene)` returns
without a generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from t2i.data.toybox.attributes import ATTRIBUTES, COLOURS
from t2i.data.toybox_v1.description import SceneDescription, Thing
from t2i.data.toybox_v1.kinds import KINDS

# "{}" is the kind, singular or plural; the article or the number precedes the whole phrase.
_FRUIT = "avocado", "watermelon", "orange"
PHRASINGS: dict[str, tuple[str, ...]] = {
    **{colour: (f"{colour} {{}}", f"{{}} that {{be}} {colour}") for colour in COLOURS},
    **{f: (f"{f} {{}}", f"{{}} in the shape of {{a}} {f}", f"{{}} that {{look}} like {{a}} {f}") for f in _FRUIT},
    "zebra": ("zebra {}", "{} with zebra stripes"),
    "leopard": ("leopard {}", "{} with leopard spots"),
    "wood": ("wooden {}", "wood {}", "{} made of wood"),
    "brick": ("brick {}", "{} made of bricks"),
    "polka dot": ("polka dot {}", "{} with polka dots"),
    "starry night": ("starry night {}", "{} painted like a starry night"),
    "rainbow": ("rainbow {}", "{} with rainbow stripes"),
}

RELATION_PHRASES: dict[str, tuple[str, ...]] = {
    "on top of": ("on top of", "above"),
    "below": ("below", "under", "beneath"),
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
}

SIDE_BY_SIDE = ("left of", "right of")

BACKGROUND_PHRASES: dict[str, tuple[str, ...]] = {
    "white": ("on a white background", "on white"),
    "studio": ("in a studio",),
    "meadow": ("in a meadow", "on the grass"),
    "beach": ("on the beach", "at the beach"),
    "room": ("in a room",),
    "snow": ("in the snow",),
}

OPENINGS = ("a picture of", "a drawing of", "an image of", "a painting of")

NUMBERS = {2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4")}

# Probabilities of the canonical phrasing and of each optional part.
P_FIRST_ADJECTIVE = 0.6
P_FIRST_RELATION = 0.6
P_FIRST_BACKGROUND = 0.75
P_DIGIT = 0.1
P_BACKGROUND = 0.3
P_OPENING = 0.25
P_BARE = 0.05  # a thing without its attribute: "a cat"
P_AND = 0.2  # things side by side, their order unspecified: "a red cat and a blue car"


def article(phrase: str) -> str:
    """`phrase` with "a" or "an" before it. None of the words here begins with a silent h or a sounded "you"."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _choose(options: Sequence[str], p_first: float, rng: np.random.Generator | None) -> str:
    """The first option with probability `p_first`, otherwise one of the others; without a generator, the first."""
    if rng is None or len(options) == 1 or rng.random() < p_first:
        return options[0]
    return options[1 + int(rng.random() * (len(options) - 1))]


def _fill(phrasing: str, attribute: str, noun: str, plural: bool) -> str:
    """Insert the noun into a phrasing. Several things look like avocados, not like an avocado."""
    fruit = f"{attribute}s" if plural else article(attribute)
    text = phrasing.replace(f"{{a}} {attribute}", fruit)
    return text.format(noun, be="are" if plural else "is", look="look" if plural else "looks")


def name(thing: Thing, rng: np.random.Generator | None = None, bare: bool = False) -> str:
    """A thing with its article or number: "a red cat", "three wooden horses". `bare` omits the attribute."""
    kind, plural = KINDS[thing.kind], thing.count > 1
    text = kind.plural if plural else kind.name
    if not bare:
        options = PHRASINGS[thing.attribute]
        # "a cat that is red" is less natural than "a cat made of wood", and so rarer
        p_first = 0.9 if thing.attribute in COLOURS else P_FIRST_ADJECTIVE
        text = _fill(_choose(options, p_first, rng), thing.attribute, text, plural)
    if not plural:
        return article(text)
    return f"{_choose(NUMBERS[thing.count], 1 - P_DIGIT, rng)} {text}"


def _maybe_bare(thing: Thing, rng: np.random.Generator | None) -> str:
    return name(thing, rng, bare=rng is not None and rng.random() < P_BARE)


def caption(scene: SceneDescription, rng: np.random.Generator | None = None) -> str:
    """A lower-case caption of the scene; without `rng`, the canonical one: "a red cat on top of a blue car"."""
    text = _maybe_bare(scene.things[0], rng)
    if scene.relation is not None:
        relation = _choose(RELATION_PHRASES[scene.relation], P_FIRST_RELATION, rng)
        if rng is not None and scene.relation in SIDE_BY_SIDE and rng.random() < P_AND:
            relation = "and"
        text = f"{text} {relation} {_maybe_bare(scene.things[1], rng)}"
    if rng is None:
        return text
    if rng.random() < P_BACKGROUND:
        text = f"{text} {_choose(BACKGROUND_PHRASES[scene.background], P_FIRST_BACKGROUND, rng)}"
    if rng.random() < P_OPENING:
        text = f"{OPENINGS[int(rng.random() * len(OPENINGS))]} {text}"
    return text


def vocabulary() -> set[str]:
    """All words that captions can contain, split at spaces."""
    phrases = ["a", "an", "and", *OPENINGS]
    for options in (*RELATION_PHRASES.values(), *BACKGROUND_PHRASES.values(), *NUMBERS.values()):
        phrases += options
    for kind in KINDS.values():
        phrases += [kind.name, kind.plural]
    for attribute in ATTRIBUTES:
        phrases += [_fill(p, attribute, "", plural) for p in PHRASINGS[attribute] for plural in (False, True)]
    return {word for phrase in phrases for word in phrase.split()}
