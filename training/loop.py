"""The training loop, for every task, on one or more processes.

A task (see `task.py`) has a model, data and a loss, and can preview, save and evaluate the model. The loop does the
rest: optimizer steps, averaged weights, exactly resumable checkpoints, evaluation, the best checkpoint, early stopping,
previews and curves. `train` reads top to bottom.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn

from t2i.data.loading import load_batches
from t2i.data.sampling import NumberBatches, NumberedSamples
from t2i.processes import wait_for_main
from t2i.training.averages import AveragedWeights, averaged
from t2i.training.budget import UNENDING, Budget
from t2i.training.checkpoints import DATA, Checkpoints, Progress
from t2i.training.compilation import compile_blocks
from t2i.training.config import LoopConfig
from t2i.training.evaluation import CheckpointEvaluator
from t2i.training.finite import FiniteSteps
from t2i.training.log import RunLog, tolerated, tracker_of
from t2i.training.micro_batches import MicroBatches, split
from t2i.training.mup import scale_to_width
from t2i.training.optimizers import make_optimizer
from t2i.training.reference import reference_curves
from t2i.training.sharding import check_sharding, is_sharded, launched_sharded, local, shard, total_norm
from t2i.training.stop import StopRequest, ignore_stop_signals
from t2i.training.task import Task


class Objective(nn.Module):
    """The task's loss as a module's forward pass, so that DistributedDataParallel sees every use of the weights."""

    def __init__(self, task: Task):
        super().__init__()
        self.model = task.model
        self._loss = task.loss

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        return self._loss(**batch)


def train(task: Task, config: LoopConfig, recipe: dict, defaults: Mapping[str, Any] = MappingProxyType({})) -> Path:
    """Train the task's model; returns the folder of the newest checkpoint.

    Ctrl-C and SIGTERM finish the step, save a checkpoint and return normally (exit code 0). A second Ctrl-C raises
    KeyboardInterrupt at once (exit code 130), losing the steps since the last checkpoint.

    Args:
        task: the model, its data and its loss.
        config: options of the loop.
        recipe: the run's full configuration as plain data, stored with the run and compared on resume.
        defaults: of options in it; a run that was started before such an option existed can be resumed with it.

    Raises:
        NonFiniteLoss: after `max_skipped_steps` in a row, or if the weights are not finite; they are never saved.
        FileExistsError, FileNotFoundError, ValueError: a new run in the folder of an existing or active one, or a
            resume that is impossible: no checkpoint, a damaged one, another run's, or different data.
        OSError: a checkpoint could not be written; earlier ones are unaffected.
        ValueError: the model has no parameters for Muon; an engine that is not supported (see `check_sharding`).
    """
    accelerator = make_accelerator(task, config)
    objective, optimizer = distribute(task, config, accelerator)
    run = Path(config.output_dir)
    global_batch = config.train_batch_size * config.gradient_accumulation_steps * accelerator.num_processes
    limit = config.checkpoints_total_limit
    with Checkpoints(run, limit, global_batch, accelerator, config.async_save) as checkpoints:
        built_from = {DATA: task.source.fingerprint(), **task.fingerprint}
        origin = checkpoints.open(config.resume, recipe | built_from, defaults)
        task.model.train()
        parameters = list(task.model.parameters())
        averages = AveragedWeights(parameters, config.ema_decay)
        torch.manual_seed(config.seed + accelerator.process_index)  # from here on, dropout differs between processes
        progress = checkpoints.load(origin, task.model, optimizer, averages) if origin else Progress()
        budget = Budget(config, progress.steps, progress.seconds, progress.skipped)
        finite = FiniteSteps(config.max_skipped_steps, budget, accelerator, checkpoints)
        evaluator = CheckpointEvaluator(task, run, progress.history, checkpoints.background)
        if origin:
            with _inference(task.model, averages, accelerator), tolerated(budget.step, "scores"):
                if accelerator.is_main_process:
                    evaluator.evaluate(origin)  # if the run ended before evaluating this checkpoint
            wait_for_main()
        if budget.spent:
            accelerator.print(f"{run} is complete: {budget}; to train on, give a larger {budget.option}")
            return origin
        sizes = (config.train_batch_size, config.gradient_accumulation_steps)
        micro_batches = MicroBatches(*sizes, task.model, accelerator)
        data = training_batches(task, config, budget.step, accelerator)
        log = RunLog(config, budget.step, accelerator, reference_curves(recipe, defaults))
        with closing(data) as batches, log, StopRequest() as stop:
            budget.pause()
            due = False  # a checkpoint, since an earlier step that was skipped
            for step in budget.steps():
                lr = learning_rate(step, config, budget.seconds)
                for group in optimizer.param_groups:
                    group["lr"] = lr * group["factor"]
                task.start_step(budget.done)
                passes = [next(batches) for _ in range(config.gradient_accumulation_steps)]
                compute = partial(accumulate, objective, passes, accelerator)
                names, means = micro_batches.fitted(compute, undo=optimizer.zero_grad)
                scalars = _mean_over_processes(names, means, budget.lap(), accelerator)
                scalars["seconds"] = budget.spend(scalars["seconds"])
                accelerator.unscale_gradients()
                scalars["grad_norm"] = clip_gradients(parameters, config.max_grad_norm)
                scalars["lr"] = lr
                taken = finite.allows(scalars, task.model)
                if taken:
                    _step(optimizer, accelerator)
                    averages.step()
                elif accelerator.scaler is not None:
                    accelerator.scaler.update()
                optimizer.zero_grad()
                log.step(step, scalars)

                stopping = stop.requested(accelerator, checkpoints.background.failed)  # `save` then raises the error
                due = due or budget.checkpoint_due
                if (due and taken) or stopping or budget.spent:
                    finite.check(task.model)
                    checkpoint = checkpoints.save(task, optimizer, budget, averages, evaluator.history)
                    due = False
                    with _inference(task.model, averages, accelerator):
                        if accelerator.is_main_process:
                            with tolerated(step, "scores"):
                                evaluator.evaluate(checkpoint)
                            log.show(step, task.preview)
                    wait_for_main()
                    stopping = stop.requested(accelerator, evaluator.finished)
                    budget.pause()
                if stopping:
                    break
            checkpoints.wait()
        accelerator.wait_for_everyone()
    accelerator.print(_farewell(task, budget, evaluator.finished, run, checkpoints.newest()))
    return checkpoints.newest()


def make_accelerator(task: Task, config: LoopConfig) -> Accelerator:
    """Accelerate's view of this process and the others. Raises ValueError as `check_sharding`, or without a tracker."""
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        log_with=tracker_of(config.report_to),
        project_dir=config.output_dir,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                broadcast_buffers=False,  # models keep buffers equal themselves
                find_unused_parameters=task.find_unused_parameters,
            )
        ],
    )
    check_sharding(task, config, accelerator)
    return accelerator


