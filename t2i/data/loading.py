"""Batches of a dataset, with the original one-line error messages of data workers.

PyTorch re-raises a worker's error with the traceback in its message. Here a worker returns the failure as an item, and
it is raised when the batch is fetched.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass

from torch.utils.data import DataLoader, Dataset, default_collate
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

_EXPECTED = (ValueError, OSError, MemoryError)  # any other error is a bug, and keeps its traceback


class LoadingError(ValueError):
    """An item of the dataset could not be loaded, for the reason in the message."""


@dataclass(frozen=True)
class _Failure:
    """Returned by a worker instead of an item."""

    message: str
    trace: str


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


def load_batches(dataset: Dataset, **options) -> Iterator:
    """The batches of a `DataLoader(dataset, **options)`.

    Raises LoadingError, a ValueError, with the message of the dataset's error (ValueError, OSError or MemoryError),
    with or without workers; and if a worker died. Other errors are raised as in PyTorch. The workers end with the
    generator.
    """
    loader = iter(DataLoader(_Careful(dataset), collate_fn=_collate, **options))
    workers = loader._workers if isinstance(loader, _MultiProcessingDataLoaderIter) else []
    try:
        try:
            for batch in loader:
                if isinstance(batch, _Failure):
                    error = LoadingError(batch.message)
                    error.add_note(batch.trace)  # shown only with a traceback
                    raise error
                yield batch
        finally:
            # Not left to the garbage collector: an error's traceback would keep the workers alive.
            if workers:
                loader._shutdown_workers()
    except (RuntimeError, ConnectionError, EOFError) as error:  # which one depends on when the worker died
        if "DataLoader worker (pid" not in str(error) and not any(worker.exitcode for worker in workers):
            raise
        raise LoadingError(
            "a data worker was killed, perhaps because memory ran out; give fewer --dataloader-num-workers"
        ) from error


def _collate(items: list):
    failed = next((item for item in items if isinstance(item, _Failure)), None)
    return default_collate(items) if failed is None else failed
