"""Items of a data set in batches, from data workers too, whose errors arrive as they were raised: one sentence.

PyTorch puts the traceback of a worker into the message of the error that it raises again. Here a worker hands the
failure over as what it read, and it is raised where the batch is asked for.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass

from torch.utils.data import DataLoader, Dataset, default_collate
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

_EXPECTED = (ValueError, OSError, MemoryError)  # anything else is a fault of the code, and keeps its traceback


class LoadingError(ValueError):
    """An item of the data could not be made, as its message says."""


@dataclass(frozen=True)
class _Failure:
    """What a worker hands over instead of an item."""

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

    Raises LoadingError, a ValueError, with the message of what the data set raised (ValueError, OSError or
    MemoryError), in a worker or not; and where a worker died. Other errors are raised as PyTorch does. The workers end
    with the generator.
    """
    loader = iter(DataLoader(_Careful(dataset), collate_fn=_collate, **options))
    workers = loader._workers if isinstance(loader, _MultiProcessingDataLoaderIter) else []
    try:
        try:
            for batch in loader:
                if isinstance(batch, _Failure):
                    error = LoadingError(batch.message)
                    error.add_note(batch.trace)  # shown with a traceback only
                    raise error
                yield batch
        finally:
            # Not left to the garbage collector: an error's traceback would keep the workers, which may ignore signals.
            if workers:
                loader._shutdown_workers()
    except (RuntimeError, ConnectionError, EOFError) as error:  # by where it was when a worker died
        if "DataLoader worker (pid" not in str(error) and not any(worker.exitcode for worker in workers):
            raise
        raise LoadingError(
            "a data worker was killed, perhaps because memory ran out; give fewer --dataloader-num-workers"
        ) from error


def _collate(items: list):
    failed = next((item for item in items if isinstance(item, _Failure)), None)
    return default_collate(items) if failed is None else failed
