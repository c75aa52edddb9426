"""The peak of the memory that tensors hold at the same time, counted by their storages."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakBytes(TorchDispatchMode):
    """Within this context, `peak` is the most bytes that new tensors held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak, self._held = 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.layout is torch.strided and not tensor.is_meta:
                self._hold(tensor.untyped_storage())
        return out

    def _hold(self, storage) -> None:
        key = storage._cdata
        if key not in self._held:
            self._held[key] = storage.nbytes()
            weakref.finalize(storage, self._held.pop, key, None)
            self.peak = max(self.peak, sum(self._held.values()))
