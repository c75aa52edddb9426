"""What is held out of training: combinations, words of inscriptions, and phrasings.

Whether a combination is held out follows from the hash of its words, so that one of about sixteen pairs is, in every
kind and attribute; a few that prompts ask for most are held out by name.
"""

from __future__ import annotations

import hashlib
import re

from t2i.data.toybox.description import ACTIONS
from t2i.data.toybox.facts import Fact

SORTS = ("pair", "style", "hybrid", "action", "word", "phrasing")  # of what is held out
SPLITS = ("train", "all", *SORTS)

NAMED: frozenset[tuple[str, ...]] = frozenset(
    {
        ("pair", "avocado", "armchair"),
        ("pair", "avocado", "chair"),
        ("pair", "black", "apple"),
        ("pair", "green", "backpack"),
        ("style", "cubist", "zombie"),
        ("style", "watercolor", "chair"),
        ("hybrid", "mouse", "octopus"),
        ("hybrid", "octopus", "chair"),
        ("action", "horse", "riding", "astronaut"),
        ("action", "squirrel", "eating", "burger"),
        ("action", "penguin", "riding", "surfboard"),
        ("action", "cat", "sitting on", "suitcase"),
    }
)
_ONE_OF = {"pair": 16, "style": 12, "hybrid": 8, "action": 8, "word": 8}


def held_out(sort: str, *words: str) -> bool:
    """Whether a combination, such as ("pair", "avocado", "armchair"), is held out of training.

    Sorts: ("pair", attribute, kind), ("style", style, kind), ("hybrid", head, kind), ("action", kind, action, kind),
    ("word", word of an inscription).
    """
    if (sort, *words) in NAMED:
        return True
    digest = hashlib.sha256("/".join((sort, *words)).encode()).digest()
    return digest[0] % _ONE_OF[sort] == 0


def held_out_sorts(stated: frozenset[Fact]) -> set[str]:
    """The sorts of held-out combinations among facts."""
    found = set()
    heads = {fact[1]: fact[2] for fact in stated if fact[0] == "head"}
    kinds = [fact[1] for fact in stated if fact[0] == "kind"] + list(heads.values())
    for fact in stated:
        match fact:
            case ("attribute", kind, attribute) if any(
                held_out("pair", attribute, of) for of in (kind, heads.get(kind)) if of is not None
            ):
                found.add("pair")
            case ("style", style) if any(held_out("style", style, kind) for kind in kinds):
                found.add("style")
            case ("head", kind, head) if held_out("hybrid", head, kind):
                found.add("hybrid")
            case ("relation", subject, name, thing) if name in ACTIONS and held_out("action", subject, name, thing):
                found.add("action")
            case ("text", _, text) if any(held_out("word", word) for word in re.findall(r"[a-z0-9]+", text.lower())):
                found.add("word")
    return found
