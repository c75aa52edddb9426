"""What moves the weights: AdamW for everything, or Muon for the hidden matrices and AdamW for the rest."""

from __future__ import annotations

import torch
from torch import nn

from t2i.training.config import LoopConfig


def make_optimizers(model: nn.Module, config: LoopConfig) -> list[torch.optim.Optimizer]:
    """One optimiser, or two that share the model's parameters between them. Each gets the same learning rate.

    "adamw": Loshchilov and Hutter 2019 (arXiv 1711.05101).
    "muon": the update of a linear layer's matrix is its momentum made orthogonal (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon), scaled to the size of AdamW's (Liu et al. 2025, arXiv 2502.16982,
    eq. 4), so that one learning rate serves both. Embeddings, biases, norms and convolutions stay with AdamW.
    """
    matrices = _matrices_of_linear_layers(model) if config.optimizer == "muon" else []
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    adamw = torch.optim.AdamW(
        rest, config.learning_rate, (0.9, config.adam_beta2), weight_decay=config.weight_decay, fused=True
    )
    if not matrices:
        return [adamw]
    muon = torch.optim.Muon(
        matrices, config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, adamw]


def _matrices_of_linear_layers(model: nn.Module) -> list[nn.Parameter]:
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}  # a tied output layer is one
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Linear) and id(m.weight) not in embeddings]
    return [w for w in weights if w.requires_grad]
