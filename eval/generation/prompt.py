"""A prompt with what its image should show, and the entropy of its key."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from t2i.data.toybox.facts import Fact


@dataclass(frozen=True)
class Prompt:
    """A prompt for a pipeline.

    Attributes:
        text: the text given to the pipeline.
        category: what determines the criterion for its image: a category of its suite, "relation" (everything must be
            right), or any other word for no criterion.
        scene: what the image should show, or None if it is not a toybox scene.
        key: unique in its suite, such as "two-objects/0017"; with a seed it determines the image's initial noise.
        noise: numbers that determine the noise, with a seed, in place of the key.
        judged: facts that must hold in its image, for prompts of toybox.
    """

    text: str
    category: str
    scene: Any
    key: str
    noise: tuple[int, ...] = ()
    judged: frozenset[Fact] = frozenset()


def entropy(seed: int, text: str) -> list[int]:
    """Nine numbers for `numpy.random.SeedSequence`: the seed and the SHA-256 of a text."""
    return [seed, *np.frombuffer(hashlib.sha256(text.encode()).digest(), "<u4").tolist()]
