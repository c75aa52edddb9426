"""Folders of images, with captions or without: the one reader of training, evaluation and prompts.

What a folder may look like:

    metadata.jsonl, .csv or .parquet   a row for each image: its file_name, relative to the folder, and its text
    NAME.txt beside NAME.png           the caption of one image
    CLASS/NAME.png                     folders named after classes, which stand for captions where there are no others
    NAME.png                           images alone, for what needs no captions

Names and captions are read and checked when a folder is opened, images when they are asked for. What is left out is
counted and named on standard error.

Shapes: S side of an image
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path, PurePosixPath

from t2i.data.fingerprint import combine, of_files, of_texts
from t2i.data.image_file import FORMATS, KINDS, OTHER_FORMATS, read_square
from t2i.data.tables import read_lines, read_table, text_of

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
SPLITS = ("train", "test", "val", "valid", "validation", "dev")  # folders that are no classes
SHOWN = 3  # names in a message


class ImageFolder:
    """A folder of images as a source: items {"image": uint8 (S, S, 3), "text": str}, and "label" where it has classes.

    Args:
        folder: see the module. One with `train/` and other splits, and no metadata of its own, is its `train/`.
        size: S, of the centre square of each image.
        image_column: of metadata: "image" is `file_name`, "NAME" is `NAME_file_name`, or a column of file names.
        caption_column: of metadata.
        captions: whether each image must have one; otherwise it is "" where there is none.

    Attributes:
        names: of the images, relative to the folder.
        texts: their captions.
        classes: their names, in the order of the alphabet; none where an image lies beside the folders.
        labels: of each image, its place in `classes`.

    Raises FileNotFoundError for a folder without images or without captions, and for images that are not there;
    ValueError, naming file and line, for captions that are none.
    """

    def __init__(
        self,
        folder: Path,
        size: int,
        image_column: str = "image",
        caption_column: str = "text",
        captions: bool = True,
    ):
        folder, files = _without_splits(folder, scan(folder))
        if unread := unread_among(files):
            note(f"{count(unread, 'image')} of {folder} in formats that are not read are left out: {some(unread)}")
        self.folder, self.size = folder, size
        self.table, self.rows, self.labels = _table_of(folder), [], []
        self.classes: tuple[str, ...] = ()
        self.names: list[str] = images_among(files)
        self.texts: list[str] = []
        if self.table is not None:
            self._read_table(files, image_column, caption_column, captions)
            return
        columns = (("--image-column", image_column, "image"), ("--caption-column", caption_column, "text"))
        for flag, given, usual in columns if captions else ():
            if given != usual:
                raise ValueError(f"{folder} has no metadata, in which {flag} {given} could be a column: leave it out")
        texts = {name for name in files if name.endswith(".txt")}
        beside = [_text_name(name) in texts for name in self.names]
        nested = [name for name in files if PurePosixPath(name).name in METADATA]
        if captions and nested:
            raise ValueError(f"{folder} has its captions in {some(nested)}; give one of these folders alone")
        if any(beside):
            self._read_texts(beside, texts, captions)
        if not captions or not any(beside):
            self._read_classes()
        if captions and not any(beside) and len(self.classes) < 2:
            raise FileNotFoundError(
                f"{folder} has no metadata.jsonl, metadata.csv or metadata.parquet with file_name and text of each "
                "image, and no NAME.txt beside them; write one of these"
            )
        if not self.names:
            raise FileNotFoundError(f"there are no pictures in {folder}; give a folder with {', '.join(KINDS)} files")
        if captions and self.classes:
            note(f"{folder} has no captions, so the names of its folders stand for them: {some(self.classes)}")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        """Raises ImageError, a ValueError, for an image that cannot be read."""
        path = os.path.join(self.folder, self.names[index])  # noqa: PTH118 - of pathlib it takes five times as long
        item = {"image": read_square(path, self.size), "text": self.texts[index]}
        return item | {"label": self.labels[index]} if self.classes else item

    def captions(self, limit: int) -> Iterator[str]:
        return islice(self.texts, limit)

    def fingerprint(self) -> str:
        return combine(self.size, of_files(self.folder, self.names), of_texts(self.texts), self.classes, self.labels)

    def column(self, name: str) -> list:
        """The values of a column of the metadata, one for each item, or of `NAME_file_name`.

        Raises KeyError, with the columns there are, where a row has none of that name.
        """
        if self.table is None:
            raise KeyError("none, for there is no metadata")
        kept, values = set(self.rows), []
        for i, (_, row) in enumerate(read_table(self.table)):
            if i in kept:
                found = next((key for key in (f"{name}_file_name", name) if key in row), None)
                if found is None:
                    raise KeyError(_columns(row))
                values.append(row[found])
        return values

    # --- the forms of a folder --------------------------------------------------------------------------------------

    def _read_table(self, files: Sequence[str], image_column: str, caption_column: str, captions: bool) -> None:
        table, known, beside = self.table, set(files), set()
        rows = read_table(table)
        if (first := next(rows, None)) is None:
            raise ValueError(f"{table} is empty; write a line with file_name and text for each image")
        name_column = _name_column(first[1], image_column, table)
        if captions and caption_column not in first[1]:
            raise _no_column(table, caption_column, first[1], "--caption-column")
        self.names, self.texts = [], []
        pairs: dict[tuple[str, str], str] = {}
        missing, other = [], []
        for i, (where, row) in enumerate(chain([first], rows)):
            name = check_name(text_of(row, name_column, where), where)
            text = text_of(row, caption_column, where) if captions or row.get(caption_column) is not None else ""
            if (before := pairs.setdefault((name, text), where)) != where:
                raise ValueError(f"{where}: {name} with this caption is there already, in {before}; remove one of them")
            beside.update(value for value in row.values() if isinstance(value, str) and value in known)
            if name not in known and not (self.folder / name).is_file():
                missing.append(name)
            elif (suffix := PurePosixPath(name).suffix.lower()) and suffix not in FORMATS:
                other.append(name)
            else:
                self.names.append(name)
                self.texts.append(text)
                self.rows.append(i)
        if missing:
            raise FileNotFoundError(
                f"{table} names {count(missing, 'file')} that {'is' if len(missing) == 1 else 'are'} not there: "
                f"{some(missing)}; put them into {self.folder} or remove their lines"
            )
        if other:
            note(f"{count(other, 'file')} of {table} in formats that are not read are left out: {some(other)}")
        if not self.names:
            raise ValueError(f"{table} names no image that can be read; give {', '.join(KINDS)} files")
        self._note_unlisted(set(files) - beside)
        self._note_empty(captions)

    def _read_texts(self, beside: Sequence[bool], files: set[str], captions: bool) -> None:
        with_text = [name for name, found in zip(self.names, beside, strict=True) if found]
        said = {n: " ".join(line for _, line in read_lines(self.folder / _text_name(n))) for n in with_text}
        if left := [name for name in self.names if name not in said]:
            left_out = " are left out" if captions else ""
            note(f"{count(left, 'image')} of {self.folder} without a .txt file beside them{left_out}: {some(left)}")
        if alone := sorted(files - {_text_name(name) for name in with_text}):
            note(f"{count(alone, 'text file')} of {self.folder} without an image are left out: {some(alone)}")
        if captions:
            self.names = with_text
        self.texts = [said.get(name, "") for name in self.names]
        self._note_empty(captions)

    def _read_classes(self) -> None:
        """Where all images lie in folders, these are the classes, and captions where there are no others."""
        of_each = [name.split("/", 1)[0] if "/" in name else "" for name in self.names]
        if of_each and all(of_each):
            self.classes = tuple(sorted(set(of_each)))
            place = {name: i for i, name in enumerate(self.classes)}
            self.labels = [place[name] for name in of_each]
        if not self.texts:
            self.texts = of_each if self.classes else [""] * len(self.names)

    def _note_unlisted(self, files: set[str]) -> None:
        listed = set(self.names)
        left = [name for name in images_among(sorted(files)) if name not in listed]
        if left:
            note(f"{count(left, 'image')} without a line in {self.table} are left out: {some(left)}")
        if len(listed) < len(self.names):
            note(f"{len(self.names) - len(listed):,} lines of {self.table} are further captions of their images")

    def _note_empty(self, captions: bool) -> None:
        empty = [name for name, text in zip(self.names, self.texts, strict=True) if not text.strip()]
        if captions and empty:
            note(f"{count(empty, 'caption')} in {self.folder} are empty, of {some(empty)}")


# --- files ----------------------------------------------------------------------------------------------------------


def scan(folder: Path) -> list[str]:
    """Names, relative to the folder and in order, of all files in it and below but hidden ones; links are followed."""
    found: list[str] = []
    seen: set[tuple[int, int]] = set()

    def walk(path: str, prefix: str) -> None:
        status = os.stat(path)  # noqa: PTH116 - of strings, thousands of times
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    walk(entry.path, f"{prefix}{entry.name}/")
                elif entry.is_file():
                    found.append(prefix + entry.name)

    walk(str(folder), "")
    return sorted(found)


def images_among(files: Sequence[str]) -> list[str]:
    """Those of the files that are images of a format that is read, by the ends of their names."""
    return [name for name in files if os.path.splitext(name)[1].lower() in FORMATS]  # noqa: PTH122


def unread_among(files: Sequence[str]) -> list[str]:
    """Those of the files that are images of other formats."""
    return [name for name in files if os.path.splitext(name)[1].lower() in OTHER_FORMATS]  # noqa: PTH122


def captions_of(folder: Path, caption_column: str = "text") -> dict[str, str]:
    """{image: caption} of a folder, by names relative to it, the first of each; empty where there are none.

    Names of folders are no captions. Raises as `ImageFolder` does.
    """
    files = scan(folder)
    texts = {name for name in files if name.endswith(".txt")}
    if _table_of(folder) is None and not any(_text_name(name) in texts for name in images_among(files)):
        return {}
    found = ImageFolder(folder, 1, caption_column=caption_column)
    return dict(reversed([*zip(found.names, found.texts, strict=True)]))


def check_name(name: str, where: str) -> str:
    """A file's name in a table, without `./`; ValueError, naming the place, unless it lies below the table's folder."""
    parts = name.split("/")
    if not name.strip() or "\0" in name:
        raise ValueError(f"{where}: {name!r} names no file; write the image's name, relative to the folder")
    if name.startswith(("/", "\\")) or name[1:2] == ":" or ".." in parts:
        raise ValueError(f"{where}: {name} lies outside of the folder; write names relative to it, without ..")
    return "/".join(part for part in parts if part not in ("", "."))


@lru_cache
def note(text: str) -> None:
    """A line on standard error, once, from the first of several processes."""
    if os.environ.get("RANK", "0") == "0":
        print(f"note: {text}", file=sys.stderr)


def _table_of(folder: Path) -> Path | None:
    tables = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(tables) > 1:
        raise ValueError(f"{folder} has {some([table.name for table in tables])}; keep one of them")
    return tables[0] if tables else None


def _without_splits(folder: Path, files: list[str]) -> tuple[Path, list[str]]:
    """`train/` and its files, where that and other splits are all there is."""
    inner = {name.split("/", 1)[0] for name in files if "/" in name}
    beside = {name for name in files if "/" not in name and os.path.splitext(name)[1].lower() in FORMATS}  # noqa: PTH122
    if "train" not in inner or not inner <= set(SPLITS) or beside or _table_of(folder) is not None:
        return folder, files
    if others := sorted(inner - {"train"}):
        note(f"{folder / 'train'} is read, and {some(others)} beside it left out")
    return folder / "train", [name.removeprefix("train/") for name in files if name.startswith("train/")]


def _name_column(row: dict, image_column: str, table: Path) -> str:
    if image_column == "image":
        return "file_name"
    for column in (f"{image_column}_file_name", image_column):
        if column in row:
            return column
    raise _no_column(table, image_column, row, "--image-column")


def _no_column(table: Path, column: str, row: dict, flag: str) -> ValueError:
    return ValueError(f"{table} has no column {column!r} but: {_columns(row)}; choose one with {flag}")


def _columns(row: dict) -> str:
    return ", ".join("image" if key == "file_name" else str(key).removesuffix("_file_name") for key in row)


def _text_name(name: str) -> str:
    return os.path.splitext(name)[0] + ".txt"  # noqa: PTH122


def count(names: Sequence[str], what: str) -> str:
    """How many, in words for a message."""
    return f"{len(names):,} {what}{'' if len(names) == 1 else 's'}"


def some(names: Sequence[str]) -> str:
    """The first few."""
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
