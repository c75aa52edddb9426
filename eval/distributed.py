"""The processes of `accelerate launch`: devices, sharding, and errors raised on all processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from t2i.devices import fastest_device
from t2i.processes import this_process

T = TypeVar("T")
FAILURES = (ValueError, OSError, FloatingPointError)  # errors caused by input, which fail a single metric


def shard(items: Sequence[T], rank: int, world: int) -> Sequence[T]:
    """The items of process `rank` out of `world`: every `world`-th. No item is repeated to even out the shares.

    Raises ValueError unless 0 ≤ rank < world.
    """
    if not 0 <= rank < world:
        raise ValueError(f"a rank is at least 0 and below world: {rank=}, {world=}")
    return items[rank::world]


def interleave(shares: Sequence[Sequence[T]]) -> list[T]:
    """Inverse of `shard`: the shares of ranks 0, 1, … -> all items in order."""
    whole: list = [None] * sum(map(len, shares))
    for rank, share in enumerate(shares):
        whole[rank :: len(shares)] = share
    return whole


def is_main_process() -> bool:
    """Whether this process prints and writes; raises ValueError as `this_process` does."""
    return this_process().is_main_process


def together(work: Callable[[], object]) -> None:
    """Run `work` on every process and wait for all. If it fails on one, all of them raise its error.

    The other processes raise the same class if it is one of FAILURES, otherwise a RuntimeError that names the class. A
    process that raised alone would leave the others waiting, so this applies to any error, such as out of memory.
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
    """A class known to every process, and a message, since not every exception can be pickled."""
    kind = next((kind for kind in FAILURES if isinstance(error, kind)), None)
    return (kind, str(error)) if kind else (RuntimeError, f"{type(error).__name__}: {error}")


def device_of(asked: str, state: PartialState) -> str:
    """The device of this process: with several processes, "auto" and "cuda" give each its own GPU."""
    own = state.num_processes > 1 and asked in ("auto", state.device.type)
    return str(state.device) if own else asked


def usable_device(asked: str) -> str:
    """`device_of` this process; "auto" is the fastest available. Raises ValueError for an unusable device."""
    device = device_of(asked, this_process())
    device = fastest_device() if device == "auto" else device
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"cannot use --device {asked}: {str(error).splitlines()[0]}") from error
    return device
