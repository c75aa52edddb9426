"""Sequences of strings without a Python object for each.

A list of strings takes about 60 bytes a string besides its content, and forked data workers copy it page by page, as
they count references to its objects. Here all strings are one `bytes` object and an array of offsets, as in Arrow.

Shapes: n strings
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


class Strings(Sequence[str]):
    """An immutable sequence of strings; a slice is a list."""

    def __init__(self, strings: Iterable[str] = ()):
        encoded = [string.encode("utf-8", "surrogatepass") for string in strings]  # names of files may be no UTF-8
        self._content = b"".join(encoded)
        self._starts = offsets([len(string) for string in encoded])  # (n + 1,)

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = checked(index, len(self))
        return self._content[self._starts[i] : self._starts[i + 1]].decode("utf-8", "surrogatepass")

    @property
    def nbytes(self) -> int:
        """Memory of the content and the offsets."""
        return len(self._content) + self._starts.nbytes


class StringLists(Sequence[tuple[str, ...]]):
    """An immutable sequence of lists of one or more strings.

    Attributes:
        strings: all strings, list after list.
        first: the first string of each list.
    """

    def __init__(self, lists: Iterable[tuple[str, ...]] = ()):
        lists = list(lists)
        self.strings = Strings(string for strings in lists for string in strings)
        self.first, self._starts = self.strings, None
        if len(self.strings) > len(lists):
            self.first, self._starts = Strings(strings[0] for strings in lists), offsets([len(x) for x in lists])

    def __len__(self) -> int:
        return len(self.first)

    @overload
    def __getitem__(self, index: int) -> tuple[str, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[str, ...]]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = checked(index, len(self))
        if self._starts is None:
            return (self.strings[i],)
        return tuple(self.strings[int(self._starts[i]) : int(self._starts[i + 1])])


def offsets(lengths: Sequence[int]) -> np.ndarray:
    """The start of each of n pieces in their concatenation, and its end: (n + 1,), of 4 bytes each if they suffice."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts.astype(np.uint32) if starts[-1] < 2**32 else starts


def checked(index: int, length: int) -> int:
    """An index counted from the start; IndexError if it is out of range."""
    if not -length <= index < length:
        raise IndexError(f"index {index} is out of range for {length} items")
    return index % length
