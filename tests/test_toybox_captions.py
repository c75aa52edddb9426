"""Toybox captions, and the parser that understands them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from t2i.data.toybox import words
from t2i.data.toybox.attributes import COLOURS
from t2i.data.toybox.captions import caption
from t2i.data.toybox.description import Thing, can
from t2i.data.toybox.facts import facts, relation_fact
from t2i.data.toybox.kinds import KINDS
from t2i.data.toybox.parser import corrected, parse, vocabulary
from t2i.data.toybox.prompts import NEW_COLOURS, NEW_KINDS, NEW_WORDS, new_words_prompt
from t2i.data.toybox.scene import FAMILIES, Scene

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


@pytest.mark.parametrize("category", NEW_WORDS)
def test_new_words_are_in_no_caption_and_mean_what_is_judged(category):
    known = {**NEW_KINDS, **NEW_COLOURS}
    for i in range(100):
        prompt = new_words_prompt(category, np.random.default_rng((7, i)))
        new = [word for word in prompt.text.split() if word in known]
        assert len(new) == sum(NEW_WORDS[category])
        assert set(new) <= set(parse(prompt.text).unknown)
        said = " ".join(known.get(word, word) for word in prompt.text.split())
        assert stated(re.sub("^(a|an) ", "", said)) == facts(prompt.scene) >= prompt.judged
        assert len(prompt.judged) == len(new)


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


@pytest.mark.parametrize("word", ["coat", "truck", "bat", "caar", "mat", "bleu-ish", "rad"])
def test_another_word_is_no_mistake_in_a_known_one(word):
    """Letters that are left out, added or changed make other words: only exchanged and doubled ones are corrected."""
    assert corrected(word) == (word.replace("aa", "a") if "aa" in word else None)


def templated(phrases: dict, template: str, *fact: str):
    """(caption, fact) for each phrase of words.py, in a caption that states nothing else."""
    return [
        (f"{words.article(p)}{template[1:]}" if template.startswith("_") else template.format(p), (*fact, value))
        for value, options in phrases.items()
        for p in options
    ]


@pytest.mark.parametrize(
    "text, fact",
    [
        *((words.article(name), ("kind", kind)) for kind in KINDS for name, _ in words.names(kind)),
        *((f"three {plural}", ("count", kind, 3)) for kind in KINDS for _, plural in words.names(kind)),
        *templated(words.ADJECTIVES, "_ cat", "attribute", "cat"),
        *templated({c: words.ADJECTIVES[c] for c in COLOURS}, "a cat that is {}", "attribute", "cat"),
        *templated(words.QUALIFIERS, "a cat {}", "attribute", "cat"),
        *templated(words.SIZES, "_ cat", "size", "cat"),
        *templated(words.NUMBERS, "{} cats", "count", "cat"),
        *templated({s: o for s, o in words.STYLE_OPENINGS.items() if s != "plain"}, "{} a cat", "style"),
        *((f"{opening} a cat", ("kind", "cat")) for opening in words.STYLE_OPENINGS["plain"]),
        *templated(words.STYLE_ENDINGS, "a cat {}", "style"),
        *templated(words.BACKGROUNDS, "a cat {}", "background"),
    ],
)
def test_every_phrase_is_understood(text, fact):
    facts = stated(text)
    assert fact in facts
    assert len(facts) == (1 if fact[0] == "kind" else 2)


@pytest.mark.parametrize("relation", words.RELATIONS)
def test_every_phrase_of_a_relation_is_understood(relation):
    pairs = [(a, b) for a in ("cat", "robot") for b in ("horse", "apple", "hat", "suitcase", "cup", "armchair")]
    a, b = next((a, b) for a, b in pairs if can(Thing(a), relation, Thing(b)))
    fact = relation_fact(a, relation, b)
    for phrase in words.RELATIONS[relation]:
        assert fact in stated(f"a {a} {phrase} {words.article(b)}"), phrase
    for phrase in words.FINITE[relation]:
        assert fact in stated(f"the {a} {phrase} {words.article(b)}"), phrase
    for phrase in words.AFTER_WITH.get(relation, ()):
        assert fact in stated(f"{words.article(b)} with a {a} {phrase}"), phrase


@pytest.mark.parametrize(
    "text, why",
    [
        ("a red cat that is blue", "two of one attribute: red and blue"),
        ("a watercolor painting of a cat in ink", "two of one style: watercolor and ink"),
        ("a cat in the snow on the beach", "two of one background: snow and beach"),
        ("a big cat that is small", "two of one size: big and small"),
        ("a cat that is not a dog", "attributes only"),
        ("cats", "say how many cats"),
        ("a red cat on top of houses", "say how many houses"),
        ('two signs saying "Hi"', "count 1"),
        ('a sign with the head of a cat that reads "Hi"', "not both"),
    ],
)
def test_contradictions_are_refused(text, why):
    with pytest.raises(ValueError, match=why):
        Scene.from_caption(text)


def test_one_fact_stated_twice_is_no_contradiction():
    assert stated("a red cat that is crimson") == stated("a red cat")


def test_a_plural_refers_back_to_what_was_counted():
    assert stated("two cats left of a dog. the cats are red") == stated("two red cats left of a dog")
    assert ("attribute", "apple", "red") in stated("three apples and a dog. the apples are red")


def test_letters_beyond_ascii_are_named_whole():
    assert parse("a café on a car").unknown[0] == "café"
    assert parse("ein Bär").unknown == ("ein", "bär")


def test_a_quotation_that_is_not_closed_goes_to_the_end():
    assert stated('a sign that reads "Latent Diffusion') == stated('a sign that reads "Latent Diffusion"')


def test_phrases_keep_to_their_clause():
    assert stated("a cat next to two white cars on white") == stated("a cat and two white cars on a white background")
    assert ("attribute", "house", "white") in stated("a cat on white house")  # and not on a white background
    assert ("relation", "penguin", "riding", "surfboard") in stated("a penguin riding a wave on a surfboard")
    horse = stated("a penguin riding a horse on a surfboard")
    assert ("relation", "penguin", "riding", "horse") in horse
    assert ("relation", "horse", "on top of", "surfboard") in horse


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
