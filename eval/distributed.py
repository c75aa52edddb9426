"""The processes of `accelerate launch`: devices, shares of the work, and errors that all of them raise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from t2i.devices import fastest_device
from t2i.processes import this_process

T = TypeVar("T")
FAILURES = (ValueError, OSError, FloatingPointError)  # errors of the input, by which a single metric may fail


def shard(items: Sequence[T], rank: int, world: int) -> Sequence[T]:
    """The items of process `rank` out of `world`: every `world`-th. No item is repeated to make shares equal.

    Raises ValueError unless 0 ≤ rank < world.
    """
    if not 0 <= rank < world:
        raise ValueError(f"a rank is at least 0 and below world: {rank=}, {world=}")
    return items[rank::world]


def interleave(shares: Sequence[Sequence[T]]) -> list[T]:
    """The inverse of `shard`: the shares of ranks 0, 1, … -> all items in order."""
    whole: list = [None] * sum(map(len, shares))
    for rank, share in enumerate(shares):
        whole[rank :: len(shares)] = share
    return whole


def is_main_process() -> bool:
    """Whether this process prints and writes; raises ValueError as `this_process` does."""
    return this_process().is_main_process


def together(work: Callable[[], object]) -> None:
    """Do `work` on every process and wait for all. Where it fails on one, all of them raise its error.

    The others raise the same class where it is one of FAILURES, and otherwise a RuntimeError that names its class. A
    process that raised alone would leave the others waiting, so any error counts, such as a GPU's out of memory.
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
    """A class that every process has, and a message: not every exception can be pickled."""
    kind = next((kind for kind in FAILURES if isinstance(error, kind)), None)
    return (kind, str(error)) if kind else (RuntimeError, f"{type(error).__name__}: {error}")


def device_of(asked: str, state: PartialState) -> str:
    """The device of one process: of several processes, "auto" and "cuda" give each its own GPU."""
    own = state.num_processes > 1 and asked in ("auto", state.device.type)
    return str(state.device) if own else asked


def usable_device(asked: str) -> str:
    """`device_of` this process, where "auto" is the fastest available. ValueError for a device that cannot be used."""
    device = device_of(asked, this_process())
    device = fastest_device() if device == "auto" else device
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"cannot use --device {asked}: {str(error).splitlines()[0]}") from error
    return device
