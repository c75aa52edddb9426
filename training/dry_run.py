"""`t2i train RECIPE --dry-run`: what a run would need, from its shapes and a few real steps; nothing is written."""

from __future__ import annotations

import dataclasses
import os
import time
from contextlib import closing

import psutil
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from t2i.checks import UsageError
from t2i.processes import most_memory
from t2i.tables import format_table
from t2i.training.averages import AveragedWeights
from t2i.training.budget import UNENDING
from t2i.training.config import LoopConfig
from t2i.training.loop import accumulate, clip_gradients, distribute, make_accelerator, training_batches
from t2i.training.memory import GIB, activation_memory, checkpoint_memory, training_memory
from t2i.training.sharding import launched_sharded
from t2i.training.task import Task

STEPS = 3  # that are measured, after one that is not


def dry_run(task: Task, config: LoopConfig) -> None:
    """Print the parameters, the memory by what it is for, the shapes of a batch, and the images/s of some real steps.

    All processes of a launch must call this; the main one prints. Raises UsageError, with the remedy, if the run does
    not fit in memory.
    """
    accelerator, sharded = make_accelerator(task, config), launched_sharded()
    batch_size, passes, world = config.train_batch_size, config.gradient_accumulation_steps, accelerator.num_processes
    available = available_memory(accelerator)
    accelerator.print(_about(task.model))
    memory = training_memory(task.model, config.optimizer, world, sharded)
    memory["frozen networks"] = frozen_memory(task)
    saving = checkpoint_memory(task.model, sharded)
    if (state := sum(memory.values())) + saving > available:
        accelerator.print(_table(memory, saving, available))
        raise UsageError(
            f"the run does not fit: without activations it needs {_gib(state + saving)} of {_gib(available)}; "
            "shard it over more processes (accelerate launch --use_fsdp --fsdp_version 2), or train a smaller model"
        )
    objective, optimizer = distribute(task, config, accelerator)
    averages = AveragedWeights(task.model.parameters(), config.ema_decay)
    task.model.train()
    try:
        endless = dataclasses.replace(config, max_train_steps=UNENDING, max_train_time=None)
        with closing(training_batches(task, endless, 0, accelerator)) as batches:
            batch = next(batches)
            accelerator.print(_shapes(batch))
            with accelerator.autocast():
                per_image, constant = activation_memory(
                    objective, {n: x.to(accelerator.device) for n, x in batch.items()}
                )
            what = f"activations of {batch_size} images" + (", recomputed" if config.gradient_checkpointing else "")
            memory[what] = batch_size * per_image + constant
            accelerator.print(_table(memory, saving, available))
            if sum(memory.values()) > available:
                raise UsageError(_refusal(batch_size, passes, (available - state - constant) // max(1, per_image)))
            for step in range(1 + STEPS):
                if step == 1:
                    began = time.perf_counter()
                accumulate(objective, [next(batches) for _ in range(passes)], accelerator, batch_size)
                clip_gradients(averages.parameters, config.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
                averages.step()
                if accelerator.device.type == "cuda":
                    torch.cuda.synchronize()
    except torch.OutOfMemoryError as error:
        raise UsageError(_refusal(batch_size, passes, batch_size // 2)) from error
    images = STEPS * batch_size * passes * world / (time.perf_counter() - began)
    accelerator.print(f"{images:.1f} images/s in {STEPS} steps; peak memory of the main process: {_peak(accelerator)}")


def frozen_memory(task: Task) -> int:
    """Bytes of the networks that a task uses and does not train, such as a text encoder."""
    trained = {id(p) for p in task.model.parameters()}
    held = [*vars(task).values(), *getattr(task.model, "_perceptual", ())]
    modules = [x if isinstance(x, nn.Module) else getattr(x, "model", None) for x in held]
    weights = {id(p): p for module in modules if isinstance(module, nn.Module) for p in module.parameters()}
    return sum(p.nbytes for key, p in weights.items() if key not in trained)


def available_memory(accelerator: Accelerator) -> int:
    """Bytes of the device that are free for this process; of the CPU's memory, an equal share, with what it has."""
    if accelerator.device.type == "cuda":
        return torch.cuda.mem_get_info(accelerator.device)[0]
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return psutil.virtual_memory().available // local + psutil.Process().memory_info().rss


def _about(model: nn.Module) -> str:
    count, trained = (sum(p.numel() for p in model.parameters() if p.requires_grad or every) for every in (True, False))
    frozen = f", of which {trained:,} are trained" if trained < count else ""
    return f"{type(model).__name__}: {count:,} parameters{frozen}"


def _shapes(batch: dict[str, Tensor]) -> str:
    rows = [[name, "×".join(map(str, x.shape)), str(x.dtype).removeprefix("torch.")] for name, x in batch.items()]
    return format_table(["batch", "shape", "type"], rows)


def _table(memory: dict[str, int], saving: int, available: int) -> str:
    total = sum(memory.values())
    rows = [
        *memory.items(),
        ("total", total),
        ("additional while saving a checkpoint, without activations", saving),
        ("available", available),
    ]
    return format_table(["memory of a process", ""], [[name, _gib(count)] for name, count in rows], right=(1,))


def _gib(count: int) -> str:
    return f"{count / GIB:.3f} GiB"


def _refusal(batch: int, passes: int, fits: int) -> str:
    """The error where only `fits` images fit: the remedy is the same batch in more passes."""
    sizes = [size for size in range(1, batch) if batch % size == 0 and size <= fits]
    if not sizes:
        return "the run does not fit: not even one image does; set --gradient-checkpointing, or train a smaller model"
    same = f"--train-batch-size {sizes[-1]} --gradient-accumulation-steps {passes * batch // sizes[-1]}"
    return f"the run does not fit: set {same}, the same global batch"


def _peak(accelerator: Accelerator) -> str:
    if accelerator.device.type == "cuda":
        return f"{_gib(torch.cuda.max_memory_allocated(accelerator.device))} on the GPU"
    held = most_memory()
    return "unknown" if held is None else f"{held / 1024:.3f} GiB, Python and libraries included"
