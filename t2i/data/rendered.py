"""Images rendered ahead into one array: what `t2i data toybox --layout array` writes, as a source of data.

Rendering costs more than reading: a GPU would wait for it. The array stays on the disk, and in the system's cache.

Shapes: N images · S image side
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

ARRAY, CAPTIONS = "images.npy", "metadata.jsonl"


def is_rendered(folder: Path) -> bool:
    """Whether there is an array of images with captions."""
    return (folder / ARRAY).is_file() and (folder / CAPTIONS).is_file()


class Rendered:
    """Items {"image": uint8 (S, S, 3), "text": str} of a folder with images.npy and metadata.jsonl.

    Raises ValueError for images of another side than `size`, and where there is not a caption for each.
    """

    def __init__(self, folder: Path, size: int):
        self.folder, self.size = folder, size
        self.images = np.load(folder / ARRAY, mmap_mode="r")
        lines = (folder / CAPTIONS).read_text(encoding="utf-8").splitlines()
        self.texts = [json.loads(line)["text"] for line in lines]
        if self.images.shape != (len(self.texts), size, size, 3) or self.images.dtype != np.uint8:
            raise ValueError(
                f"{folder / ARRAY} holds {self.images.dtype} {self.images.shape}, not {len(self.texts)} images of "
                f"{size}×{size} pixels, as {CAPTIONS} has captions: render it anew with t2i data toybox --layout array "
                f"--size {size}"
            )

    def __len__(self) -> int:
        return len(self.texts)

    def __reduce__(self):
        return Rendered, (self.folder, self.size)  # sent to another process by name: the array would go with it whole

    def __getitem__(self, index: int) -> dict:
        return {"image": np.array(self.images[index]), "text": self.texts[index]}

    def captions(self, limit: int) -> Iterator[str]:
        """The captions of the first `limit` images."""
        return islice(self.texts, limit)
