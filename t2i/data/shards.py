"""WebDataset shards as a source: captioned images in tar files, local or at any URL that fsspec opens.

An image NAME.jpg (or of another format) has its caption in NAME.txt, or in a column of the object in NAME.json, in the
same shard. As in WebDataset, NAME ends at the first dot of the file's name and all the rest is the extension, so that
1.seg.png is no image but a member of another kind, "seg.png".

Items are read at random: an index has the position of every member. It is made in one pass over the tar headers, kept
in the user's cache under a key of the shards' names, sizes and times of change, and memory-mapped, so that memory does
not grow with the number of images.

Shapes: N images · K shards · S image side
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from accelerate import PartialState
from tqdm import tqdm

from t2i.data.base import ItemError
from t2i.data.fingerprint import WHOLE, combine
from t2i.data.folder import check_name
from t2i.data.image_file import FORMATS, OTHER_FORMATS
from t2i.data.image_source import NO_AUGMENTATION, Augmentation, ImageSource, check_captions
from t2i.data.shard_names import described
from t2i.data.tables import caption_of, texts_of
from t2i.data.urls import RemoteFile, check_parts, file_system, is_url, tried
from t2i.disk_cache import open_or_fill
from t2i.files import read_json, write_json
from t2i.folders import user_cache
from t2i.notes import note

VERSION = 2  # of the index: increment it when the code changes its content
MEMBERS, ABOUT = "members.bin", "shards.json"
IMAGE, TEXT, JSON = range(3)  # the members of a sample, in the index
AT_ONCE = 1000  # number of captions that are requested together, if they are at URLs
OPEN_FILES = 256  # maximum number of shards that a process keeps open
HEADER = 512  # bytes of the tar header, which precedes a member's content
OF_CONTENT = (  # what file systems say that changes with a file; HTTP's `ukey` is of the URL alone
    *("ETag", "etag", "Content-MD5", "content_md5", "md5Hash", "Digest", "generation", "VersionId"),
    *("Last-Modified", "LastModified", "last_modified", "mtime", "updated"),
)
END = 64  # bytes at the end of each image that the fingerprint covers: a PNG has its checksum there


class Shards(ImageSource):
    """Images and captions in tar files; `open_shards` makes the index.

    Args:
        shards: the K paths or URLs.
        index: folder of the index: `members.bin`, int64 (N, 3, 2), offset and size of each sample's image, text and
            JSON, with size −1 for none; and `shards.json`.
        size: side S of the images.
        caption_column: name of the captions in JSON members. NAME.txt, if there is one, takes precedence over "text".
        captions: whether every image must have a caption; otherwise missing captions are "".
    """

    def __init__(
        self,
        shards: Sequence[str],
        index: Path,
        size: int,
        caption_column: str = "text",
        captions: bool = True,
        augmentation: Augmentation = NO_AUGMENTATION,
    ):
        self.shards, self.index, self.size, self.augmentation = tuple(shards), index, size, augmentation
        self.caption_column, self.captions_required = caption_column, captions
        self._about = read_json(index / ABOUT, "starts", "sha256", "captions")
        self._starts = np.array(self._about["starts"], np.int64)  # number of each shard's first image, and N
        self._members = np.memmap(index / MEMBERS, np.int64, "r", shape=(len(self), 3, 2))
        self._fetched: dict[tuple[str, int], bytes] = {}  # by shard and offset, what was fetched from URLs last
        self._files: dict[str, BinaryIO] = {}
        self._pid = os.getpid()

    def __reduce__(self):
        arguments = (self.shards, self.index, self.size, self.caption_column, self.captions_required)
        return Shards, (*arguments, self.augmentation)  # reopened: pickling the index would copy it

    def __len__(self) -> int:
        return int(self._starts[-1])

    def file(self, index: int) -> tuple[bytes, str]:
        shard, members = self._find(index)
        offset, size = members[IMAGE].tolist()
        content = self._read(shard, offset - HEADER, HEADER + size)
        return content[HEADER:], f"{shard}/{_name_in(content)}"

    def texts_of(self, index: int) -> tuple[str, ...]:
        shard, members = self._find(index)
        kind = self._holds_caption(members)
        if kind == TEXT:
            return (caption_of(self._text(shard, *members[TEXT].tolist())),)
        if kind == JSON:
            try:
                row = json.loads(self._text(shard, *members[JSON].tolist()))
                if not isinstance(row, dict):
                    raise ValueError("it is no object")
                if self.captions_required or row.get(self.caption_column) is not None:
                    return texts_of(row, self.caption_column, "its JSON")
            except (ValueError, RecursionError) as error:
                raise ItemError(f"{self._name(index)} has no caption: {error}") from None
        if self.captions_required:
            raise ItemError(f"{self._name(index)} has no caption; write a .txt or .json file of its name")
        return ("",)

    def caption_lists(self, limit: int) -> Iterator[tuple[str, ...]]:
        limit = min(limit, len(self))
        for start in range(0, limit, AT_ONCE):
            indices = range(start, min(start + AT_ONCE, limit))
            self._fetch(indices, images=False)
            yield from map(self.valid_texts, indices)

    def fingerprint(self) -> str:
        """Fingerprint of names, sizes and captions, and of the last END bytes of every image."""
        return combine("shards", self.size, self._about["sha256"], self.caption_column)

    def _record(self, index: int) -> tuple[bytes, str, tuple[str, ...]]:
        self._fetch([index])
        return *self.file(index), self.texts_of(index)

    def _find(self, index: int) -> tuple[str, np.ndarray]:
        """The shard of a sample, and offset and size of its members: int64 (3, 2)."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} images")
        return self.shards[int(np.searchsorted(self._starts, index, "right")) - 1], self._members[index]

    def _holds_caption(self, members: np.ndarray) -> int | None:
        """Which of the members (3, 2) of a sample holds its caption, if any."""
        if self.caption_column == "text" and members[TEXT, 1] >= 0:
            return TEXT
        return JSON if members[JSON, 1] >= 0 else None

    def _name(self, index: int) -> str:
        shard, members = self._find(index)
        return f"{shard}/{_name_in(self._read(shard, int(members[IMAGE, 0]) - HEADER, HEADER))}"

    def _text(self, shard: str, offset: int, size: int) -> str:
        content = self._read(shard, offset - HEADER, HEADER + size)
        try:
            return content[HEADER:].decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ItemError(f"{shard}/{_name_in(content)} is not UTF-8 text; save it as UTF-8") from None

    def _fetch(self, indices: Sequence[int], images: bool = True) -> None:
        """Request captions, and perhaps images, that are at URLs together, as each request takes long."""
        if not is_url(self.shards[0]):
            return
        wanted = []
        for index in indices:
            shard, members = self._find(index)
            kinds = (self._holds_caption(members), IMAGE if images else None)
            wanted += [(shard, *members[kind].tolist()) for kind in kinds if kind is not None]
        system = file_system(self.shards[0])[0]  # each process has its own instance, which fsspec keeps
        keys = [(shard, offset - HEADER) for shard, offset, _ in wanted]
        paths, starts = [file_system(shard)[1] for shard, _ in keys], [start for _, start in keys]
        ends = [offset + size for _, offset, size in wanted]
        found = tried(self.shards[0], lambda: system.cat_ranges(paths, starts, ends, on_error="return"))
        # What failed is tried again, alone, when it is read.
        self._fetched = {key: got for key, got in zip(keys, found, strict=True) if not isinstance(got, Exception)}

    def _read(self, shard: str, offset: int, size: int) -> bytes:
        if (shard, offset) in self._fetched:
            content = self._fetched[shard, offset][:size]
        elif is_url(shard):
            system, path = file_system(shard)
            content = tried(shard, lambda: system.cat_file(path, offset, offset + size))
        else:
            file = self._file(shard)
            file.seek(offset)
            content = file.read(size)
        if len(content) != size:
            raise ValueError(f"{shard} has changed or is cut short; start again, or fetch it again")
        return content

    def _file(self, shard: str) -> BinaryIO:
        if self._pid != os.getpid():  # forked: the parent's files share their positions with this process
            self._files, self._pid = {}, os.getpid()
        if (file := self._files.get(shard)) is None:
            if len(self._files) == OPEN_FILES:
                self._files.pop(next(iter(self._files))).close()
            file = self._files[shard] = Path(shard).open("rb")  # noqa: SIM115 - kept open
        return file


