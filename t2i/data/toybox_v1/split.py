"""The zero-shot split: attribute × kind pairs that never appear in training.

Every kind is held out once or twice and no attribute more than three times, so a model has seen both parts of every
pair many times in other combinations, but never together.
"""

from __future__ import annotations

SPLITS = ("train", "zero_shot", "all")

HELD_OUT: frozenset[tuple[str, str]] = frozenset(
    {
        # Unusual combinations of a texture and a shape.
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
        # Colours, which are easier.
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
