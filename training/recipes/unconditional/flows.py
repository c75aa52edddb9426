"""Invertible networks: see recipes/unconditional/base.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from t2i.models.flows.glow import Glow
from t2i.models.flows.nice import NICE
from t2i.models.flows.realnvp import RealNVP
from t2i.training.recipes.unconditional.base import UnconditionalRecipe, base_loop, tiny_loop
from t2i.training.unconditional import ModelOptions


@dataclass(frozen=True)
class NICEOptions(ModelOptions):
    block: ClassVar = NICE

    couplings: int = 4
    """Additive ones."""
    width: int = 512
    """Of the couplings' networks."""
    hidden: int = 4
    """Layers of a network."""
    alpha: float = 0.0
    """Of the logit before it all; 0: none."""


def nice(preset: str = "base") -> UnconditionalRecipe:
    """NICE: additive coupling, of dequantised pictures.

    base: `t2i train nice --data FOLDER` of 28×28 IDX files
    tiny: `t2i train nice --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        return UnconditionalRecipe(NICEOptions(width=128, hidden=2), loop=tiny_loop("nice"))
    return UnconditionalRecipe(NICEOptions(), loop=base_loop("nice"))


@dataclass(frozen=True)
class RealNVPOptions(ModelOptions):
    block: ClassVar = RealNVP

    scales: int = 2
    """How often the side is halved."""
    couplings: int = 3
    """Of each kind at each scale."""
    width: int = 32
    """Of the couplings' residual networks."""
    blocks: int = 2
    """Of a network."""
    bound: float = 2.0
    """Of a coupling's log-scale."""
    alpha: float = 0.05
    """Of the logit before it all; 0: none."""


def realnvp(preset: str = "base") -> UnconditionalRecipe:
    """RealNVP: affine coupling at several scales, of dequantised pictures.

    base: `t2i train realnvp --data FOLDER` of 28×28 IDX files
    tiny: `t2i train realnvp --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        return UnconditionalRecipe(RealNVPOptions(scales=1, couplings=2, width=16, blocks=1), loop=tiny_loop("realnvp"))
    return UnconditionalRecipe(RealNVPOptions(), loop=base_loop("realnvp"))


@dataclass(frozen=True)
class GlowOptions(ModelOptions):
    block: ClassVar = Glow

    scales: int = 2
    """Levels of resolution."""
    steps: int = 8
    """Of flow at each."""
    width: int = 64
    """Of the couplings' networks."""
    bound: float = 2.0
    """Of a coupling's log-scale."""
    alpha: float = 0.05
    """Of the logit before it all; 0, as in the paper: none."""


def glow(preset: str = "base") -> UnconditionalRecipe:
    """Glow: activation norms and invertible 1×1 convolutions, of dequantised pictures.

    base: `t2i train glow --data FOLDER` of 28×28 IDX files
    tiny: `t2i train glow --preset tiny`, 8×8 digits, half a minute on one core
    """
    if preset == "tiny":
        return UnconditionalRecipe(GlowOptions(steps=3, width=32), loop=tiny_loop("glow"))
    return UnconditionalRecipe(GlowOptions(), loop=base_loop("glow"))
