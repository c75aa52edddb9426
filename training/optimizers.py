"""What moves the weights: AdamW for everything, or Muon for the hidden matrices and AdamW for the rest."""

from __future__ import annotations

import torch
from torch import nn

from t2i.training.config import LoopConfig
from t2i.training.muon import Muon

FEW = 16  # channels: a convolution with fewer at one end reads or writes pixels or latents


class ChainedOptimizer(torch.optim.Optimizer):
    """Optimisers of different parameters as one: with the groups of all, one step and one state.

    In float16 a GradScaler then divides all gradients by its scale once, leaves the whole step out where one of them
    overflowed, and is updated once. (Of two optimisers Accelerate would update it after the first, and it would divide
    the second's gradients again.) Fused AdamW offers to divide by the scale in its own step; that offer is not handed
    on, so the scaler does it before.

    Args:
        parts: that have not stepped yet.
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
        self._share()  # loading made new groups and a new state

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups, part.state = [next(groups) for _ in part.param_groups], self.state


def make_optimizer(model: nn.Module, config: LoopConfig) -> torch.optim.Optimizer:
    """AdamW, or Muon and AdamW together, which share the model's parameters between them.

    "adamw": Loshchilov and Hutter 2019 (arXiv 1711.05101).
    "muon": for the matrices of linear layers and the kernels of convolutions between hidden layers (see `Muon`).
    Embeddings, biases, norms, first and last convolutions stay with AdamW.

    Raises ValueError where Muon finds none of its own.
    """
    matrices = _hidden_matrices(model) if config.optimizer == "muon" else []
    if config.optimizer == "muon" and not matrices:
        raise ValueError(
            "muon moves the weights of linear layers and of convolutions between hidden layers, and "
            f"{type(model).__name__} trains none: set --optimizer adamw"
        )
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    adamw = torch.optim.AdamW(
        rest, config.learning_rate, (config.adam_beta1, config.adam_beta2), weight_decay=config.weight_decay, fused=True
    )
    return ChainedOptimizer(Muon(matrices, config.learning_rate, config.weight_decay), adamw) if matrices else adamw


def _hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}  # a tied output layer is one
    linear = [m.weight for m in model.modules() if isinstance(m, nn.Linear) and id(m.weight) not in embeddings]
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    kernels = [m.weight for m in convolutions if min(m.in_channels, m.out_channels) >= FEW]
    return [w for w in linear + kernels if w.requires_grad]
