"""Counterfactual and bare prompts, with fake generators whose faults are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from t2i.data.toybox_v1 import ATTRIBUTES, KINDS, Scene, Thing
from t2i.data.toybox_v1.classifier import load_classifier, predict
from t2i.eval.evaluators.bias import (
    SWAPS,
    bare_prompts,
    counterfactual_scores,
    open_attributes_score,
    pair_prompts,
    sample_pairs,
)
from t2i.eval.generation.images import Item, generate_batches


@pytest.fixture(scope="module")
def classifier():
    return load_classifier()


class Renderer:
    """Renders the thing that a canonical caption names; for "a cat", in `favourite` or any attribute."""

    def __init__(self, favourite: str | None = None, ignored: str | None = None):
        self.favourite, self.ignored = favourite, ignored
        things = [Thing(kind, attribute) for kind in KINDS for attribute in ATTRIBUTES if kind != attribute]
        self.by_caption = {Scene((thing,)).caption(): thing for thing in things}

    def __call__(self, prompts, generator):
        images = []
        for prompt, g in zip(prompts, generator, strict=True):
            rng = np.random.default_rng(g.initial_seed())
            thing = self.by_caption.get(prompt) or self._bare(prompt, rng)
            if self.ignored == "attribute":
                thing = Thing(thing.kind, "red")
            images.append(Scene((thing,), jitter_seed=int(rng.integers(1000))).render(64))
        return SimpleNamespace(images=images)

    def _bare(self, prompt: str, rng: np.random.Generator) -> Thing:
        kind = next(k for k in KINDS if prompt.split(" ", 1)[1] == KINDS[k].name)
        others = [attribute for attribute in ATTRIBUTES if attribute != kind]
        return Thing(kind, self.favourite or others[int(rng.integers(len(others)))])


def generated(renderer: Renderer, prompts: list, seed: int = 0) -> list:
    items = [Item(i, prompt, seed) for i, prompt in enumerate(prompts)]
    return [image for _, images in generate_batches(renderer, items, 16) for image in images]


def pair_scores(renderer: Renderer, classifier, num: int) -> dict:
    pairs = sample_pairs(num, seed=0)
    scores = counterfactual_scores(pairs, predict(classifier, generated(renderer, pair_prompts(pairs))), {})
    return {score.name: score for score in scores}


def test_the_images_of_a_pair_share_their_noise_but_no_file():
    prompts = pair_prompts(sample_pairs(40, seed=2))
    first, second, again = prompts[:80], prompts[80:160], prompts[160:]
    for a, b, c in zip(first, second, again, strict=True):
        seeds = [Item(0, prompt, 0).generator().initial_seed() for prompt in (a, b, c)]
        assert seeds[0] == seeds[1] != seeds[2]
        assert a.text != b.text == c.text
    files = {Item(0, prompt, 0).file for prompt in [*prompts, *bare_prompts(80)]}
    assert len(files) == len(prompts) + 80


def test_pairs_differ_in_one_word_and_are_not_held_out():
    for pair in sample_pairs(30, seed=1):
        a, b = pair.first.things[0], pair.second.things[0]
        assert not a.held_out
        assert not b.held_out
        differs = [swap for swap in SWAPS if getattr(a, swap) != getattr(b, swap)]
        assert differs == [pair.swap]


def test_a_faithful_generator_follows_the_word_and_keeps_the_rest(classifier):
    found = pair_scores(Renderer(), classifier, 12)
    for swap in SWAPS:
        assert found[f"counterfactual {swap}: followed"].value > 0.9
        assert found[f"counterfactual {swap}: rest unchanged"].value > 0.9
        assert found[f"counterfactual {swap}: rest unchanged"].ceiling > 0.9


def test_a_generator_that_ignores_attributes_does_not_follow_them(classifier):
    found = pair_scores(Renderer(ignored="attribute"), classifier, 12)
    assert found["counterfactual attribute: followed"].value < 0.2
    assert found["counterfactual kind: followed"].value > 0.9


def test_a_preferred_attribute_is_detected(classifier):
    def score(renderer: Renderer, num: int):
        return open_attributes_score(predict(classifier, generated(renderer, bare_prompts(num))), 0, {})

    one, even = score(Renderer(favourite="zebra"), 48), score(Renderer(), 96)
    assert next(iter(one.details["counts"])) == "zebra"
    assert one.value > 0.9
    assert even.value < 2 * even.ceiling
