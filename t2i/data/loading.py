"""Batches of a dataset, with the original one-line error messages of data workers.

PyTorch re-raises a worker's error with the traceback in its message. Here a worker returns the failure as an item, and
it is raised when the batch is fetched. So are the reasons why images were replaced (see `unreadable.py`), and noted.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, Dataset, default_collate
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from t2i.data.unreadable import REPLACED, note_replaced
from t2i.notes import count, note

PATIENCE = 300.0  # seconds
DUMP = signal.SIGUSR1 if hasattr(signal, "SIGUSR1") else None  # makes a worker print its stacks; Windows has none
STDERR = 2  # the descriptor: sys.stderr may be replaced, by a test for example
_END = object()

_EXPECTED = (ValueError, OSError, MemoryError)  # any other error is a bug, and keeps its traceback


class LoadingError(ValueError):
    """An item of the dataset could not be loaded, for the reason in the message."""


@dataclass(frozen=True)
class _Failure:
    """Returned by a worker instead of an item."""

    message: str
    trace: str


class _Batch(NamedTuple):
    content: Any
    replaced: list[tuple[str, ...]]  # of each item that replaces unreadable ones, why they cannot be read


class _Careful(Dataset):
    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int):
        try:
            return self.dataset[index]
        except _EXPECTED as error:
            what = str(error) or f"not enough memory for item {index} of the data"
            return _Failure(what, traceback.format_exc())


def load_batches(dataset: Dataset, patience: float = PATIENCE, **options) -> Iterator:
    """The batches of a `DataLoader(dataset, **options)`.

    After `patience` seconds without a batch, what each worker is doing is printed to standard error: its stacks.

    Unreadable images that were replaced are noted, each once, and at the end the number of items that replaced them.

    Raises LoadingError, a ValueError, with the message of the dataset's error (ValueError, OSError or MemoryError),
    with or without workers; and if a worker died. Other errors are raised as in PyTorch. The workers end with the
    generator.
    """
    started = partial(_dump_stacks_on_signal, options.pop("worker_init_fn", None))
    loader = iter(DataLoader(_Careful(dataset), collate_fn=_collate, worker_init_fn=started, **options))
    workers = loader._workers if isinstance(loader, _MultiProcessingDataLoaderIter) else []
    items, noted = 0, set[str]()
    try:
        try:
            for batch in _watched(loader, workers, patience):
                if isinstance(batch, _Failure):
                    error = LoadingError(batch.message)
                    error.add_note(batch.trace)  # shown only with a traceback
                    raise error
                for why in batch.replaced:
                    items += 1
                    note_replaced(reason for reason in why if reason not in noted)
                    noted.update(why)
                yield batch.content
        finally:
            if items:
                which = f"{count(noted, 'image')} that cannot be read"
                note(f"{count(range(items), 'item')} of the data replaced {which}", every_process=True)
            # Not left to the garbage collector: an error's traceback would keep the workers alive.
            if workers:
                loader._shutdown_workers()
    except (RuntimeError, ConnectionError, EOFError) as error:  # which one depends on when the worker died
        if "DataLoader worker (pid" not in str(error) and not any(worker.exitcode for worker in workers):
            raise
        raise LoadingError(
            "a data worker was killed, perhaps because memory ran out; give fewer --dataloader-num-workers"
        ) from error


def _dump_stacks_on_signal(then: Callable[[int], None] | None, worker: int) -> None:
    if DUMP is not None:
        faulthandler.register(DUMP, file=STDERR, all_threads=True)
    if then is not None:
        then(worker)


def _watched(loader: Iterator, workers: Sequence[BaseProcess], patience: float) -> Iterator:
    """The loader's batches; a wait of more than `patience` seconds is reported once, with stacks."""
    while True:
        watch = threading.Timer(patience, _report_stall, [workers, patience])
        watch.daemon = True
        watch.start()
        try:
            batch = next(loader, _END)
        finally:
            watch.cancel()
        if batch is _END:
            return
        yield batch


def _report_stall(workers: Sequence[BaseProcess], patience: float) -> None:
    who = count(workers, "data worker") if workers else "this process, which loads the data,"
    note(f"the data gave no batch for {patience:g} s; what {who} did then:", every_process=True)
    if not workers:
        faulthandler.dump_traceback(file=STDERR, all_threads=True)
    for worker in workers if DUMP is not None else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, DUMP)


def _collate(items: list):
    failed = next((item for item in items if isinstance(item, _Failure)), None)
    if failed is not None:
        return failed
    replaced = [item.pop(REPLACED) for item in items if isinstance(item, dict) and REPLACED in item]
    return _Batch(default_collate(items), replaced)
