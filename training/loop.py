"""The training loop, for every stage of every system, on one process or many.

A *stage* owns a model and says how to prepare a sample, what the loss is, what to show and how to save. The loop does
the rest: steps, averaged weights, checkpoints that resume exactly, pictures, curves. `train` reads top to bottom.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor, nn

from t2i.data.loading import load_batches
from t2i.data.sources import Source
from t2i.training.budget import UNENDING, Budget
from t2i.training.checkpoints import Checkpoints
from t2i.training.compilation import compile_blocks
from t2i.training.config import LoopConfig
from t2i.training.log import RunLog
from t2i.training.optimizers import make_optimizer
from t2i.training.order import NumberBatches, NumberedSamples
from t2i.training.stop import StopRequest


class Stage(Protocol):
    """What the loop asks of a stage."""

    model: nn.Module  # what is trained, checkpointed and averaged; its `progress` is set to the share that is over
    source: Source
    fingerprint: dict[str, str]  # of what else the run is made from: a resumed run must be made from the same
    # finished: bool, if it has that: `save` found that the model gets no better, and the run ends.
    # rests: bool, if it has that: in some steps the loss leaves parts of the model out, which then stay as they are.

    # prepare(item, rng): an item of the source -> what `loss` takes, without the batch axis. Data workers run it, so it
    # is an object of its own that can be pickled, and not a method: the model would go with it.
    prepare: Callable[[dict, np.random.Generator], dict]

    def loss(self, **batch: Tensor) -> dict[str, Tensor]:
        """Scalars: `loss`, which is minimised, and others to log."""

    def preview(self) -> Image.Image:
        """A picture of what the model can do now."""

    def save(self, folder: Path) -> None:
        """Write what `from_pretrained` opens."""


class Objective(nn.Module):
    """The stage's loss as a module's forward pass, so that DistributedDataParallel sees every use of the weights."""

    def __init__(self, stage: Stage):
        super().__init__()
        self.model = stage.model
        self._loss = stage.loss

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        return self._loss(**batch)


class NonFiniteLoss(FloatingPointError):
    """The loss or its gradient became NaN or infinite."""


def train(stage: Stage, config: LoopConfig, recipe: dict) -> Path:
    """Train the stage's model; return the newest checkpoint's folder.

    Args:
        stage: the model and what belongs to it.
        config: of the loop.
        recipe: the run's whole configuration as plain data, kept with it and compared when it is resumed.

    Raises:
        NonFiniteLoss: naming the step, before it is taken; the last checkpoint stays as it was.
        FileExistsError, FileNotFoundError, ValueError: a new run over an old one, or a resume of none or of another.
        ValueError: Muon for a model that has nothing for it.
    """
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                broadcast_buffers=False,  # stages keep theirs equal
                find_unused_parameters=getattr(stage, "rests", False),
            )
        ],
    )
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ValueError(f"this loop averages whole weights; launch it without {accelerator.distributed_type.value}")
    optimizer = make_optimizer(stage.model, config)
    global_batch = config.train_batch_size * config.gradient_accumulation_steps * accelerator.num_processes
    checkpoints = Checkpoints(Path(config.output_dir), config.checkpoints_total_limit, global_batch, accelerator)
    origin = checkpoints.open(config.resume, recipe | stage.fingerprint)
    if config.gradient_checkpointing:
        stage.model.enable_gradient_checkpointing()
    if config.compile:
        compile_blocks(stage.model)
    stage.model.train()
    objective, optimizer = accelerator.prepare(Objective(stage), optimizer)
    ema = EMAModel(stage.model.parameters(), config.ema_decay, use_ema_warmup=True, power=3 / 4, foreach=True)
    ema.to(accelerator.device)
    torch.manual_seed(config.seed + accelerator.process_index)  # from here on, dropout differs between processes
    budget = Budget(config, *(checkpoints.load(origin, ema) if origin else ()))

    batches = _batches(stage, config, budget.step, accelerator)
    log = RunLog(config, budget.step, accelerator)
    budget.pause()
    with StopRequest() as stop, log:
        for step in budget.steps():
            lr = learning_rate(step, config, budget.seconds)
            for group in optimizer.param_groups:
                group["lr"] = lr
            stage.model.progress = budget.done
            sums: dict[str, Tensor] = {}
            for micro in range(config.gradient_accumulation_steps):
                batch = {name: x.to(accelerator.device, non_blocking=True) for name, x in next(batches).items()}
                last = micro == config.gradient_accumulation_steps - 1
                with nullcontext() if last else accelerator.no_sync(objective):
                    with accelerator.autocast():
                        losses = objective(**batch)
                    accelerator.backward(losses["loss"])  # divides by the number of accumulated passes
                for name, x in losses.items():
                    sums[name] = sums.get(name, 0) + x.detach().float() / config.gradient_accumulation_steps
            sums["seconds"] = torch.tensor(budget.lap(), device=accelerator.device)
            scalars = _mean_over_processes(sums, accelerator)
            scalars["seconds"] = budget.spend(scalars["seconds"])
            scalars["grad_norm"] = float(accelerator.clip_grad_norm_(objective.parameters(), config.max_grad_norm))
            scaled = accelerator.scaler is not None  # float16 skips steps whose gradients overflow, and goes on
            if not math.isfinite(scalars["loss"]) or not (scaled or math.isfinite(scalars["grad_norm"])):
                kept = checkpoints.newest()
                how = f"resume from the last checkpoint, {kept}," if kept else "start again"
                raise NonFiniteLoss(
                    f"at step {step} the loss is {scalars['loss']} and its gradient's norm {scalars['grad_norm']}; "
                    f"{how} with a lower --learning-rate"
                )
            scalars["lr"] = lr
            optimizer.step()
            optimizer.zero_grad()
            ema.step(stage.model.parameters())
            log.step(step, scalars)

            stopping = stop.requested(accelerator)
            if budget.checkpoint_due or stopping:
                ema.store(stage.model.parameters())
                ema.copy_to(stage.model.parameters())
                stage.model.eval()
                if accelerator.is_main_process:
                    log.picture(step, stage.preview())
                checkpoints.save(budget, stage.save, ema, restore=lambda: ema.restore(stage.model.parameters()))
                stage.model.train()
                finished = getattr(stage, "finished", False)
                stopping = stop.requested(accelerator, finished)
                budget.pause()
            if stopping:
                why = "the model gets no better" if finished else "go on with --resume latest"
                accelerator.print(f"stopped after step {step}; {why}")
                break
    accelerator.wait_for_everyone()
    return checkpoints.newest()


def learning_rate(step: int, config: LoopConfig, seconds: float = 0.0) -> float:
    """Linear warm-up over `lr_warmup_steps`, then constant or half a cosine down to a hundredth at the end of the run.

    Where `max_train_time` is set, the share of it that `seconds`, those before the step, are stands for the share of
    all steps: how many there will be is not known then.
    """
    total, warm, now = config.max_train_steps, config.lr_warmup_steps, step
    if config.max_train_time is not None:
        now = max(1.0, seconds / config.max_train_time * total)  # the first step moves too
    if now <= warm:
        return config.learning_rate * now / warm
    if config.lr_scheduler == "constant":
        return config.learning_rate
    done = (now - warm) / max(1, total - warm)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def _batches(stage: Stage, config: LoopConfig, done: int, accelerator: Accelerator) -> Iterator[dict[str, Tensor]]:
    numbers = NumberBatches(
        done,
        config.max_train_steps if config.max_train_time is None else UNENDING,
        batch=config.train_batch_size,
        accumulation=config.gradient_accumulation_steps,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    return load_batches(
        NumberedSamples(stage.source, stage.prepare, config.seed),
        batch_sampler=numbers,
        num_workers=config.dataloader_num_workers,
        worker_init_fn=_leave_interrupts_to_the_loop,
        generator=torch.Generator(),  # its base seed is not drawn from the random state that a resume brings back
        pin_memory=accelerator.device.type == "cuda",
    )


def _leave_interrupts_to_the_loop(worker: int) -> None:
    """Ctrl-C reaches every process of the terminal; a worker that died of it would take the last step with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _mean_over_processes(sums: dict[str, Tensor], accelerator: Accelerator) -> dict[str, float]:
    values = accelerator.reduce(torch.stack(list(sums.values())), reduction="mean")
    return dict(zip(sums, values.tolist(), strict=True))
