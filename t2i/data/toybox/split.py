"""The zero-shot split: attribute × kind pairs that never appear in training.

Every kind is held out once or twice and no attribute more than three times, so a model has seen each half of every
pair many times with other partners; what it has never seen is the two together.
"""

from __future__ import annotations

SPLITS = ("train", "zero_shot", "all")

HELD_OUT: frozenset[tuple[str, str]] = frozenset(
    {
        # A skin on a shape that nature and shops never gave it.
        ("avocado", "armchair"),
        ("avocado", "teapot"),
        ("watermelon", "car"),
        ("watermelon", "mouse"),
        ("orange", "cup"),
        ("orange", "octopus"),
        ("zebra", "cactus"),
        ("zebra", "suitcase"),
        ("leopard", "robot"),
        ("wood", "cat"),
        ("brick", "squirrel"),
        ("brick", "heart"),
        ("polka dot", "tree"),
        ("starry night", "backpack"),
        ("starry night", "burger"),
        ("rainbow", "house"),
        # Colours, the easier half.
        ("red", "avocado"),
        ("red", "armchair"),
        ("blue", "apple"),
        ("blue", "cat"),
        ("green", "star"),
        ("yellow", "fish"),
        ("purple", "horse"),
        ("pink", "astronaut"),
        ("brown", "mushroom"),
        ("black", "shirt"),
        ("white", "car"),
        ("gray", "teapot"),
    }
)
