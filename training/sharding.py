"""FSDP2: weights, gradients, optimizer state and averages, each process holding a part of every tensor.

`accelerate launch --use_fsdp --fsdp_version 2` asks for it. The sharding itself is torch's `fully_shard` rather than
`Accelerator.prepare`, which shards on GPUs only: this way, what the tests run on CPUs is what runs on GPUs. The units
that are gathered and released together are the repeated blocks of the model, and the rest of it.

Shapes: a sharded tensor (D, …) is a DTensor; its local part is (≈ D / processes, …), and may be empty.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType, parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Replicate

from t2i.training.compilation import repeated_blocks
from t2i.training.config import LoopConfig
from t2i.training.task import Task

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_state_dict_pre_hooks")  # where `fully_shard` adds hooks
UNSUPPORTED = {  # options of `accelerate launch`, and what does the same here
    "FSDP_OFFLOAD_PARAMS": ("fsdp_offload_params", "more processes, or --gradient-checkpointing"),
    "FSDP_ACTIVATION_CHECKPOINTING": ("fsdp_activation_checkpointing", "--gradient-checkpointing"),
}


def launched_sharded() -> bool:
    """Whether `accelerate launch` asks this process and others to share the weights."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP") and int(os.environ.get("WORLD_SIZE", 1)) > 1


def check_sharding(task: Task, config: LoopConfig, accelerator: Accelerator) -> None:
    """Raise ValueError, with the remedy, for an engine or an option of `accelerate launch` that is not supported."""
    if accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ValueError(
            f"{accelerator.distributed_type.value} is not supported: launch with --use_fsdp --fsdp_version 2, which "
            "shards weights, gradients and optimizer state as well, or with --multi_gpu"
        )
    if not launched_sharded():
        return
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ValueError("FSDP1 is not supported: launch with --fsdp_version 2 (fsdp_version: 2 in a config file)")
    for variable, (option, instead) in UNSUPPORTED.items():
        if parse_flag_from_env(variable):
            raise ValueError(f"{option} is not supported: set it to false; to save memory, use {instead}")
    if accelerator.mixed_precision == "fp16":
        raise ValueError("--mixed-precision fp16 is not supported with FSDP: use bf16")
    if config.compile:
        raise ValueError("--compile is not supported with FSDP: leave it out, or launch with --multi_gpu")
    if config.async_save:
        raise ValueError("--async-save is not supported with FSDP: leave it out, or launch with --multi_gpu")
    model = type(task.model).__name__
    if task.find_unused_parameters:
        raise ValueError(f"{model} does not use all its weights in every step, which FSDP requires: use --multi_gpu")
    if scalars := [name for name, p in task.model.named_parameters() if p.ndim == 0]:
        raise ValueError(f"{model} has the scalar {scalars[0]}, which FSDP cannot shard: launch with --multi_gpu")


def shard(objective: nn.Module, accelerator: Accelerator) -> None:
    """Shard a module's parameters in place, over all processes; they are gathered while its forward pass needs them.

    Weights stay float32, and are gathered as such; autocast casts them, as without sharding.
    """
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for p in objective.parameters():
        p.data = p.data.contiguous()  # `fully_shard` takes no other memory format
    release = parse_flag_from_env("FSDP_RESHARD_AFTER_FORWARD", default=True)
    for block in repeated_blocks(objective):
        fully_shard(block, mesh=mesh, reshard_after_forward=release)
    fully_shard(objective, mesh=mesh)


def is_sharded(model: nn.Module) -> bool:
    """Whether a model's parameters are sharded."""
    return isinstance(next(model.parameters(), None), DTensor)


def local(x: Tensor) -> Tensor:
    """This process's part of a sharded tensor, sharing its memory; any other tensor itself."""
    return x.to_local() if isinstance(x, DTensor) else x


def whole(x: Tensor) -> Tensor:
    """A sharded tensor, gathered: all processes must call this. Any other tensor itself."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def sharded_as(x: Tensor, like: Tensor) -> Tensor:
    """A tensor that is equal on all processes, sharded as `like` is."""
    if not isinstance(like, DTensor):
        return x
    return DTensor.from_local(x, like.device_mesh, [Replicate()]).redistribute(placements=like.placements)


@contextmanager
def unsharded(model: nn.Module, weights: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """Context manager under which a sharded model is an ordinary one with these weights.

    Its modules stay the same objects, because tasks and pipelines refer to them; only their parameters, their class
    (`fully_shard` makes it a subclass of FSDPModule) and FSDP's hooks are replaced for the time.

    Args:
        weights: for each sharded parameter a whole tensor of its shape.
    """
    plain = {p: nn.Parameter(x, requires_grad=p.requires_grad) for p, x in weights.items()}
    before = [
        (m, m.__class__, dict(m._parameters), {name: getattr(m, name) for name in HOOKS}) for m in model.modules()
    ]
    for module, kind, parameters, hooks in before:
        if isinstance(module, FSDPModule):
            module.__class__ = kind.__bases__[1]  # the first is FSDPModule
        module._parameters.update({name: plain[p] for name, p in parameters.items() if p is not None})
        for name, kept in hooks.items():
            setattr(module, name, OrderedDict((key, hook) for key, hook in kept.items() if not _is_fsdp(hook)))
    try:
        yield
    finally:
        for module, kind, parameters, hooks in before:
            module.__class__ = kind
            module._parameters.update(parameters)
            for name, kept in hooks.items():
                setattr(module, name, kept)


def _is_fsdp(hook: Callable) -> bool:
    return getattr(hook, "__module__", "").startswith("torch.distributed.fsdp.")


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of all elements of tensors, of which all or none are sharded: a scalar, equal on all processes."""
    norm = nn.utils.get_total_norm([local(x) for x in tensors])
    if any(isinstance(x, DTensor) for x in tensors):
        squared = norm.square()
        dist.all_reduce(squared)
        return squared.sqrt()
    return norm
