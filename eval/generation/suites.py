"""Prompt suites of toybox: every category, a ladder of 1 to 10 facts, the prompts of the lecture, and new words."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from t2i.data.toybox.prompts import (
    CATEGORIES,
    LECTURE,
    MOST_ATOMS,
    NEW_WORDS,
    ScenePrompt,
    category_prompt,
    ladder_prompt,
    lecture_prompt,
    new_words_prompt,
)
from t2i.eval.generation.prompt import Prompt, entropy
from t2i.files import slug

Make = Callable[[np.random.Generator], ScenePrompt]


def _ladder(atoms: int) -> Make:
    return lambda rng: ladder_prompt(atoms, rng)


def _category(name: str) -> Make:
    return lambda rng: category_prompt(name, rng)


def _lecture(i: int) -> Make:
    return lambda rng: lecture_prompt(i, rng)


def _new_words(category: str) -> Make:
    return lambda rng: new_words_prompt(category, rng)


# {suite: {category: what makes a prompt of it}}
SUITES: dict[str, dict[str, Make]] = {
    "toybox": {name: _category(name) for name in CATEGORIES},
    "ladder": {f"{n} fact{'s' * (n > 1)}": _ladder(n) for n in range(1, MOST_ATOMS + 1)},
    "lecture": {text: _lecture(i) for i, text in enumerate(LECTURE)},
    "new-words": {name: _new_words(name) for name in NEW_WORDS},
}
SUITES |= {f"toybox/{slug(name)}": {name: make} for name, make in SUITES["toybox"].items()}
SUITES |= {f"ladder/{n}": {name: make} for n, (name, make) in enumerate(SUITES["ladder"].items(), 1)}


def suite_prompts(suite: str, num: int, seed: int) -> list[Prompt]:
    """`num` prompts for each category of a suite; prompt i of a category depends on (seed, category, i) only."""
    prompts = []
    for category, make in SUITES[suite].items():
        for i in range(num):
            key = f"{suite.split('/')[0]}/{slug(category)[:40]}/{i:04}"
            made = make(np.random.default_rng(entropy(seed, key)))
            prompts.append(Prompt(made.text, category, made.scene, key, judged=made.judged))
    return prompts
