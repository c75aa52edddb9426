"""What moves the weights: AdamW for everything, or Muon for the hidden matrices and AdamW for the rest."""

from __future__ import annotations

import torch
from torch import nn

from t2i.training.config import LoopConfig
from t2i.training.muon import Muon

FEW = 16  # channels: a convolution with fewer at one end reads or writes pixels or latents


def make_optimizers(model: nn.Module, config: LoopConfig) -> list[torch.optim.Optimizer]:
    """One optimiser, or two that share the model's parameters between them. Each gets the same learning rate.

    "adamw": Loshchilov and Hutter 2019 (arXiv 1711.05101).
    "muon": for the matrices of linear layers and the kernels of convolutions between hidden layers (see `Muon`).
    Embeddings, biases, norms, first and last convolutions stay with AdamW.
    """
    matrices = _hidden_matrices(model) if config.optimizer == "muon" else []
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    adamw = torch.optim.AdamW(
        rest, config.learning_rate, (config.adam_beta1, config.adam_beta2), weight_decay=config.weight_decay, fused=True
    )
    return [Muon(matrices, config.learning_rate, config.weight_decay), adamw] if matrices else [adamw]


def _hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}  # a tied output layer is one
    linear = [m.weight for m in model.modules() if isinstance(m, nn.Linear) and id(m.weight) not in embeddings]
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    kernels = [m.weight for m in convolutions if min(m.in_channels, m.out_channels) >= FEW]
    return [w for w in linear + kernels if w.requires_grad]
