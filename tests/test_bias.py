"""Counterfactual and bare prompts, with fake generators whose faults are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from t2i.data.toybox import ATTRIBUTES, KINDS, Scene, Thing
from t2i.data.toybox.classifier import load_classifier, predict
from t2i.eval.evaluators.bias import (
    SWAPS,
    bare_prompts,
    counterfactual_scores,
    open_attributes_score,
    pair_prompts,
    pairs,
)
from t2i.eval.generation.images import Item, generate_batches


@pytest.fixture(scope="module")
def classifier():
    return load_classifier()


class Painter:
    """Renders the thing that a canonical caption names; for "a cat", in `favourite` or any attribute."""

    def __init__(self, favourite: str | None = None, deaf_to: str | None = None):
        self.favourite, self.deaf_to = favourite, deaf_to
        things = [Thing(kind, attribute) for kind in KINDS for attribute in ATTRIBUTES if kind != attribute]
        self.said = {Scene((thing,)).caption(): thing for thing in things}

    def __call__(self, prompts, generator):
        images = []
        for prompt, g in zip(prompts, generator, strict=True):
            rng = np.random.default_rng(g.initial_seed())
            thing = self.said.get(prompt) or self._bare(prompt, rng)
            if self.deaf_to == "attribute":
                thing = Thing(thing.kind, "red")
            images.append(Scene((thing,), jitter_seed=int(rng.integers(1000))).render(64))
        return SimpleNamespace(images=images)

    def _bare(self, prompt: str, rng: np.random.Generator) -> Thing:
        kind = next(k for k in KINDS if prompt.split(" ", 1)[1] == KINDS[k].name)
        others = [attribute for attribute in ATTRIBUTES if attribute != kind]
        return Thing(kind, self.favourite or others[int(rng.integers(len(others)))])


def drawn(painter: Painter, prompts: list, seed: int = 0) -> list:
    items = [Item(i, prompt, seed) for i, prompt in enumerate(prompts)]
    return [image for _, images in generate_batches(painter, items, 16) for image in images]


def pairs_of(painter: Painter, classifier, num: int) -> dict:
    asked = pairs(num, seed=0)
    scores = counterfactual_scores(asked, predict(classifier, drawn(painter, pair_prompts(asked))), {})
    return {score.name: score for score in scores}


def test_the_two_of_a_pair_share_their_noise_and_files_do_not_collide():
    asked = pair_prompts(pairs(40, seed=2))
    first, second, again = asked[:80], asked[80:160], asked[160:]
    for a, b, c in zip(first, second, again, strict=True):
        seeds = [Item(0, prompt, 0).generator().initial_seed() for prompt in (a, b, c)]
        assert seeds[0] == seeds[1] != seeds[2]
        assert a.text != b.text == c.text
    files = {Item(0, prompt, 0).file for prompt in [*asked, *bare_prompts(80)]}
    assert len(files) == len(asked) + 80


def test_pairs_differ_in_one_word_and_are_all_seen():
    for pair in pairs(30, seed=1):
        a, b = pair.first.things[0], pair.second.things[0]
        assert not a.held_out
        assert not b.held_out
        differs = [swap for swap in SWAPS if getattr(a, swap) != getattr(b, swap)]
        assert differs == [pair.swap]


def test_a_faithful_painter_follows_and_keeps(classifier):
    found = pairs_of(Painter(), classifier, 12)
    for swap in SWAPS:
        assert found[f"swap of {swap}: followed"].value > 0.9
        assert found[f"swap of {swap}: rest kept"].value > 0.9
        assert found[f"swap of {swap}: rest kept"].ceiling > 0.9


def test_a_painter_deaf_to_attributes_does_not_follow_them(classifier):
    found = pairs_of(Painter(deaf_to="attribute"), classifier, 12)
    assert found["swap of attribute: followed"].value < 0.2
    assert found["swap of kind: followed"].value > 0.9


def test_a_favourite_is_found(classifier):
    def score(painter: Painter, num: int):
        return open_attributes_score(predict(classifier, drawn(painter, bare_prompts(num))), 0, {})

    one, even = score(Painter(favourite="zebra"), 48), score(Painter(), 96)
    assert next(iter(one.details["counts"])) == "zebra"
    assert one.value > 0.9
    assert even.value < 2 * even.ceiling