def distribute(task: Task, config: LoopConfig, accelerator: Accelerator) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The task's loss, on the device and connected or sharded over the processes, and an optimizer of its weights."""
    factors = {} if config.mup_base_width is None else scale_to_width(task, config)
    if config.gradient_checkpointing:
        task.enable_gradient_checkpointing()
    if config.compile:
        compile_blocks(task.model)
    objective = Objective(task)
    if launched_sharded():
        shard(objective, accelerator)
        return objective, make_optimizer(task.model, config, factors)
    optimizer = make_optimizer(task.model, config, factors)
    objective, _ = accelerator.prepare(objective, optimizer)  # Accelerate's wrapper costs 1 ms per step
    return objective, optimizer


def accumulate(
    objective: nn.Module, passes: list[dict[str, Tensor]], accelerator: Accelerator, size: int
) -> tuple[list[str], Tensor]:
    """Accumulate the gradient of the mean loss over a step's batches, computing at most `size` images at once.

    Returns the names of the losses and their means (N,).
    """
    sums, names = torch.zeros((), device=accelerator.device), []
    pieces = [piece for batch in passes for piece in split(batch, size)]
    for i, (piece, share) in enumerate(pieces):
        inputs = {name: x.to(accelerator.device, non_blocking=True) for name, x in piece.items()}
        # Sharded gradients are reduced in each pass: whole ones would take more memory.
        reduces = i == len(pieces) - 1 or is_sharded(objective)
        with nullcontext() if reduces else accelerator.no_sync(objective):
            with accelerator.autocast():
                losses = objective(**inputs)
            accelerator.backward(losses["loss"] * share)  # divides by the number of passes
        sums = sums + share * torch.stack([x.detach().float() for x in losses.values()])
        names = list(losses)
    return names, sums / len(passes)


