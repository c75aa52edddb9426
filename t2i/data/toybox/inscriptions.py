"""Texts of inscriptions: pronounceable words that the project makes up, and the words of prompts."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from t2i.data.toybox.description import MAX_TEXT
from t2i.data.toybox.kinds import KINDS
from t2i.data.toybox.split import held_out

_ONSETS = [
    "b",
    "bl",
    "br",
    "c",
    "ch",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "pl",
    "pr",
    "qu",
    "r",
    "s",
    "sh",
    "st",
    "t",
    "th",
    "tr",
    "v",
    "w",
    "y",
    "z",
]
_NUCLEI = ["a", "e", "i", "o", "u", "ai", "ee", "oo", "ou", "ea"]
_CODAS = ["", "b", "ck", "d", "g", "ll", "m", "n", "ng", "p", "r", "s", "ss", "st", "t", "x"]

COMMON = [
    "I",
    "love",
    "you",
    "we",
    "are",
    "the",
    "best",
    "hello",
    "world",
    "stop",
    "go",
    "open",
    "closed",
    "welcome",
    "thank",
    "good",
    "morning",
    "night",
    "happy",
    "birthday",
    "latent",
    "diffusion",
    "generative",
    "models",
    "deep",
    "learning",
    "text",
    "image",
    "paint",
    "draw",
    "yes",
    "no",
    "danger",
    "quiet",
    "sale",
    "free",
    "cafe",
    "hotel",
    "exit",
    "north",
    "south",
    "east",
    "west",
    "king",
    "queen",
    "life",
    "music",
    "art",
    "science",
    "peace",
    "hope",
    "dream",
    "magic",
    "school",
    "street",
    "park",
    "river",
    "city",
    "home",
]


def made_up(random: Callable[[], float]) -> str:
    """A pronounceable word of one or two syllables that means nothing, from numbers in [0, 1)."""

    def pick(options: list[str]) -> str:
        return options[int(random() * len(options))]

    syllables = 1 + (random() < 0.6)
    return "".join(pick(_ONSETS) + pick(_NUCLEI) for _ in range(syllables)) + pick(_CODAS)


@cache
def words(held: bool) -> tuple[str, ...]:
    """Ordinary words for inscriptions: common ones and the names of kinds, those held out of training or the others."""
    every = dict.fromkeys([*COMMON, *(name for kind in KINDS.values() for name in kind.name.split())])
    return tuple(word for word in every if held_out("word", word.lower()) == held)


def inscription(random: Callable[[], float], held: bool = False) -> str:
    """One to four words, at most MAX_TEXT characters, half of them made up; capitals, digits and marks now and then.

    With `held`, at least one word is held out of training, otherwise none is.
    """
    chosen: list[str] = []
    for _ in range(1 + int(random() * random() * 4)):
        word = _word(random, held and not chosen)
        if len(" ".join([*chosen, word])) <= MAX_TEXT - 1:
            chosen.append(word)
    style = random()
    text = " ".join(chosen)
    if style < 0.25:
        text = text.upper()
    elif style < 0.5:
        text = text.title()
    elif style < 0.65:
        text = text[0].upper() + text[1:]
    if random() < 0.15:
        text += "!?."[int(random() * 3)]
    return text


def _word(random: Callable[[], float], held: bool) -> str:
    while True:
        if random() < 0.5:
            options = words(held)
            return options[int(random() * len(options))]
        word = made_up(random) if random() < 0.85 else str(int(random() * 1000))
        if held_out("word", word) == held:
            return word
