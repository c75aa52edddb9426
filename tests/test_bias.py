"""Counterfactual and bare prompts, on painters whose faults are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from t2i.data.toybox import ATTRIBUTES, KINDS, Scene, Thing
from t2i.eval.bias import SWAPS, counterfactuals, pairs, unsaid
from t2i.eval.binding import load_reader


@pytest.fixture(scope="module")
def reader():
    return load_reader()


class Painter:
    """Draws the thing that a canonical caption names; "a cat" in `favourite`, or in any attribute."""

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


def test_pairs_differ_in_one_word_and_are_all_seen():
    for pair in pairs(30, seed=1):
        a, b = pair.first.things[0], pair.second.things[0]
        assert not a.held_out
        assert not b.held_out
        differs = [swap for swap in SWAPS if getattr(a, swap) != getattr(b, swap)]
        assert differs == [pair.swap]


def test_a_faithful_painter_follows_and_keeps(reader):
    report = counterfactuals(Painter(), reader, num=12).report
    for swap in SWAPS:
        assert report[swap]["followed"]["value"] > 0.9
        assert report[swap]["kept"]["value"] > 0.9
        assert report[swap]["kept_by_chance"]["value"] > 0.9


def test_a_painter_deaf_to_attributes_does_not_follow_them(reader):
    report = counterfactuals(Painter(deaf_to="attribute"), reader, num=12).report
    assert report["attribute"]["followed"]["value"] < 0.2
    assert report["kind"]["followed"]["value"] > 0.9


def test_a_favourite_is_found(reader):
    one = unsaid(Painter(favourite="zebra"), reader, num=48)
    assert next(iter(one["counts"])) == "zebra"
    assert one["total_variation"] > 0.9
    even = unsaid(Painter(), reader, num=96)
    assert even["total_variation"] < 2 * even["by_chance"]
