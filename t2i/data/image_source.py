"""Base class of sources of image files: folders, Hugging Face datasets and shards.

Shapes: S image side · h × w training image
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from t2i.data.base import ItemError, captioned
from t2i.data.image_file import cropped, read_cropped

if TYPE_CHECKING:
    from t2i.data.buckets import Buckets, Shape

Encoded = str | bytes | Image.Image  # the path of an image file, its content, or an image already decoded

CAPTIONS_CHECKED = 100  # captions that are looked at when data are opened


@dataclass(frozen=True)
class Augmentation:
    """Random augmentation of training images.

    Args:
        random_crop: crop at a random position along the side that is cut, instead of the centre.
        random_flip: mirror half of the images horizontally.
    """

    random_crop: bool = False
    random_flip: bool = False


NO_AUGMENTATION = Augmentation()


class ImageSource:
    """Items {"image": uint8 (S, S, 3), "text": str}, and "texts" of images with several captions.

    Subclasses set `size` (S) and `augmentation`, and define `__len__`, `file`, `texts_of` and `fingerprint`.

    Attributes:
        buckets: the aspect-ratio bucket of each image, for training in batches of one bucket; None: all are squares.
    """

    reads_files = True
    size: int
    augmentation: Augmentation = NO_AUGMENTATION
    buckets: Buckets | None = None

    def __len__(self) -> int:
        raise NotImplementedError

    def file(self, index: int) -> tuple[Encoded, str]:
        """The encoded image, and its name for messages."""
        raise NotImplementedError

    def texts_of(self, index: int) -> tuple[str, ...]:
        """The captions of an image, at least one; "" if it needs none. Raises ItemError if it has no valid one."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict:
        """The centre square. Raises ItemError, a ValueError, for an image that cannot be read."""
        return self._item(int(index), position=0.5)

    def sample(self, index: int, rng: np.random.Generator, shape: Shape | None = None) -> dict:
        """The item with random augmentation, of the shape (h, w), by default square; raises as `__getitem__` does."""
        item = self._item(int(index), rng.random() if self.augmentation.random_crop else 0.5, shape)
        if self.augmentation.random_flip and rng.random() < 0.5:
            item["image"] = np.ascontiguousarray(item["image"][:, ::-1])
        return item

    def captions(self, limit: int) -> Iterator[str]:
        return (texts[0] for texts in self.caption_lists(limit))

    def caption_lists(self, limit: int) -> Iterator[tuple[str, ...]]:
        """All captions of each of the first `limit` images; "" for one without a valid caption."""
        return (self.valid_texts(i) for i in range(min(limit, len(self))))

    def valid_texts(self, index: int) -> tuple[str, ...]:
        """The captions of an image, or "" if it has no valid one."""
        return texts_or_none(partial(self.texts_of, index))

    def _record(self, index: int) -> tuple[Encoded, str, tuple[str, ...]]:
        """The encoded image, its name for messages, and its captions."""
        return *self.file(index), self.texts_of(index)

    def _item(self, index: int, position: float, shape: Shape | None = None) -> dict:
        shape = shape or (self.size, self.size)
        file, name, texts = self._record(index)
        if isinstance(file, Image.Image):
            image = cropped(file, shape, position)
        else:
            image = read_cropped(file, shape, name, position)
        return captioned({"image": image}, texts)


def texts_or_none(read: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    """The captions that `read` returns, or "" if it raises an ItemError."""
    try:
        return read()
    except ItemError:
        return ("",)


def check_captions(source: ImageSource) -> None:
    """Raise the first ItemError if, as with a wrong column, none of the first images has a valid caption."""
    first: ItemError | None = None
    for index in range(min(CAPTIONS_CHECKED, len(source))):
        try:
            source.texts_of(index)
        except ItemError as error:
            first = first or error
        else:
            return
    if first is not None:
        raise first
