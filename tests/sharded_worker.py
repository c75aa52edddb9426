"""A tiny prior, as one process and as several sharded ones train it.

As a program, started by `launching.launched`, it makes the sharded runs that test_sharding.py compares with those of
one process. They are made in one launch, because starting takes most of the time.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from test_training import TINY_PRIOR, recipe

from t2i.processes import this_process
from t2i.training.cli import run

SIZES = {"max_train_steps": 4, "checkpointing_steps": 2, "lr_warmup_steps": 0, "learning_rate": 1e-2}
REST = {"max_grad_norm": 0.5, "ema_decay": 0.9, "weight_decay": 0.1, "gradient_accumulation_steps": 2}
SHORT = {"validation_prompts": ("a red cat",)}  # a short preview


def train_prior(folder: Path, tokenizer: str, optimizer: str, processes: int = 1, **options) -> Path:
    """In double precision, so that rounding is no part of a comparison; with a global batch of 8."""
    torch.set_default_dtype(torch.float64)
    try:
        options = SIZES | REST | SHORT | {"optimizer": optimizer, "tokenizer": tokenizer} | options
        sizes = TINY_PRIOR | {"layers": 2}
        return run(recipe("prior-toybox", folder, sizes, train_batch_size=4 // processes, **options))
    finally:
        torch.set_default_dtype(torch.float32)


def train_in_bf16(folder: Path, tokenizer: str, processes: int = 1) -> Path:
    """Under autocast, with activations recomputed."""
    AcceleratorState._reset_state()  # a process keeps its precision unless the state is reset
    precision = {"mixed_precision": "bf16", "gradient_checkpointing": True, "optimizer": "muon"}
    sizes = {"train_batch_size": 4 // processes, "tokenizer": tokenizer} | SIZES | REST | SHORT | precision
    try:
        return run(recipe("prior-toybox", folder, TINY_PRIOR | {"layers": 2}, **sizes))
    finally:
        AcceleratorState._reset_state()


def as_stopped(run: Path, to: Path) -> Path:
    """A copy of a run as if it was killed while it wrote its last checkpoint."""
    shutil.copytree(run, to, symlinks=True)
    (to / "checkpoint-4").rename(to / ".checkpoint-4.part")
    return to


def main(root: Path, tokenizer: str) -> None:
    """`root` has muon-one, of one process."""
    processes = this_process().num_processes
    for optimizer in ("adamw", "muon"):
        train_prior(root / f"{optimizer}-sharded", tokenizer, optimizer, processes)
    for before in ("one", "sharded"):
        folder = root / f"muon-{before}-then-sharded"
        if this_process().is_main_process:
            as_stopped(root / f"muon-{before}", folder)
        this_process().wait_for_everyone()
        train_prior(folder, tokenizer, "muon", processes, resume="latest")
    train_in_bf16(root / "bf16-sharded", tokenizer, processes)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
