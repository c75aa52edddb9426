"""A disk cache of text states: with a frozen encoder, each text is encoded once.

Shapes: N distinct texts · T tokens · C width
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from tqdm import tqdm

from t2i.disk_cache import batches_of_this_process, open_or_fill
from t2i.files import reserve
from t2i.strings import Strings
from t2i.text.encoders import TEXTS, TextEncoder, TextStates

STATES, MASK, KNOWN = "states.npy", "mask.npy", "texts.json"
_DTYPES = {"float16": np.float16, "float32": np.float32}


class CachedStates:
    """Memory-mapped states of cached texts. `encode(texts)` returns what the encoder would."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.texts = Strings(json.loads((folder / KNOWN).read_text(encoding="utf-8")))  # sorted
        self._states, self._mask = (np.load(folder / name, mmap_mode="r") for name in (STATES, MASK))

    def __len__(self) -> int:
        return len(self.texts)

    def __reduce__(self):
        return CachedStates, (self.folder,)  # reopened: pickling the arrays would copy them

    def encode(self, prompts: Sequence[str]) -> TextStates:
        """Prompts -> states (B, T, C) in float32 and their mask; `dropped` is empty.

        Raises KeyError for a text that is not in the cache.
        """
        rows = [self._row(prompt) for prompt in prompts]
        states = torch.from_numpy(np.ascontiguousarray(self._states[rows], dtype=np.float32))
        return TextStates(states, torch.from_numpy(self._mask[rows]), [""] * len(rows))

    def _row(self, text: str) -> int:
        row = bisect_left(self.texts, text)
        if row == len(self.texts) or self.texts[row] != text:
            raise KeyError(f"{self.folder} has no states of {text!r}; make a cache with that text")
        return row


def cached_states(
    encoder: TextEncoder, texts: Iterable[str], folder: str | Path, dtype: str = "float16"
) -> CachedStates:
    """The states of `texts` and of the empty prompt, loaded from `folder`, or computed and stored there.

    Args:
        texts: in any order, possibly with duplicates.
        dtype: "float16" or "float32", the type in which the states are stored.

    Raises FloatingPointError for a state out of float16's range, and as `disk_cache.open_or_fill` does for a cache of
    another encoder (weights, precision, tokenizer, length) or other texts.
    """
    if dtype not in _DTYPES:
        raise ValueError(f"states are kept as one of {', '.join(_DTYPES)}, not {dtype!r}")
    folder, known = Path(folder), sorted({"", *texts})
    key = {
        "encoder_sha256": encoder.key(),
        "texts_sha256": hashlib.sha256("\n".join(map(repr, known)).encode()).hexdigest(),
        "dtype": dtype,
    }
    open_or_fill(folder, key, partial(_fill, encoder, known, _DTYPES[dtype]), "text states")
    return CachedStates(folder)


def _fill(encoder: TextEncoder, texts: list[str], dtype: type, part: Path, state: PartialState) -> None:
    if state.is_main_process:
        shape = encoder.encode(texts[:1]).states.shape[1:]  # (T, C)
        reserve(part / STATES, dtype, (len(texts), *shape))
        reserve(part / MASK, np.bool_, (len(texts), shape[0]))
        (part / KNOWN).write_text(json.dumps(texts), encoding="utf-8")
    state.wait_for_everyone()
    states, mask = (np.lib.format.open_memmap(part / name, mode="r+") for name in (STATES, MASK))
    rows = list(batches_of_this_process(len(texts), TEXTS, state))
    for some in tqdm(rows, desc="text states", disable=len(rows) < 2 or not state.is_main_process):
        found = encoder.encode(texts[some.start : some.stop])
        states[some.start : some.stop] = _narrow(found.states, dtype, texts[some.start])
        mask[some.start : some.stop] = found.mask.cpu().numpy()
    states.flush()
    mask.flush()


def _narrow(x: Tensor, dtype: type, first: str) -> np.ndarray:
    rows = x.float().cpu().numpy()
    if np.abs(rows).max() > np.finfo(dtype).max:
        raise FloatingPointError(
            f"text states from {first!r} on do not fit into {dtype.__name__}; keep them in float32"
        )
    return rows.astype(dtype)
