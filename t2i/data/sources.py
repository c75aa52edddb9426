"""Pictures with captions, wherever they come from: toybox, a folder, or a data set of the Hub.

Every source is a map-style data set whose items are `{"image": uint8 array (S, S, 3), "text": str}`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from t2i.data.fingerprint import combine, of_dataset
from t2i.data.rendered import Rendered, is_rendered
from t2i.data.toybox import Toybox

TOYBOX_ITEMS = 1_000_000  # items cost nothing until they are drawn
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # of an image folder: a caption for each picture


class Source(Protocol):
    """Items {"image": uint8 (S, S, 3), "text": str}, and their captions alone, which cost no picture."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict: ...
    def captions(self, limit: int) -> Iterator[str]: ...

    def fingerprint(self) -> str:
        """Equal for equal content, whatever it is called: 64 hexadecimal digits, see `fingerprint.py`."""
        ...


class Pictures:
    """Images and captions of a Hugging Face data set, cropped to the centre square and resized.

    Args:
        dataset: a `datasets.Dataset` with an image and a text column.
        size: side S of the pictures handed out.

    Raises ValueError, listing the columns there are, when one of the two is missing.
    """

    def __init__(self, dataset, size: int, image_column: str = "image", caption_column: str = "text"):
        for column, flag in ((image_column, "--image-column"), (caption_column, "--caption-column")):
            if column not in dataset.column_names:
                known = ", ".join(dataset.column_names)
                raise ValueError(f"the data have no column {column!r} but: {known}; choose one with {flag}")
        self.dataset, self.size = dataset, size
        self.image_column, self.caption_column = image_column, caption_column

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        row = self.dataset[int(index)]
        text = self._caption(row[self.caption_column], index)
        return {"image": square(row[self.image_column], self.size), "text": text}

    def captions(self, limit: int) -> Iterator[str]:
        texts = islice(self.dataset[self.caption_column], limit)
        return (self._caption(text, i) for i, text in enumerate(texts))

    def fingerprint(self) -> str:
        return combine(self.size, of_dataset(self.dataset, self.image_column, self.caption_column))

    def _caption(self, text: object, index: int) -> str:
        if not isinstance(text, str):
            raise ValueError(
                f"the caption of picture {index} in column {self.caption_column!r} is no text but {text!r}; "
                "drop that picture, or choose another column with --caption-column"
            )
        return text


def square(image: Image.Image, size: int) -> np.ndarray:
    """Centre crop and resize to uint8 (size, size, 3); transparent pixels become white."""
    if image.mode in ("RGBA", "LA", "P", "PA"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = image.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.array(image.resize((size, size), Image.Resampling.LANCZOS, box=box))


def open_source(
    name: str, size: int, image_column: str = "image", caption_column: str = "text", seed: int = 0
) -> Source:
    """The source called `name`: "toybox" (its training split), an image folder with metadata.jsonl, or a Hub data set.

    Also a folder of images rendered into one array, see `rendered.py`, and the training part of "digits", "mnist",
    "fashion", "cifar10" and of a folder of IDX files, see `digits.py`.

    Raises FileNotFoundError or ValueError with the remedy when it is none of them.
    """
    if name == "toybox":
        return Toybox("train", size=size, seed=seed, num=TOYBOX_ITEMS)
    from t2i.data import digits  # it needs this module

    if name == "digits" or name in digits.HUB or digits.is_idx_folder(Path(name)):
        return digits.open_splits(name, size).train
    folder = Path(name)
    if is_rendered(folder):
        return Rendered(folder, size)
    from datasets import load_dataset  # slow to import, and toybox does without

    if folder.is_dir():
        if not any((folder / name).exists() for name in METADATA):
            raise FileNotFoundError(f"{folder} has no metadata.jsonl with a line {{file_name, text}} for each picture")
        dataset = load_dataset("imagefolder", data_dir=str(folder), split="train")
    elif folder.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise FileNotFoundError(f"there is no folder {name!r}; give 'toybox', an image folder or a Hub data set")
    else:
        dataset = load_dataset(name, split="train")
    return Pictures(dataset, size, image_column, caption_column)
