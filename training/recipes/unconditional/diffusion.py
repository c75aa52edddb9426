"""Recipes of the diffusion and score-based models; see recipes/unconditional/base.py."""

from __future__ import annotations

import dataclasses

from t2i.models.diffusion.ddpm import DDPM
from t2i.models.diffusion.score_sde import ScoreSDE
from t2i.training.config import LoopConfig
from t2i.training.model_options import model_options
from t2i.training.recipes.unconditional.base import UnconditionalRecipe, base_loop, tiny_loop
from t2i.training.unconditional import UnconditionalDataConfig


def ddpm(preset: str = "base") -> UnconditionalRecipe:
    """DDPM: a network that removes step by step the noise added to images.

    base: `t2i train ddpm --data FOLDER`, for images of 28×28 such as MNIST's
    tiny: `t2i train ddpm --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        model = model_options(DDPM, widths=(16, 32), num_train_timesteps=100)
        return UnconditionalRecipe(model, loop=_fewer_checkpoints(tiny_loop("ddpm"), 2))
    return UnconditionalRecipe(model_options(DDPM), loop=_fewer_checkpoints(base_loop("ddpm"), 10))


def score_sde(preset: str = "base") -> UnconditionalRecipe:
    """Score SDE: the score (gradient of the log-density) at every noise level, integrated to sample and to evaluate.

    The likelihood of an image takes hundreds of network evaluations, so few images are scored, and rarely.

    base: `t2i train score-sde --data FOLDER`, for images of 28×28 such as MNIST's
    tiny: `t2i train score-sde --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        model, scored = model_options(ScoreSDE, widths=(16, 32), steps=50, ode_steps=10), 50
        loop = _fewer_checkpoints(tiny_loop("score-sde"), 4)
    else:
        model, scored = model_options(ScoreSDE), 100
        loop = _fewer_checkpoints(base_loop("score-sde"), 10)
    return UnconditionalRecipe(model, data=UnconditionalDataConfig(scored=scored), loop=loop)


def _fewer_checkpoints(loop: LoopConfig, factor: int) -> LoopConfig:
    """Fewer checkpoints, as each samples and scores images, which takes these models many network evaluations."""
    return dataclasses.replace(loop, checkpointing_steps=factor * loop.checkpointing_steps)
