"""Hashes of the content of a dataset: equal for equal images and captions, independent of the folder's name.

They are the keys of caches, and are compared when a run is resumed. Modification times are not included: a copied
folder is the same data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

WHOLE = 2**15  # bytes: smaller files are read whole, of others half of this at each end
SAMPLED = 10_000  # evenly spaced images of a Hugging Face dataset whose bytes are hashed; of all others, only the size


def combine(*parts: object) -> str:
    """SHA-256 of a sequence of numbers, texts and other fingerprints, as 64 hexadecimal digits."""
    found = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else repr(part).encode("utf-8", "surrogatepass")
        found.update(len(content).to_bytes(8, "big") + content)
    return found.hexdigest()


def of_texts(texts: Iterable[str]) -> str:
    """SHA-256 of a sequence of texts."""
    found = hashlib.sha256()
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        found.update(len(content).to_bytes(8, "big") + content)
    return found.hexdigest()


def of_files(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 of the relative names, sizes, first and last bytes of files.

    A changed PNG is always detected: the checksum of its pixels is at its end.
    Raises FileNotFoundError if a file is missing.
    """
    found = hashlib.sha256()
    for name in names:
        with (folder / name).open("rb", buffering=0) as file:
            size = file.seek(0, 2)
            file.seek(0)
            content = file.read(WHOLE if size <= WHOLE else WHOLE // 2)
            if size > WHOLE:
                file.seek(-WHOLE // 2, 2)
                content += file.read()
        found.update(f"{name}\0{size}\0".encode("utf-8", "surrogatepass") + content)
    return found.hexdigest()


def of_dataset(dataset, image_column: str, *columns: str) -> str:
    """SHA-256 of a `datasets.Dataset`: all values of `columns`, the size of every image, the bytes of SAMPLED ones."""
    found, step = hashlib.sha256(str(len(dataset)).encode()), max(1, len(dataset) // SAMPLED)
    start = 0
    for batch in dataset.with_format("arrow").select_columns([image_column, *columns]).iter(1000):
        for column in columns:
            found.update(of_texts(map(repr, batch[column].to_pylist())).encode())
        images = batch[image_column]
        for i, image in enumerate(images):
            if (start + i) % step == 0:
                found.update(_image_bytes(image.as_py()))
        start += len(images)
    return found.hexdigest()


def _image_bytes(value: object) -> bytes:
    """The encoded bytes of an image, from the dataset or from its file."""
    if not isinstance(value, dict):
        return repr(value).encode()
    if value.get("bytes") is not None:
        return value["bytes"]
    path = Path(value["path"])
    return of_files(path.parent, [path.name]).encode()
