"""Real images to compare with: toybox renders of the prompts' scenes, and the data of unconditional models.

Shapes: C channels · S image side
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from t2i.checks import UsageError
from t2i.data.base import Source as DataSource
from t2i.data.levels import PreparePixels
from t2i.eval.generation.prompt import Prompt, entropy
from t2i.eval.images.sets import Source
from t2i.models.base import GenerativeModel


def renders(prompts: Sequence[Prompt], copies: int, stream: int, side: int) -> dict[str, Source]:
    """Each prompt's scene `copies` times, each with different sizes and places, determined by the stream.

    Raises UsageError for prompts whose scenes are unknown.
    """
    if any(prompt.scene is None for prompt in prompts):
        raise UsageError("toybox cannot render these prompts: give real images with --reference FOLDER")
    pairs = [(prompt, copy) for copy in range(copies) for prompt in prompts]
    return {f"{prompt.key}, {copy}": partial(_render, prompt, copy, stream, side) for prompt, copy in pairs}


def split_images(model: GenerativeModel, part: str, source: DataSource, num: int) -> dict[str, Source]:
    """The first images of a source, with the model's levels and channels."""
    prepare = PreparePixels(model.levels, model.shape[0])
    return {f"{part} image {i}": partial(_level_image, source, prepare, i) for i in range(min(num, len(source)))}


def _render(prompt: Prompt, copy: int, stream: int, side: int) -> np.ndarray:
    """The prompt's scene with sizes, places and tints determined by (key, copy, stream): uint8 (S, S, 3)"""
    seed = np.random.SeedSequence(entropy(copy, f"{prompt.key}, reference {stream}")).generate_state(1)[0]
    scene = replace(prompt.scene, jitter_seed=int(seed))
    return np.array(scene.render(side))


def _level_image(source: DataSource, prepare: PreparePixels, i: int) -> np.ndarray:
    """uint8 (S, S, 3)"""
    k = prepare(source[i], np.random.default_rng((0, i)))["k"]  # (C, S, S)
    pixels = (k.astype(np.float32) * (255 / (prepare.levels - 1))).round().astype(np.uint8).transpose(1, 2, 0)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy()
