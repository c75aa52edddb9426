"""Worker process of the test of the contrastive loss; in a separate module, so that it starts quickly."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from t2i.text.clip import contrastive_loss


class Objective(nn.Module):
    """The loss as a forward pass, as the training loop passes it to DistributedDataParallel."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, **given) -> dict:
        return contrastive_loss(self.model, **given)


def gradients(model: nn.Module, losses: dict) -> dict:
    """The loss and its gradient for each parameter."""
    losses["loss"].backward()
    return {"loss": losses["loss"].detach(), **{name: p.grad for name, p in model.named_parameters()}}


def step_on_rank(rank: int, world: int, folder: str, model: nn.Module, given: dict) -> None:
    address = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    torch.set_num_threads(1)
    objective = nn.parallel.DistributedDataParallel(Objective(model))
    found = gradients(model, objective(**{name: x.chunk(world)[rank] for name, x in given.items()}))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
