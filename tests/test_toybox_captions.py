"""Toybox captions, and the parser that understands them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from t2i.data.toybox import words
from t2i.data.toybox.captions import caption
from t2i.data.toybox.facts import facts
from t2i.data.toybox.kinds import KINDS
from t2i.data.toybox.parser import corrected, parse, vocabulary
from t2i.data.toybox.scene import FAMILIES, Scene
from t2i.data.toybox.split import SPLITS

LECTURE = {  # the prompts of the lecture on text-to-image models, and what they state
    "an armchair in the shape of an avocado": "kind armchair, attribute armchair avocado",
    "a black apple and a green backpack": "kind apple, attribute apple black, kind backpack, attribute backpack green",
    "a horse riding an astronaut": "kind horse, kind astronaut, relation horse riding astronaut",
    "an astronaut riding a horse": "kind horse, kind astronaut, relation astronaut riding horse",
    "an image of an animal half mouse half octopus": "kind octopus, head octopus mouse",
    "a painting of a squirrel eating a burger": "kind squirrel, kind burger, relation squirrel eating burger, "
    "style oil painting",
    "a watercolor painting of a chair that looks like an octopus": "kind chair, head chair octopus, style watercolor",
    'a street sign that reads "Latent Diffusion"': "kind street sign, text street sign Latent Diffusion",
    'a shirt with the inscription: "I love generative models!"': "kind shirt, text shirt I love generative models!",
    "a zombie in the style of Picasso": "kind zombie, style cubist",
    "a cat sitting on a suitcase on the floor": "kind cat, kind suitcase, relation cat sitting on suitcase, "
    "background room",
    "a penguin riding a wave on a yellow surfboard": "kind penguin, kind wave, kind surfboard, "
    "attribute surfboard yellow, relation penguin riding surfboard, relation surfboard on top of wave",
}

TYPED = {  # as people type
    "on the left a red cat, on the right a blue car": "a red cat left of a blue car",
    "red cat over blue car": "a red cat on top of a blue car",
    "a blue car with a red cat on top": "a red cat on top of a blue car",
    "avocado chair": "a chair in the shape of an avocado",
    "a chair like an avocado": "a chair in the shape of an avocado",
    "kitty": "a cat",
    "crimson automobile": "a red car",
    "a cat that isn't red": "a cat that is not red",
    "the tree is green and the robot is left of it": "a robot left of a green tree",
    "red cat, blue car": "a red cat and a blue car",
    "2 blue houses": "two blue houses",
    "A RED CAT": "a red cat",
    "Draw me a red cat!": "a red cat",
    "a red caat on a bleu car": "a red cat on top of a blue car",
    "a grey airplane": "a gray aeroplane",
    "a cat with a hat": "a cat wearing a hat",
    "a robot with an apple": "a robot holding an apple",
    "a watercolour of a dog": "a watercolor painting of a dog",
    "a dog next to a cake": "a dog and a cake",
    "There is a big red ball in the snow.": "a big red ball in the snow",
    "a shirt saying “Hello”": 'a shirt that reads "Hello"',
    "a car below a cat": "a cat on top of a car",
}


def stated(text: str) -> frozenset:
    found = parse(text)
    assert not found.unknown and found.scene is not None, (text, found)
    return facts(found.scene)


def sampled(split: str, family: str | None, i: int) -> tuple[Scene, np.random.Generator]:
    rng = np.random.default_rng((5, i))
    return Scene.sample(rng, split, family), rng


@pytest.mark.parametrize("text", LECTURE)
def test_the_prompts_of_the_lecture_are_understood(text):
    def written(fact) -> str:
        return " ".join(map(str, fact))

    assert sorted(map(written, stated(text))) == sorted(re.split(", ", LECTURE[text]))


@pytest.mark.parametrize("text", TYPED)
def test_what_people_type_is_understood(text):
    assert stated(text) == stated(TYPED[text])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_caption_is_understood(family):
    for i in range(500):
        scene, rng = sampled("all", family, i)
        made = caption(scene, rng)
        assert stated(made.text) == made.stated, made.text
        assert {fact for fact in made.stated if fact[0] != "without"} <= facts(scene), made.text


def test_held_out_phrasings_are_understood_and_never_trained_on():
    trained, held = set(), set()
    for i in range(600):
        scene, rng = sampled("phrasing", None, i)
        made = caption(scene, rng, held_out=True)
        assert stated(made.text) == made.stated, made.text
        held.add(shape_of(made.text))
        scene, rng = sampled("train", None, i)
        trained.add(shape_of(caption(scene, rng).text))
    assert len(held) > 20
    assert not held & trained


def shape_of(text: str) -> str:
    """A caption without the words for kinds, attributes, sizes and numbers."""
    nouns = {word for kind in KINDS for pair in words.names(kind) for name in pair for word in name.split()}
    adjectives = {
        word for options in (*words.ADJECTIVES.values(), *words.SIZES.values()) for o in options for word in o.split()
    }
    tokens = re.findall(r"[\w'-]+|[,;.:]", re.sub(r'"[^"]*"', "", text.lower()))
    return " ".join(t for t in (corrected(t) or t for t in tokens) if t not in nouns | adjectives)


def test_the_canonical_caption_states_everything_but_the_background():
    for i in range(300):
        scene, _ = sampled("all", None, i)
        made = caption(scene)
        assert made.stated == {fact for fact in facts(scene) if fact[0] != "background"}
        assert stated(made.text) == made.stated, made.text
        assert caption(scene) == made


def test_unknown_words_are_named():
    assert parse("a unicorn").unknown == ("unicorn",)
    assert parse("a purple unicorn on a red car").unknown == ("unicorn", "purple", "on")  # what was said of it
    with pytest.raises(ValueError, match="toybox does not know: unicorn, purple"):
        Scene.from_caption("a purple unicorn on a red car")
    with pytest.raises(ValueError, match="names no thing"):
        Scene.from_caption("in the snow")
    with pytest.raises(ValueError, match="cat cannot be eating a house"):
        Scene.from_caption("a cat eating a house")


def test_a_parsed_scene_renders():
    for text in [*LECTURE, *TYPED]:
        assert Scene.from_caption(text).render(64).size == (64, 64)


def test_a_mistake_in_a_word_is_corrected_only_if_it_is_clear():
    assert corrected("astronuat") == "astronaut"
    assert corrected("cat") == "cat"
    assert corrected("zzzz") is None
    assert {"cat", "kitty", "octopuses", "watercolour"} <= vocabulary()


def test_splits_name_captions():
    assert "phrasing" in SPLITS


@pytest.mark.parametrize(
    "text, unused",
    [("a red cat on top of", "on top of"), ("a cat red", "red"), ("riding a cat and eating", "eating")],
)
def test_phrases_that_do_not_fit_are_named(text, unused):
    assert unused in parse(text).unknown
    with pytest.raises(ValueError, match=unused):
        Scene.from_caption(text)


@pytest.mark.parametrize("text", ["a red cat and a blue cat", "a cat and a cat"])
def test_two_things_of_a_kind_are_refused(text):
    with pytest.raises(ValueError, match="one thing of each kind"):
        Scene.from_caption(text)