def _step(optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> None:
    if accelerator.scaler is None:
        optimizer.step()
    else:  # fp16: steps with overflowing gradients are skipped
        accelerator.scaler.step(optimizer)
        accelerator.scaler.update()


@contextmanager
def _inference(model: nn.Module, averages: AveragedWeights, accelerator: Accelerator) -> Iterator[None]:
    """Averaged weights in evaluation mode, on all processes; the run's random state is unaffected."""
    model.eval()
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    with averaged(model, averages), torch.random.fork_rng(devices):
        yield
    model.train()


def _farewell(task: Task, budget: Budget, finished: bool, run: Path, folder: Path | None) -> str:
    """Summary at the end: what the run has written, and the next command."""
    if not (budget.spent or finished):
        return f"stopped after step {budget.step} and saved {folder}; resume with --resume latest"
    why = "" if budget.spent else f": no improvement in {task.patience} checkpoints (--patience)"
    lines = [f"done after {budget}{why}; wrote {folder}, and in {run} curves.png, samples/ and metrics.jsonl"]
    if task.next_command:
        lines.append(f"next: {task.next_command.replace('{run}', str(run))}")
    return "\n".join(lines)


def learning_rate(step: int, config: LoopConfig, seconds: float = 0.0) -> float:
    """Linear warm-up over `lr_warmup_steps`, then constant or cosine decay to a hundredth at the end of the run.

    With `max_train_time`, the total number of steps is unknown, and progress is the elapsed `seconds` (before the step)
    divided by `max_train_time`.
    """
    total, warm, now = config.max_train_steps, config.lr_warmup_steps, step
    if config.max_train_time is not None:
        now = max(1.0, seconds / config.max_train_time * total)  # the learning rate of the first step must not be 0
    if now <= warm:
        return config.learning_rate * now / warm
    if config.lr_scheduler == "constant":
        return config.learning_rate
    done = (now - warm) / max(1, total - warm)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def training_batches(
    task: Task, config: LoopConfig, done: int, accelerator: Accelerator
) -> Iterator[dict[str, Tensor]]:
    """The batches from step `done` on; closing the iterator ends the data workers."""
    numbers = NumberBatches(
        done,
        config.max_train_steps if config.max_train_time is None else UNENDING,
        batch=config.train_batch_size,
        accumulation=config.gradient_accumulation_steps,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    global_batch = config.train_batch_size * config.gradient_accumulation_steps * accelerator.num_processes
    return load_batches(
        NumberedSamples(task.source, task.prepare, config.seed, global_batch),
        batch_sampler=numbers,
        num_workers=config.dataloader_num_workers,
        worker_init_fn=ignore_stop_signals,
        generator=torch.Generator(),  # keeps the base seed out of the random state restored on resume
        pin_memory=accelerator.device.type == "cuda",
    )


def _mean_over_processes(
    names: list[str], values: Tensor, seconds: float, accelerator: Accelerator
) -> dict[str, float]:
    """Means over all processes of the named values (N,), and "seconds"."""
    if accelerator.num_processes > 1:
        means: Any = accelerator.reduce(torch.cat([values, values.new_tensor([seconds])]), reduction="mean")
        *numbers, seconds = means.tolist()
    else:
        numbers = values.tolist()
    return dict(zip(names, numbers, strict=True)) | {"seconds": seconds}


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> float:
    """Clip the norm of all gradients to `max_norm`; returns the norm before clipping."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = total_norm(gradients)
    if (total := float(norm)) > max_norm:
        torch._foreach_mul_([local(g) for g in gradients], max_norm / (norm + 1e-6))
    return total
