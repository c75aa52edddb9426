"""The processes of `accelerate launch`: devices, sharding, and errors raised on all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

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
    items: list = [None] * sum(map(len, shares))
    for rank, share in enumerate(shares):
        items[rank :: len(shares)] = share
    return items


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
    failures = gather_object([None if failed is None else _portable(failed)])
    if (first := next((rank for rank, failure in enumerate(failures) if failure is not None), None)) is None:
        return
    kind, message = failures[first]
    raise failed if first == this_process().process_index else kind(message)


def _portable(error: Exception) -> tuple[type[Exception], str]:
    """A class known to every process, and a message, since not every exception can be pickled."""
    kind = next((kind for kind in FAILURES if isinstance(error, kind)), None)
    return (kind, str(error)) if kind else (RuntimeError, f"{type(error).__name__}: {error}")


class Distributed:
    """Base class of an object that every process has: the main process requests work, and all share it.

    The main process works within `leading`, while the others `follow`.
    """

    def on_all(self, work: Callable[..., list], *args) -> list:
        """The results of `work(run, rows, *args)` on every process, in the order of the items.

        Args:
            work: a module-level function that returns one result for each item of this process, items[rows].

        Called by the main process. Raises on it what `work` raises on any process.
        """
        if this_process().num_processes > 1:
            broadcast_object_list([(work, args)])
        return self._perform(work, args)

    def _perform(self, work: Callable[..., list], args: tuple) -> list:
        state, results = this_process(), []
        rows = slice(state.process_index, None, state.num_processes)
        together(lambda: results.extend(work(self, rows, *args)))
        return interleave(gather_object([results]))

    def follow(self) -> None:
        """Take part in the work distributed by the main process, until it leaves `leading`."""
        while (request := broadcast_object_list([None])[0]) is not None:
            with suppress(*FAILURES):  # raised on the main process too, by `together`
                self._perform(*request)

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Context manager in which the main process evaluates, while the others `follow`."""
        try:
            yield
        finally:
            if this_process().num_processes > 1:
                broadcast_object_list([None])


def device_of(name: str, state: PartialState) -> str:
    """The device of this process: with several processes, "auto" and "cuda" give each a GPU of its own."""
    assigned = state.num_processes > 1 and name in ("auto", state.device.type)
    return str(state.device) if assigned else name


def usable_device(name: str) -> str:
    """`device_of` this process; "auto" is the fastest available. Raises ValueError for an unusable device."""
    device = device_of(name, this_process())
    device = fastest_device() if device == "auto" else device
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"cannot use --device {name}: {str(error).splitlines()[0]}") from error
    return device
