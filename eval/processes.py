"""The processes of `accelerate launch`: which one this is, where it computes, and how they fail together."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env

from t2i.pipelines.auto import fastest_device

T = TypeVar("T")
LONGEST_WAIT = timedelta(hours=24)  # for the slowest process; PyTorch's own limit is 10 minutes
FAILURES = (ValueError, OSError, FloatingPointError)  # that a part of an evaluation may end with


def this_process() -> PartialState:
    """This process among those that were launched. ValueError where several were that do not know of each other."""
    launched = int(os.environ.get("WORLD_SIZE", 1))
    waiting = {"timeout": LONGEST_WAIT} if launched > 1 else {}
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), **waiting)
    if state.num_processes != launched:  # each would take itself for the only one, and all would write the same files
        raise ValueError(
            f"{launched} processes were launched but they are not connected; where there is no GPU for them, "
            "set ACCELERATE_USE_CPU=true"
        )
    return state


def shard(items: Sequence[T], rank: int, world: int) -> Sequence[T]:
    """The items of process `rank` out of `world`: every `world`-th. Nothing is doubled to make shares equal.

    Raises ValueError unless 0 ≤ rank < world.
    """
    if not 0 <= rank < world:
        raise ValueError(f"a rank is at least 0 and below world: {rank=}, {world=}")
    return items[rank::world]


def is_main_process() -> bool:
    """Whether this process is the one that prints and writes; raises ValueError as `this_process` does."""
    return this_process().is_main_process


def together(work: Callable[[], object]) -> None:
    """Do `work` on every process, and wait for all. Where it fails on one (FAILURES), all of them raise its error.

    A process that raised alone would leave the others waiting for it.
    """
    failed = None
    try:
        work()
    except FAILURES as error:
        failed = error
    if errors := [error for error in gather_object([failed]) if error is not None]:
        raise errors[0]


def device_of(asked: str, state: PartialState) -> str:
    """The device that one of the processes is to use: of several, "auto" and "cuda" give each its own GPU."""
    own = state.num_processes > 1 and asked in ("auto", state.device.type)
    return str(state.device) if own else asked


def usable_device(asked: str) -> str:
    """`device_of` this process, "auto" being the fastest there is. ValueError for a device that cannot be used."""
    device = device_of(asked, this_process())
    device = fastest_device() if device == "auto" else device
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"cannot use --device {asked}: {str(error).splitlines()[0]}") from error
    return device
