"""The processes of `accelerate launch`: which one this is, where it computes, and how they fail together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from t2i.devices import fastest_device
from t2i.processes import this_process

T = TypeVar("T")
FAILURES = (ValueError, OSError, FloatingPointError)  # that a part of an evaluation may end with


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
    """Do `work` on every process, and wait for all. Where it fails on one, all of them raise its error.

    The others raise one of FAILURES where it is one, and otherwise a RuntimeError that names its class. A process that
    raised alone would leave the others waiting for it, so any error counts, such as a GPU's that ran out of memory.
    """
    failed = None
    try:
        work()
    except Exception as error:
        failed = error
    told = gather_object([None if failed is None else _in_words(failed)])
    if (first := next((rank for rank, words in enumerate(told) if words is not None), None)) is None:
        return
    kind, message = told[first]
    raise failed if first == this_process().process_index else kind(message)


def _in_words(error: Exception) -> tuple[type[Exception], str]:
    """A class that every process has, and a message: not every error can be sent itself."""
    kind = next((kind for kind in FAILURES if isinstance(error, kind)), None)
    return (kind, str(error)) if kind else (RuntimeError, f"{type(error).__name__}: {error}")


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
