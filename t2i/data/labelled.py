"""Small labelled datasets: scikit-learn's digits, MNIST and others in its format, Fashion-MNIST, CIFAR-10.

Items are {"image", "text", "label"}.
Shapes: N images · S image side
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from t2i.data.base import Source
from t2i.data.fingerprint import combine
from t2i.data.image_file import square

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CLOTHES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
HUB = {  # name: dataset on the Hub, its image column, class names
    "mnist": ("ylecun/mnist", "image", DIGITS),
    "fashion": ("zalando-datasets/fashion_mnist", "image", CLOTHES),
    "cifar10": (
        "uoft-cs/cifar10",
        "img",
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
}
MNIST = {  # MD5 of the content of a label file: MD5 of the content of its image file
    "a25bea736e30d166cdddb491f175f624": "6bbc9ace898e44ae57da46a324031adb",
    "27ae3e4e09519cfbb04c329615203637": "2646ac647ad5339dbf082846283269ea",
}
FASHION = ("25c81989df183df01b3e8a0aad5dffbe", "bb300cfdad3c16e7a12a480ee83cd310")  # MD5 of its gzipped label files


class Labelled:
    """Images in memory with labels.

    Args:
        images: uint8 (N, S, S) or (N, S, S, 3).
        labels: integers (N,), indices into `names`.
        names: class names.
        size: side of the returned images; by default that of `images`.

    Raises ValueError if the shapes do not match, or a label has no name.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, names: Sequence[str], size: int | None = None):
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or labels.shape != images.shape[:1]:
            raise ValueError(f"need uint8 images and a label for each, not {images.dtype} {images.shape}")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
            raise ValueError(f"labels must lie in [0, {len(names)}), not [{labels.min()}, {labels.max()}]")
        self.images, self.labels, self.names = images, labels, tuple(names)
        self.size = size or images.shape[1]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        image, label = self.images[index], int(self.labels[index])
        if image.shape[:2] != (self.size, self.size):
            image = square(Image.fromarray(image), self.size)
        elif image.ndim == 2:
            image = np.repeat(image[:, :, None], 3, axis=2)
        return {"image": image, "text": self.names[label], "label": label}

    def captions(self, limit: int) -> Iterator[str]:
        return (self.names[label] for label in self.labels[:limit])

    def fingerprint(self) -> str:
        images, labels = np.ascontiguousarray(self.images), np.asarray(self.labels, np.int64)
        return combine(self.size, self.names, images.shape, images.tobytes(), labels.tobytes())


@dataclass(frozen=True)
class Splits:
    """Training and test images, with their properties.

    Attributes:
        channels: 1 for grey images (returned with 3 channels nevertheless), else 3.
        levels: number of levels of a pixel.
        classes: class names; empty if there are no labels.
    """

    train: Source
    test: Source
    channels: int
    levels: int
    classes: tuple[str, ...]


def is_labelled(name: str) -> bool:
    """Whether `open_labelled` can open `name`."""
    return name == "digits" or name in HUB or is_idx_folder(Path(name))


def open_labelled(name: str, size: int | None = None) -> Splits:
    """Open "digits", one of HUB, or a folder of IDX files, in two splits; see `t2i.data.splits.open_splits`."""
    if name == "digits":
        return _in_two(*_sklearn_digits(), DIGITS, 17, size, 1500)
    return _from_hub(name, size) if name in HUB else _from_idx(Path(name), size)


def is_idx_folder(folder: Path) -> bool:
    """Whether a folder has image files in MNIST's format."""
    return folder.is_dir() and any(folder.glob("*-images?idx3-ubyte*"))


def read_idx(path: Path) -> np.ndarray:
    """Read an array of unsigned bytes from a file in MNIST's format, gzipped or not.

    Raises ValueError, naming the file, if it is damaged, truncated, or of another format.
    """
    return _array(_content(path), path)


def _array(content: bytes, path: Path) -> np.ndarray:
    """The result of `read_idx`, from the content of the file at `path`."""
    if len(content) < 4 or content[:3] != b"\0\0\x08" or not 1 <= content[3] <= 4 or len(content) < 4 + 4 * content[3]:
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    axes = content[3]
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", axes, 4))
    pixels = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
    if pixels.size != int(np.prod(shape)):
        raise ValueError(f"{path} should hold {shape} bytes and holds {pixels.size}; fetch it again")
    return pixels.reshape(shape)


def _content(path: Path) -> bytes:
    """The content of a file, decompressed. Raises ValueError, naming the file, if it is damaged."""
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged or cut short ({error}); fetch it again") from None


def _published(files: Sequence[Path], contents: Sequence[bytes]) -> tuple[str, ...] | None:
    """The class names if the labels are those of MNIST or Fashion-MNIST; `files` are images and labels, in this order.

    Raises ValueError, naming the file, if MNIST's labels come with other images.
    """
    images, labels = files
    expected = MNIST.get(_md5(contents[1]))
    if expected is None:
        return CLOTHES if _md5(labels.read_bytes()) in FASHION else None
    if _md5(contents[0]) != expected:
        raise ValueError(f"{images} does not hold MNIST's images, to which {labels.name} belongs; fetch it again")
    return DIGITS


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _from_idx(folder: Path, size: int | None) -> Splits:
    parts = {}
    for part in ("train", "t10k"):
        files = [
            next(iter(sorted(folder.glob(f"{part}-{what}-ubyte*"))), None) for what in ("images?idx3", "labels?idx1")
        ]
        if all(files):
            contents = [_content(file) for file in files]
            images, labels = map(_array, contents, files)
            if images.ndim != 3 or images.shape[1] != images.shape[2] or labels.shape != images.shape[:1]:
                raise ValueError(f"{files[0].name} and {files[1].name} do not fit: {images.shape} and {labels.shape}")
            names = _published(files, contents) or tuple(f"class {k}" for k in range(int(labels.max()) + 1))
            parts[part] = images, labels, names
    if not parts:
        raise FileNotFoundError(f"{folder} has images in MNIST's format but no labels")
    if len(parts) == 1:
        images, labels, names = next(iter(parts.values()))
        return _in_two(images, labels, names, 256, size, len(labels) - len(labels) // 10)
    train, test = (Labelled(*parts[part], size) for part in ("train", "t10k"))
    return Splits(train, test, 1, 256, train.names)


def _in_two(
    images: np.ndarray, labels: np.ndarray, names: tuple[str, ...], levels: int, size: int | None, cut: int
) -> Splits:
    train, test = (Labelled(images[part], labels[part], names, size) for part in (slice(cut), slice(cut, None)))
    return Splits(train, test, 1, levels, names)


def _sklearn_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # slow to import, and the other datasets do not need it

    digits = load_digits()
    return (digits.images * 255 / 16).round().astype(np.uint8), digits.target


def _from_hub(name: str, size: int | None) -> Splits:
    from datasets import load_dataset  # slow to import

    repository, column, names = HUB[name]
    try:
        parts = [load_dataset(repository, split=split) for split in ("train", "test")]
    except (OSError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{name!r} is the Hub's {repository}, which cannot be reached ({type(error).__name__}); give a folder"
            + ("" if name == "cifar10" else " of IDX files, such as t10k-images-idx3-ubyte.gz and its labels")
        ) from None
    arrays = [(np.stack([np.asarray(i) for i in p[column]]), np.array(p["label"])) for p in parts]
    train, test = (Labelled(images, labels, names, size) for images, labels in arrays)
    return Splits(train, test, 3 if train.images.ndim == 4 else 1, 256, names)
