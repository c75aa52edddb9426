"""What identifies the content of a data set: equal for equal images and captions, whatever the folder is called.

Caches are keyed by it, and a resumed run must have the same. Times of modification are left out: a copied folder is the
same data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

WHOLE = 2**15  # bytes: files up to here are read whole, of others half of it at each end
SAMPLED = 10_000  # images of a Hugging Face data set whose bytes are read, spread evenly; sizes are read of all


def combine(*parts: object) -> str:
    """SHA-256 of numbers, texts and other fingerprints, in their order; 64 hexadecimal digits."""
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
    """SHA-256 of files' relative names, sizes, and what stands at their heads and tails.

    A changed PNG always shows: the checksum of its pixels is at its end.
    Raises FileNotFoundError where one is missing.
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
    """What is kept of one image: its bytes, or its file's."""
    if not isinstance(value, dict):
        return repr(value).encode()
    if value.get("bytes") is not None:
        return value["bytes"]
    path = Path(value["path"])
    return of_files(path.parent, [path.name]).encode()
