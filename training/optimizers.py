"""Optimizers: AdamW for all parameters, or Muon for hidden matrices and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch
from torch import nn

from t2i.training.config import LoopConfig
from t2i.training.muon import Muon

FEW = 16  # a convolution with fewer input or output channels counts as the first or last one


class ChainedOptimizer(torch.optim.Optimizer):
    """Combines optimizers of disjoint parameters into one, with shared groups, step and state.

    A GradScaler (fp16) thus unscales all gradients once, skips the whole step if any overflows, and is updated once.
    With two optimizers, Accelerate would update the scaler after the first and unscale the second's gradients again.
    Fused AdamW could unscale in its own step; here the scaler does it before.

    Args:
        parts: optimizers that have not taken a step yet.
    """

    def __init__(self, *parts: torch.optim.Optimizer):
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts
        self._share()

    def step(self, closure=None) -> None:
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self._share()  # loading creates new groups and a new state dict

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups, part.state = [next(groups) for _ in part.param_groups], self.state


def make_optimizer(
    model: nn.Module, config: LoopConfig, factors: Mapping[str, float] = MappingProxyType({})
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), or Muon and AdamW.

    Muon updates the weights of linear layers and of convolutions between hidden layers (see `Muon`); AdamW updates
    embeddings, biases, norms, and the first and last convolutions. Raises ValueError if no parameter is left for Muon.

    Args:
        factors: of parameters by name, 1 for all others, by which their learning rate is multiplied and their weight
            decay divided; each group of the optimizer has one as "factor".
    """
    matrices = hidden_matrices(model) if config.optimizer == "muon" else []
    if config.optimizer == "muon" and not matrices:
        raise ValueError(
            "Muon takes the weights of linear layers and of convolutions between hidden layers, and "
            f"{type(model).__name__} trains none: set --optimizer adamw"
        )
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    factor_of = {id(p): factors.get(name, 1.0) for name, p in model.named_parameters()}
    adamw = torch.optim.AdamW(
        _groups(rest, factor_of, config), betas=(config.adam_beta1, config.adam_beta2), fused=True
    )
    return ChainedOptimizer(Muon(_groups(matrices, factor_of, config)), adamw) if matrices else adamw


def _groups(parameters: Iterable[nn.Parameter], factor_of: Mapping[int, float], config: LoopConfig) -> list[dict]:
    """A group for each factor, given the factors by the parameters' ids."""
    groups: dict[float, list[nn.Parameter]] = {}
    for p in parameters:
        groups.setdefault(factor_of[id(p)], []).append(p)
    lr, decay = config.learning_rate, config.weight_decay
    return [{"params": some, "factor": f, "lr": lr * f, "weight_decay": decay / f} for f, some in groups.items()]


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that Muon updates: weights of linear layers, and kernels between hidden layers."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}  # including a tied output layer
    linear = [m.weight for m in model.modules() if isinstance(m, nn.Linear) and id(m.weight) not in embeddings]
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    kernels = [m.weight for m in convolutions if min(m.in_channels, m.out_channels) >= FEW]
    return [w for w in linear + kernels if w.requires_grad]
