"""Diffusion and score models of pictures, without text: see recipes/unconditional/base.py."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

from t2i.models.diffusion.ddpm import DDPM
from t2i.models.diffusion.score_sde import ScoreSDE
from t2i.training.config import LoopConfig
from t2i.training.recipes.unconditional.base import UnconditionalRecipe, base_loop, tiny_loop
from t2i.training.unconditional import ModelOptions, UnconditionalDataConfig


@dataclass(frozen=True)
class DDPMOptions(ModelOptions):
    block: ClassVar = DDPM

    widths: tuple[int, ...] = (32, 64, 64)
    """Channels of each level of the U-Net, fine to coarse; every level but the first halves the side."""
    blocks: int = 1
    """Residual blocks a level."""
    dropout: float = 0.0
    num_train_timesteps: int = 1000
    """T, the steps from picture to noise."""
    beta_schedule: Literal["linear", "squaredcos_cap_v2"] = "linear"
    """How noise grows: 'linear' in β, or along a cosine."""
    variance: Literal["small", "large"] = "small"
    """Of a step back: β̃ or β."""


def ddpm(preset: str = "base") -> UnconditionalRecipe:
    """DDPM: noise added in many small steps, and a network that takes them back.

    base: `t2i train ddpm --data FOLDER` of 28×28 IDX files
    tiny: `t2i train ddpm --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        return UnconditionalRecipe(DDPMOptions((16, 32), num_train_timesteps=100), loop=_rarely(tiny_loop("ddpm"), 2))
    return UnconditionalRecipe(DDPMOptions(), loop=_rarely(base_loop("ddpm"), 10))


@dataclass(frozen=True)
class ScoreSDEOptions(ModelOptions):
    block: ClassVar = ScoreSDE

    widths: tuple[int, ...] = (32, 64, 64)
    """Channels of each level of the U-Net, fine to coarse; every level but the first halves the side."""
    blocks: int = 1
    """Residual blocks a level."""
    dropout: float = 0.0
    sde: Literal["vp", "ve", "subvp"] = "vp"
    """How noise comes in: variance preserving, exploding, or less than preserving."""
    beta_min: float = 0.1
    """Of 'vp' and 'subvp'; so is beta_max."""
    beta_max: float = 20.0
    sigma_min: float = 0.01
    """Of 've'; so is sigma_max."""
    sigma_max: float = 50.0
    weighting: Literal["std", "likelihood"] = "std"
    """Of the loss: all times alike in noise, or as the likelihood counts them."""
    steps: int = 500
    """Of sampling."""
    ode_steps: int = 30
    """Of the equation that scores, four network calls and as many gradients each."""


def score_sde(preset: str = "base") -> UnconditionalRecipe:
    """Score SDE: the gradient of the density at every noise level, sampled and scored along differential equations.

    A score takes the network a hundred times and more, so few pictures are scored, and rarely.

    base: `t2i train score-sde --data FOLDER` of 28×28 IDX files
    tiny: `t2i train score-sde --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        model = ScoreSDEOptions((16, 32), steps=50, ode_steps=10)
        return UnconditionalRecipe(
            model, data=UnconditionalDataConfig(scored=50), loop=_rarely(tiny_loop("score-sde"), 4)
        )
    return UnconditionalRecipe(
        ScoreSDEOptions(), data=UnconditionalDataConfig(scored=100), loop=_rarely(base_loop("score-sde"), 10)
    )


def _rarely(loop: LoopConfig, times: int) -> LoopConfig:
    """Checkpoints come with pictures and scores, which take these models many network calls."""
    return dataclasses.replace(loop, checkpointing_steps=times * loop.checkpointing_steps)
