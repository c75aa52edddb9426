"""What one word does, and what is drawn where the prompt says nothing.

Counterfactual prompts (in the sense of Kusner et al. 2017, arXiv 1703.06856): two prompts that differ in one word,
drawn from the same generators. The word should change what it names and nothing else. Bare prompts, such as "a cat":
of the attributes that the prompt leaves open, which are drawn?

Shapes: B pictures · S image side · A attributes
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from t2i.data.toybox import ATTRIBUTES, KINDS, Scene, Thing
from t2i.data.toybox.captions import name
from t2i.data.toybox.reader import Reader, Reading
from t2i.eval.binding import readings, share, squares
from t2i.eval.prompts import Prompt

SWAPS = ("kind", "attribute")  # in the order in which a reading has them
SHOWN = 8  # pairs of each swap among the examples


@dataclass(frozen=True)
class Pair:
    """Two scenes of one thing that differ in its `swap` alone, and so do their canonical captions."""

    swap: str
    first: Scene
    second: Scene


@dataclass(frozen=True)
class Counterfactuals:
    """
    Attributes:
        report: for each of SWAPS three shares with their intervals, as `wilson` gives them.
            followed: both pictures show the word that their prompt has.
            kept: the other of kind and attribute, and how many there are, are read alike on both.
            kept_by_chance: the same of two pictures of one prompt from different generators, for comparison.
        examples: (picture, prompt) of the first pairs, one after the other.
    """

    report: dict
    examples: list[tuple[Image.Image, str]]


def pairs(num: int, seed: int) -> list[Pair]:
    """`num` pairs for each of SWAPS. Pair i depends on (seed, swap, i) alone; none asks for a held-out combination."""
    return [_pair(swap, np.random.default_rng((seed, SWAPS.index(swap), i, 5))) for swap in SWAPS for i in range(num)]


def _pair(swap: str, rng: np.random.Generator) -> Pair:
    names = tuple(KINDS) if swap == "kind" else tuple(ATTRIBUTES)
    first = Scene.sample(rng, "train", "single")
    own = first.things[0]
    for i in rng.permutation(len(names)):
        if names[i] in (own.kind, own.attribute):  # the word that is there; and nothing is made of itself
            continue
        thing = replace(own, **{swap: names[i]})
        if not thing.held_out:
            return Pair(swap, first, replace(first, things=(thing,)))
    raise AssertionError("every kind and attribute is seen with more than one partner")


def pair_prompts(num: int, seed: int) -> list[Prompt]:
    """What `counterfactuals` looks at: the first of each pair, the second of each, and the second of each again.

    The two of a pair have one key, so that they are drawn from the same generator; the third has its own.
    """
    asked = pairs(num, seed)
    first, second = [p.first.caption() for p in asked], [p.second.caption() for p in asked]
    return [*_prompts("pair", first), *_prompts("pair", second), *_prompts("again", second)]


def bare_prompts(num: int) -> list[Prompt]:
    """ "a cat", "a house", … in turn, `num` in all."""
    kinds = [tuple(KINDS)[i % len(KINDS)] for i in range(num)]
    return _prompts("bare", [name(Thing(kind, ATTRIBUTES[0]), bare=True) for kind in kinds])


def _prompts(what: str, texts: Sequence[str]) -> list[Prompt]:
    return [Prompt(text, what, None, f"{what}/{i:04}") for i, text in enumerate(texts)]


def counterfactuals(
    reader: Reader, images: Sequence[Image.Image], num: int, seed: int = 0, batch_size: int = 32
) -> Counterfactuals:
    """Read the pictures of `pair_prompts(num, seed)`, in their order, and compare the two of each pair."""
    asked = pairs(num, seed)
    parts = [_read(reader, images[i : i + len(asked)], batch_size) for i in range(0, len(images), len(asked))]
    (images_a, a), (images_b, b), (_, again) = parts
    report, examples = {}, []
    for place, swap in enumerate(SWAPS):
        rows = [i for i, pair in enumerate(asked) if pair.swap == swap]
        report[swap] = {
            "followed": share(
                [
                    _word(a[i], place) == _asked(asked[i].first, place)
                    and _word(b[i], place) == _asked(asked[i].second, place)
                    for i in rows
                ]
            ),
            "kept": share([_rest(a[i], place) == _rest(b[i], place) for i in rows]),
            "kept_by_chance": share([_rest(b[i], place) == _rest(again[i], place) for i in rows]),
        }
        for i in rows[:SHOWN]:
            examples.append((Image.fromarray(images_a[i]), asked[i].first.caption()))
            examples.append((Image.fromarray(images_b[i]), asked[i].second.caption()))
    return Counterfactuals(report, examples)


def unsaid(reader: Reader, images: Sequence[Image.Image], seed: int = 0, batch_size: int = 32) -> dict:
    """Read the pictures of `bare_prompts`, and count the attributes.

    Returns:
        counts: {attribute: times}, most frequent first.
        total_variation: half the sum of |share of an attribute − 1 / A|, 0 where all are drawn alike, below 1.
        by_chance: what as many draws from all attributes alike give on average.
        n: how many pictures.
    """
    num = len(images)
    _, found = _read(reader, images, batch_size)
    counts = Counter(_word(reading, SWAPS.index("attribute")) for reading in found)
    even = np.random.default_rng(seed).multinomial(num, [1 / len(ATTRIBUTES)] * len(ATTRIBUTES), size=1000)
    return {
        "counts": dict(counts.most_common()),
        "total_variation": _from_even([counts[attribute] for attribute in ATTRIBUTES]),
        "by_chance": float(np.mean([_from_even(row) for row in even])),
        "n": num,
    }


def _read(reader: Reader, images: Sequence[Image.Image], batch_size: int) -> tuple[list[np.ndarray], list[Reading]]:
    """Pictures, uint8 (S, S, 3) each, and what is on them."""
    batches = (squares(images[i : i + batch_size]) for i in range(0, len(images), batch_size))
    found = [pair for batch in batches for pair in readings(reader, batch)]
    return [image for image, _ in found], [reading for _, reading in found]


def _asked(scene: Scene, place: int) -> str:
    return _word(Reading.of(scene), place)


def _word(reading: Reading, place: int) -> str:
    return reading.things[0][place]


def _rest(reading: Reading, place: int) -> tuple[str, str]:
    return reading.layout, reading.things[0][1 - place]


def _from_even(counts: Sequence[int]) -> float:
    shares = np.asarray(counts) / np.sum(counts)
    return float(np.abs(shares - 1 / len(shares)).sum() / 2)
