"""The interface of all sources of captioned images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Source(Protocol):
    """A map-style dataset of items {"image": uint8 (S, S, 3), "text": str}."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict: ...

    def captions(self, limit: int) -> Iterator[str]:
        """The captions of the first `limit` items, without loading their images."""
        ...

    def fingerprint(self) -> str:
        """A hash of the content, independent of its name: 64 hexadecimal digits, see `fingerprint.py`."""
        ...
