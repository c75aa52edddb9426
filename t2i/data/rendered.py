"""Pre-rendered images in one array, as written by `t2i data toybox --file-format array`, as a source.

Rendering on the fly is slower than reading and could stall a GPU. The array is memory-mapped.

Shapes: N images · S image side
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from t2i.data.fingerprint import SAMPLED, combine, of_texts
from t2i.data.tables import read_table, text_of
from t2i.strings import Strings

ARRAY, CAPTIONS = "images.npy", "metadata.jsonl"


def is_rendered(folder: Path) -> bool:
    """Whether a folder holds an array of images with captions."""
    return (folder / ARRAY).is_file() and (folder / CAPTIONS).is_file()


class Rendered:
    """Items {"image": uint8 (S, S, 3), "text": str} of a folder with images.npy and metadata.jsonl.

    Raises ValueError if the side of the images is not `size`, or there is not one caption per image.
    """

    def __init__(self, folder: Path, size: int):
        self.folder, self.size = folder, size
        try:
            self.images = np.load(folder / ARRAY, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{folder / ARRAY} is damaged or cut short ({error}); render it anew") from error
        self.texts = Strings(text_of(row, "text", where) for where, row in read_table(folder / CAPTIONS))
        if self.images.shape != (len(self.texts), size, size, 3) or self.images.dtype != np.uint8:
            raise ValueError(
                f"{folder / ARRAY} holds {self.images.dtype} {self.images.shape}, not {len(self.texts)} images of "
                f"{size}×{size} pixels, as {CAPTIONS} has captions: render it anew with t2i data --file-format array "
                f"--size {size}"
            )

    def __len__(self) -> int:
        return len(self.texts)

    def __reduce__(self):
        return Rendered, (self.folder, self.size)  # reopened in another process: pickling would copy the whole array

    def __getitem__(self, index: int) -> dict:
        return {"image": np.array(self.images[index]), "text": self.texts[index]}

    def captions(self, limit: int) -> Iterator[str]:
        """The captions of the first `limit` images."""
        return islice(self.texts, limit)

    def fingerprint(self) -> str:
        """Fingerprint of all captions and of SAMPLED images."""
        sample = np.ascontiguousarray(self.images[:: max(1, len(self) // SAMPLED)])
        return combine(self.size, len(self), of_texts(self.texts), sample.tobytes())
