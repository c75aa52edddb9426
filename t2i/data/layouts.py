"""Label maps of images: those of toybox, or files named in a dataset.

Shapes: H, W label map · S image side
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from t2i.data.base import Source
from t2i.data.fingerprint import combine, of_dataset, of_files
from t2i.data.folder import ImageFolder, check_name
from t2i.data.image_file import name_of, open_image
from t2i.data.sources import ImageDataset
from t2i.data.toybox.dataset import SceneDataset
from t2i.notes import are, count, some


def read_labels(image: Image.Image, labels: Sequence[str] | int) -> np.ndarray:
    """An image whose pixels are labels -> uint8 (H, W).

    Args:
        image: of mode P, with any palette, or L.
        labels: names of the labels, or their number.

    Raises ValueError for an image of another mode, and for labels out of range.
    """
    name = name_of(image, "the map")
    if image.mode not in ("P", "L"):
        raise ValueError(
            f"{name} must be of mode P (with a palette) or L, not {image.mode}, for a map's pixels are labels; "
            "`t2i data toybox --layouts` writes some"
        )
    found, num = np.array(image), labels if isinstance(labels, int) else len(labels)
    if (highest := int(found.max())) >= num:
        names = "" if isinstance(labels, int) else f": {', '.join(labels)}"
        raise ValueError(f"{name} holds label {highest}, but there are only {num}, from 0 on{names}")
    return found


class WithLayouts:
    """A source whose items also have a label map, "layout": uint8 (S, S).

    Args:
        source: toybox, whose scenes have label maps; or a folder or dataset with a column of them.
        column: column of the metadata or dataset with label maps of the same size as the images, cropped and resized
            like them; or with names of their files in `folder`.
        labels: names of the labels, starting with label 0.
        folder: folder that file names are relative to.

    Raises ValueError if there is no such column, and for toybox with labels other than its own.
    """

    def __init__(self, source: Source, column: str, labels: Sequence[str], folder: Path | None = None):
        self.source, self.column, self.labels, self.folder = source, column, tuple(labels), folder
        if isinstance(source, SceneDataset):
            if self.labels != source.labels:
                raise ValueError("toybox has labels of its own: leave --labels as they are")
            return
        if isinstance(source, ImageFolder):
            self.folder, self.maps = source.folder, _maps_of(source, column)
        elif isinstance(source, ImageDataset) and column in source.dataset.column_names:
            self.maps = source.dataset.select_columns([column])
        else:
            known = ", ".join(getattr(getattr(source, "dataset", None), "column_names", ["none"]))
            raise ValueError(
                f"the data have no column {column!r} of maps but: {known}; name one with --layout-column, or write "
                f'"{column}_file_name": the name of a PNG file, to each line of metadata.jsonl'
            )

    def __len__(self) -> int:
        return len(self.source)

    def captions(self, limit: int) -> Iterator[str]:
        return self.source.captions(limit)

    def fingerprint(self) -> str:
        found = ""
        if isinstance(self.source, ImageFolder):
            found = of_files(self.source.folder, self.maps)
        elif isinstance(self.source, ImageDataset):
            found = of_dataset(self.maps, self.column)
        return combine(self.source.fingerprint(), self.labels, found)

    def __getitem__(self, index: int) -> dict:
        item = self.source[index]
        side = len(item["image"])
        layout = item["scene"].layout(side) if isinstance(self.source, SceneDataset) else self._read(int(index), side)
        return item | {"layout": layout}

    def _read(self, index: int, side: int) -> np.ndarray:
        given = self.maps[index] if isinstance(self.source, ImageFolder) else self.maps[index][self.column]
        if isinstance(given, str):
            given = open_image((self.folder or Path()) / given)
        if not isinstance(given, Image.Image):
            raise ValueError(f"the map of image {index} in column {self.column!r} is not an image but {given!r}")
        try:
            return read_labels(square_map(given, side), self.labels)
        except ValueError as error:
            name = f"{self.maps[index]}, of " if isinstance(self.source, ImageFolder) else ""
            raise ValueError(f"{name}image {index}: {error}") from None


def _maps_of(source: ImageFolder, column: str) -> list[str]:
    """File names of the label maps; raises ValueError if they are missing."""
    try:
        found = source.column(column)
    except KeyError as error:
        raise ValueError(
            f"{source.table} has no column {column!r} of maps but: {error.args[0]}; name one with --layout-column, or "
            f'write "{column}_file_name": the name of a PNG file, to each line'
        ) from None
    names = [check_name(name, f"{source.table}") if isinstance(name, str) else "" for name in found]
    if missing := [name for name in names if not (source.folder / name).is_file()]:
        many = f"{count(missing, 'map')} that {are(missing)} not there"
        raise FileNotFoundError(f"{source.table} names {many}: {some(missing)}; put them into {source.folder}")
    return names


def square_map(image: Image.Image, size: int) -> Image.Image:
    """Centre-crop and resize as for images, but without interpolating between labels."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.NEAREST, box=box)