def open_shards(
    shards: Sequence[str],
    size: int,
    image_column: str = "image",
    caption_column: str = "text",
    captions: bool = True,
    augmentation: Augmentation = NO_AUGMENTATION,
) -> Shards:
    """Open shards; the first time, this makes their index.

    Raises FileNotFoundError for missing shards and for shards without images or captions; ValueError for damaged or
    compressed ones, for members that are links or lie outside of the current folder, and for a wrong caption column;
    OSError for URLs that cannot be read.
    """
    if image_column != "image":
        raise ValueError(f"shards have no image columns: leave out --image-column {image_column}")
    states = [_state_of(shard) for shard in shards]
    if is_url(shards[0]) and states[0][1] not in (0, 1):  # bytes
        check_parts(shards[0])
    key = {"version": VERSION, "shards_sha256": combine(states)}
    index = user_cache() / "shards" / combine(key)[:16]
    open_or_fill(index, key, partial(_fill, shards), "shard indices", "give other shards")
    source, where = Shards(shards, index, size, caption_column, captions, augmentation), described(shards)
    about = read_json(index / ABOUT)
    if unread := about["unread"]:
        note(f"{unread:,} images of {where} in formats that are not read are left out")
    with_caption = about["captions"]["any" if caption_column == "text" else "json"]
    if captions and not with_caption:
        needed = "a .txt or .json" if caption_column == "text" else "a .json"
        raise FileNotFoundError(f"no image of {where} has {needed} file of its name with a caption; write these")
    if captions and (missing := len(source) - with_caption):
        note(f"{missing:,} of {len(source):,} images of {where} have no caption")
    check_captions(source)
    return source


