"""What every source of images with captions is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Source(Protocol):
    """A map-style data set of items {"image": uint8 (S, S, 3), "text": str}."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict: ...

    def captions(self, limit: int) -> Iterator[str]:
        """Those of the first `limit` items, without their images."""
        ...

    def fingerprint(self) -> str:
        """Equal for equal content, whatever it is called: 64 hexadecimal digits, see `fingerprint.py`."""
        ...
