"""Memory of training: what a process holds, from the shapes of the model, which may be on the meta device.

Weights, gradients, optimizer state and averages are float32 whatever the precision of the forward pass.

Shapes: a batch is a dict of tensors (B, …)
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from t2i.training.compilation import repeated_blocks
from t2i.training.optimizers import hidden_matrices
from t2i.training.sharding import local

GIB = 2**30


def training_memory(model: nn.Module, optimizer: str, processes: int = 1, sharded: bool = False) -> dict[str, int]:
    """Bytes that each process holds throughout training, without activations, by what they are for.

    Args:
        optimizer: "adamw", with two moments per weight, or "muon", with one per weight of `hidden_matrices`.
        processes: of the run.
        sharded: whether they share the weights (FSDP2) or each has them all (DDP).
    """
    parts = processes if sharded else 1
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = hidden_matrices(model) if optimizer == "muon" else []
    memory = {
        "weights": _bytes(model.parameters(), parts),
        "gradients": _bytes(trained, parts),
        "optimizer state": 2 * _bytes(trained, parts) - _bytes(matrices, parts),
        "averages": _bytes(trained, parts),
    }
    if sharded:  # the units in use: what is in no block, from forward to backward; a block, and the next one
        blocks = max((_bytes(block.parameters()) for block in repeated_blocks(model)), default=0)
        rest = _bytes(model.parameters()) - sum(_bytes(block.parameters()) for block in repeated_blocks(model))
        memory["gathered weights and gradients"] = 2 * rest + 3 * blocks
    elif processes > 1:
        memory["buckets of gradients"] = _bytes(trained)
    return memory


def checkpoint_memory(model: nn.Module, sharded: bool = False) -> int:
    """Further bytes while the model has its averaged weights: a copy of the weights, which are whole if sharded."""
    return _bytes(p for p in model.parameters() if sharded or p.requires_grad)


def _bytes(parameters: Iterable[nn.Parameter], parts: int = 1) -> int:
    """Bytes of the largest of `parts` shards, by rows, of each parameter."""
    return sum(-(-p.shape[0] // parts) * (p.nbytes // p.shape[0]) if p.ndim else p.nbytes for p in parameters)


def activation_memory(objective: nn.Module, batch: dict[str, Tensor]) -> tuple[int, int]:
    """Bytes that a forward pass keeps for the backward pass: for each image, and besides.

    Args:
        objective: maps a batch to losses, one named "loss".
        batch: any number of images, on the device of the weights; passes of two and four of them are compared.

    Undercounts with gradient checkpointing, which keeps tensors in another way.
    """
    two, four = (_kept(objective, _rows(batch, count)) for count in (2, 4))
    each = max(0, four - two) // 2
    return each, max(0, two - 2 * each)


def _rows(batch: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    rows = torch.arange(count) % len(next(iter(batch.values())))
    return {name: x[rows.to(x.device)] for name, x in batch.items()}


def _kept(objective: nn.Module, batch: dict[str, Tensor]) -> int:
    """Bytes of the tensors, other than weights, that the backward pass of a batch needs."""
    weights = {local(p).untyped_storage().data_ptr() for p in objective.parameters()}
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = objective(**batch)["loss"]
    loss.backward()  # only now are tensors released, so no address was used twice; and FSDP releases its weights
    objective.zero_grad()
    return sum(kept.values())