# --- the index ------------------------------------------------------------------------------------------------------


def _state_of(shard: str) -> tuple:
    """What changes with the content of a shard: its full name, its size and when it was changed."""
    try:
        if is_url(shard):
            system, path = file_system(shard)
            info, ukey = tried(shard, lambda: (system.info(path), system.ukey(path)))
            return shard, info["size"], ukey, *(f"{name}: {info[name]}" for name in OF_CONTENT if info.get(name))
        path = Path(shard).resolve()
        found = path.stat()
        return str(path), found.st_size, found.st_mtime_ns
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no shard {shard}; give shards that exist") from None


def _fill(shards: Sequence[str], part: Path, state: PartialState) -> None:
    if not state.is_main_process:
        return
    started, starts, digest, counts = time.perf_counter(), [0], hashlib.sha256(), Counter()
    with (part / MEMBERS).open("wb") as file:
        for shard in tqdm(shards, desc="index", unit=" shards", disable=len(shards) < 2):
            members = _members_of(shard, digest, counts)
            file.write(members.tobytes())
            starts.append(starts[-1] + len(members))
            there = members[:, :, 1] >= 0
            counts["json"] += int(there[:, JSON].sum())
            counts["any"] += int(there[:, [TEXT, JSON]].any(1).sum())
    if not starts[-1]:
        remedy = "give shards with NAME.jpg or NAME.png, where NAME has no dots"
        raise FileNotFoundError(f"there are no images in {described(shards)}; {remedy}")
    captions = {name: counts[name] for name in ("json", "any")}
    about = {"starts": starts, "sha256": digest.hexdigest(), "captions": captions, "unread": counts["unread"]}
    write_json(part / ABOUT, about)
    took = time.perf_counter() - started
    note(f"index of {starts[-1]:,} images in {described(shards)}: made in {took:.1f} s")


def _members_of(shard: str, digest: hashlib._Hash, counts: Counter) -> np.ndarray:
    """Offset and size of the image, text and JSON of each sample, int64 (n, 3, 2), with size −1 for none.

    Args:
        digest: updated with names and sizes of the members, the texts, and the last bytes of the images.
        counts: "unread" is incremented by the number of images in formats that are not read.
    """
    images: list[tuple[str, int, int]] = []
    texts: dict[str, dict[str, tuple[int, int]]] = {".txt": {}, ".json": {}}
    for file, member in _headers(shard):
        folder, _, file_name = check_name(member.name, shard).rpartition("/")
        base, _, extension = file_name.partition(".")
        name, suffix = f"{folder}/{base}", f".{extension.lower()}"
        offset, size = member.offset_data, member.size
        if suffix in FORMATS:
            images.append((name, offset, size))
            covered = min(size, END)
        elif suffix in texts:
            texts[suffix][name] = offset, size
            covered = min(size, WHOLE)
        else:
            counts["unread"] += suffix in OTHER_FORMATS
            continue
        file.seek(offset + size - covered if suffix in FORMATS else offset)
        digest.update(f"{member.name}\0{size}\0".encode("utf-8", "surrogatepass") + file.read(covered))
    none = (0, -1)
    rows = [((at, n), texts[".txt"].get(name, none), texts[".json"].get(name, none)) for name, at, n in images]
    return np.array(rows, np.int64).reshape(-1, 3, 2)


def _headers(shard: str) -> Iterator[tuple[BinaryIO | RemoteFile, tarfile.TarInfo]]:
    """The regular files in a shard, hidden ones excepted, each with the open shard."""
    damaged = f"{shard} is damaged, cut short, compressed or no tar file"
    remedy = "fetch it again, or decompress it: images are read at random"
    with RemoteFile(shard) if is_url(shard) else Path(shard).open("rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # tarfile keeps them all
                    if member.isdir() or Path(member.name).name.startswith("."):
                        continue
                    if not member.isreg() or member.issparse():
                        raise ValueError(f"{shard} holds {member.name}, which is a link or no plain file; remove it")
                    yield file, member
                file.seek(tar.offset)
                if file.read(HEADER) != bytes(HEADER):  # tarfile takes any other block for the end
                    raise tarfile.ReadError("there is no end mark")
        except tarfile.TarError as error:
            raise ValueError(f"{damaged} ({error}); {remedy}") from None


def _name_in(header: bytes) -> str:
    """The name in a tar header, cut off at 100 bytes."""
    return header[:100].split(b"\0")[0].decode("utf-8", "replace")
