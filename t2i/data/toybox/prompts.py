"""Prompts with known scenes: by category, by the number of atoms, and those of the lecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from t2i.checks import check_choice, check_whole
from t2i.data.toybox.attributes import COLOURS, TEXTURES
from t2i.data.toybox.captions import caption
from t2i.data.toybox.facts import Fact, facts
from t2i.data.toybox.scene import Scene, Thing
from t2i.data.toybox.split import held_out
from t2i.data.toybox.words import article

MOST_ATOMS = 10

# The prompts of the lecture on text-to-image models, word for word.
LECTURE: tuple[str, ...] = (
    "an armchair in the shape of an avocado",
    "a black apple and a green backpack",
    "an astronaut riding a horse",
    "a horse riding an astronaut",
    "an image of an animal half mouse half octopus",
    "a painting of a squirrel eating a burger",
    "a watercolor painting of a chair that looks like an octopus",
    'a street sign that reads "Latent Diffusion"',
    'a shirt with the inscription: "I love generative models!"',
    "a zombie in the style of Picasso",
    "a cat sitting on a suitcase on the floor",
    "a penguin riding a wave on a yellow surfboard",
)


# Words that no caption of toybox has, and the kind or colour that they mean. Only a text encoder that was trained on
# other texts can know them.
NEW_KINDS = {
    "recliner": "armchair",
    "goblet": "cup",
    "valise": "suitcase",
    "knapsack": "backpack",
    "blouse": "shirt",
    "cabin": "house",
    "cheeseburger": "burger",
    "fungus": "mushroom",
    "oak": "tree",
    "stallion": "horse",
    "tabby": "cat",
    "goldfish": "fish",
    "hound": "dog",
    "tyrannosaur": "dinosaur",
    "grizzly": "bear",
    "ghoul": "zombie",
    "droid": "robot",
    "sedan": "car",
    "stool": "chair",
    "desk": "table",
    "lantern": "lamp",
    "novel": "book",
    "fedora": "hat",
    "parasol": "umbrella",
    "ukulele": "guitar",
    "parcel": "gift",
    "flask": "bottle",
    "yacht": "boat",
    "aircraft": "aeroplane",
    "tulip": "flower",
}
NEW_COLOURS = {
    "ruby": "red",
    "jade": "green",
    "cobalt": "blue",
    "canary": "yellow",
    "lilac": "purple",
    "fuchsia": "pink",
    "mahogany": "brown",
    "ebony": "black",
    "ivory": "white",
    "silver": "gray",
}
# {category: (whether the kind, whether the colour is called by a new word)}
NEW_WORDS = {"new kind": (True, False), "new colour": (False, True), "new kind and colour": (True, True)}


@dataclass(frozen=True)
class Category:
    """Scenes of one split and family, and which of their facts are judged.

    Attributes:
        split: a name in SPLITS.
        family: a name in FAMILIES, or None for a mixture of all.
        suits: further condition on a scene.
        judged: sorts of facts that must hold; None: all.
    """

    split: str
    family: str | None
    suits: Callable[[Scene], bool] = lambda scene: True
    judged: tuple[str, ...] | None = None


def _plain(scene: Scene) -> bool:
    return scene.style == "plain"


def _attribute_in(names: dict | tuple) -> Callable[[Scene], bool]:
    return lambda scene: _plain(scene) and scene.things[0].attribute in names


def _two_attributes(scene: Scene) -> bool:
    return _plain(scene) and all(thing.attribute is not None and thing.count == 1 for thing in scene.things)


CATEGORIES: dict[str, Category] = {
    "kind": Category("train", "single", lambda s: _plain(s) and not s.things[0].attribute and not s.things[0].size),
    "colour": Category("train", "single", _attribute_in(COLOURS)),
    "texture": Category("train", "single", _attribute_in(TEXTURES)),
    "size": Category("train", "single", lambda s: _plain(s) and s.things[0].size is not None),
    "counting": Category("train", "count", _plain, ("kind", "count")),
    "two objects": Category("train", "place", _two_attributes, ("kind",)),
    "attribute binding": Category("train", "place", _two_attributes, ("kind", "attribute")),
    "position": Category("train", "place", _plain, ("kind", "count", "relation")),
    "action": Category("train", "action", _plain, ("kind", "relation")),
    "hybrid": Category("train", "hybrid", _plain, ("kind", "head")),
    "inscription": Category("train", "inscription", _plain, ("kind", "text")),
    "style": Category("train", "single", lambda s: not _plain(s), ("kind", "style")),
    "several": Category("train", "several", _plain),
    "held-out pair": Category("pair", "single", _plain),
    "held-out style": Category("style", "single", lambda s: True, ("kind", "style")),
    "held-out hybrid": Category("hybrid", "hybrid", _plain, ("kind", "head")),
    "held-out action": Category("action", "action", _plain, ("kind", "relation")),
    "held-out word": Category("word", "inscription", _plain, ("kind", "text")),
    "held-out phrasing": Category("phrasing", None, _plain, ("kind", "count", "relation")),
}


@dataclass(frozen=True)
class ScenePrompt:
    """A prompt, its scene, and the facts that its image is judged by."""

    text: str
    scene: Scene
    judged: frozenset[Fact]


def category_prompt(category: str, rng: np.random.Generator) -> ScenePrompt:
    """A prompt of a category that states everything but the background; raises UsageError for an unknown name."""
    check_choice("category", category, CATEGORIES)
    wanted = CATEGORIES[category]
    scene = Scene.sample(rng, wanted.split, wanted.family)
    while not wanted.suits(scene):
        scene = Scene.sample(rng, wanted.split, wanted.family)
    phrased = caption(scene, rng, held_out=True) if category == "held-out phrasing" else caption(scene)
    judged = {f for f in phrased.stated if wanted.judged is None or f[0] in wanted.judged}
    return ScenePrompt(phrased.text, scene, frozenset(judged))


def ladder_prompt(atoms: int, rng: np.random.Generator) -> ScenePrompt:
    """A prompt of `atoms` facts, 1 to MOST_ATOMS (as GenEval 2 grades prompts, arXiv 2512.16853), all of them judged.

    An atom is a kind, an attribute, a size, a count, a relation, a style, an inscription or another's head.
    """
    check_whole("atoms", atoms, most=MOST_ATOMS)
    while True:
        scene = replace(Scene.sample(rng, "train", "several" if atoms > 6 else None), background=None)
        if len(facts(scene)) == atoms:
            return ScenePrompt(scene.caption(), scene, facts(scene))


def lecture_prompt(i: int, rng: np.random.Generator) -> ScenePrompt:
    """Prompt i of the lecture, with the scene that it describes; `rng` determines its positions."""
    scene = replace(Scene.from_caption(LECTURE[i]), jitter_seed=int(rng.random() * 2**31))
    return ScenePrompt(LECTURE[i], scene, judged_facts(scene))


def new_words_prompt(category: str, rng: np.random.Generator) -> ScenePrompt:
    """A prompt for one thing of one colour in a category of NEW_WORDS, "a ruby cat", and the scene that it means.

    Judged are the facts that are called by new words. The combination of kind and colour is not held out.
    """
    kind_is_new, colour_is_new = NEW_WORDS[category]
    while True:
        word, kind = list(NEW_KINDS.items())[rng.integers(len(NEW_KINDS))]
        shade, colour = list(NEW_COLOURS.items())[rng.integers(len(NEW_COLOURS))]
        if not held_out("pair", colour, kind):
            break
    text = article(f"{shade if colour_is_new else colour} {word if kind_is_new else kind}")
    scene = Scene((Thing(kind, colour),), jitter_seed=int(rng.random() * 2**31))
    judged = {("kind", kind)} if kind_is_new else set()
    judged |= {("attribute", kind, colour)} if colour_is_new else set()
    return ScenePrompt(text, scene, frozenset(judged))


def judged_facts(scene: Scene) -> frozenset[Fact]:
    """The facts of a scene that its images are judged by: all but the background."""
    return frozenset(fact for fact in facts(scene) if fact[0] != "background")
