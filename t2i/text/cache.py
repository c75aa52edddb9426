"""Text states on disk: a frozen encoder gives the same for the same text, so each text is encoded once.

Shapes: N texts, each once · T tokens · C width · D width of the pooled vector
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from t2i.files import reserve, sync, writing
from t2i.manifest import damage, write_manifest
from t2i.text.encoders import TEXTS, TextEncoder, TextStates

ABOUT = "about.json"  # the encoder's key and the texts' own
_DTYPES = {"float16": np.float16, "float32": np.float32}


class CachedStates:
    """The states of known texts, read from the disk as they are asked for. Made by `cached_states`.

    `cache.encode(texts)` gives what the encoder would, from arrays that stay on the disk.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.texts = json.loads((folder / "texts.json").read_text())
        self._row = {text: i for i, text in enumerate(self.texts)}
        self._states, self._mask = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("states", "mask"))
        pooled = folder / "pooled.npy"
        self._pooled = np.load(pooled, mmap_mode="r") if pooled.exists() else None

    def __len__(self) -> int:
        return len(self.texts)

    def __reduce__(self):
        return CachedStates, (self.folder,)  # sent to another process by name: the arrays would go with it whole

    def encode(self, prompts: Sequence[str]) -> TextStates:
        """Prompts -> states (B, T, C) in float32 and all that goes with them, `dropped` left empty.

        Raises KeyError for a text that the cache was not made for.
        """
        unknown = [p for p in prompts if p not in self._row]
        if unknown:
            raise KeyError(f"{self.folder} has no states of {unknown[0]!r}; make a cache with that text")
        rows = [self._row[p] for p in prompts]
        pooled = None if self._pooled is None else _tensor(self._pooled[rows])
        return TextStates(_tensor(self._states[rows]), torch.from_numpy(self._mask[rows]), pooled, [""] * len(rows))


def cached_states(
    encoder: TextEncoder, texts: Iterable[str], folder: str | Path, dtype: str = "float16"
) -> CachedStates:
    """The states of `texts` and of the empty prompt, from `folder`, or made now and kept there.

    The folder appears whole or not at all. It is known by the encoder's key (weights, precision, tokenizer, length) and
    by the texts: one made otherwise is refused, never silently used or overwritten.

    Args:
        texts: in any order, repeated or not.
        dtype: "float16" or "float32", as which the states are kept.

    Raises ValueError for a cache of another encoder or other texts and for a damaged one, FileExistsError where the
    folder is no cache, OSError where the disk is full, FloatingPointError where a state does not fit into float16.
    """
    if dtype not in _DTYPES:
        raise ValueError(f"states are kept as one of {', '.join(_DTYPES)}, not {dtype!r}")
    if encoder.long_prompts == "chunk":
        raise ValueError("texts in pieces have states of any length; cache those of an encoder that truncates")
    folder, known = Path(folder), sorted({"", *texts})
    about = {
        "encoder_sha256": encoder.key(),
        "texts_sha256": hashlib.sha256("\n".join(map(repr, known)).encode()).hexdigest(),
        "dtype": dtype,
    }
    if not (folder / ABOUT).is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FileExistsError(f"{folder} exists and is no cache of text states; choose another folder")
        with writing(folder):
            _write(encoder, known, folder, about)
        return CachedStates(folder)
    before = json.loads((folder / ABOUT).read_text())
    other = [name for name in about if before.get(name) != about[name]]
    if other:
        what = {"encoder_sha256": "encoder", "texts_sha256": "set of texts", "dtype": "dtype"}[other[0]]
        raise ValueError(f"{folder} holds the states of another {what}; remove it, or choose another folder")
    if what := damage(folder, resuming=True):
        raise ValueError(f"the text states in {folder} are damaged: {what}; remove it, or choose another folder")
    return CachedStates(folder)


def _write(encoder: TextEncoder, texts: list[str], folder: Path, about: dict) -> None:
    """Everything under a hidden name beside the folder, which is then renamed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    part.mkdir()
    try:
        arrays: dict[str, np.memmap] = {}
        starts = range(0, len(texts), TEXTS)
        for i in tqdm(
            starts, desc=f"text states in {folder.name}", unit_scale=TEXTS, unit=" texts", disable=len(starts) < 2
        ):
            out = encoder.encode(texts[i : i + TEXTS])
            values = {"states": out.states, "mask": out.mask, "pooled": out.pooled}
            for name, x in values.items():
                if x is None:
                    continue
                dtype = np.bool_ if name == "mask" else _DTYPES[about["dtype"]]
                rows = x.cpu().numpy() if name == "mask" else _narrow(x, dtype, texts[i])
                if name not in arrays:
                    arrays[name] = reserve(part / f"{name}.npy", dtype, (len(texts), *x.shape[1:]))
                arrays[name][i : i + len(rows)] = rows
        for array in arrays.values():
            array.flush()
        (part / "texts.json").write_text(json.dumps(texts))
        (part / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
        write_manifest(part)
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
        sync(folder.parent)
    except BaseException:  # also on Ctrl-C: leave no half-made folder behind
        shutil.rmtree(part, ignore_errors=True)
        raise


def _narrow(x: Tensor, dtype: type, first: str) -> np.ndarray:
    rows = x.float().cpu().numpy()
    if np.abs(rows).max() > np.finfo(dtype).max:
        raise FloatingPointError(
            f"text states from {first!r} on do not fit into {dtype.__name__}; keep them in float32"
        )
    return rows.astype(dtype)


def _tensor(rows: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))
