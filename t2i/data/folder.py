"""Folders of images with or without captions, for training, evaluation and prompts.

Supported layouts:

    metadata.jsonl, .csv or .parquet   one row per image: its file_name, relative to the folder, and its text
    NAME.txt next to NAME.png          the caption of one image
    CLASS/NAME.png                     folders named after classes, which serve as captions if there are no others
    NAME.png                           images only, where captions are not needed

Names and captions are read and checked when a folder is opened, images when they are accessed. Files that are skipped
are counted and named on standard error.

Shapes: S side of an image
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from t2i.data.fingerprint import combine, of_files, of_texts
from t2i.data.image_file import FORMATS, KINDS, OTHER_FORMATS
from t2i.data.image_source import NO_AUGMENTATION, Augmentation, ImageSource
from t2i.data.tables import OTHER_TABLES, TABLES, caption_of, read_table, text_of, texts_of
from t2i.files import read_text
from t2i.notes import are, count, note, some
from t2i.strings import StringLists, Strings

if TYPE_CHECKING:
    from t2i.data.buckets import Shape

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # case-insensitive
SPLITS = ("train", "test", "val", "valid", "validation", "dev")  # folders that are splits, not classes
_LIKE_TABLES = (*TABLES, *OTHER_TABLES)


class ImageFolder(ImageSource):
    """A folder of images as a source: items {"image": uint8 (S, S, 3), "text": str}, and "label" if it has classes.

    Names and captions are kept in arrays: lists of a million of them would be copied by every data worker.

    Args:
        folder: see the module's docstring. In a folder of only `train/` and other splits, `train/` is used.
        size: side S of the images, centre-cropped and resized.
        image_column: metadata column: "image" is `file_name`, "NAME" is `NAME_file_name` or a column of file names.
        caption_column: metadata column with the captions.
        captions: whether every image must have a caption; otherwise missing captions are "".

    Attributes:
        names: file names of the images, relative to the folder.
        texts: the first caption of each image.
        classes: class names in alphabetical order; empty if an image is outside of the class folders.
        labels: index of each image's class in `classes`.

    Raises FileNotFoundError for a folder without images or without captions, and for missing images; ValueError, naming
    file and line, for invalid captions.
    """

    def __init__(
        self,
        folder: Path,
        size: int,
        image_column: str = "image",
        caption_column: str = "text",
        captions: bool = True,
        augmentation: Augmentation = NO_AUGMENTATION,
    ):
        folder, files = _without_splits(folder, scan(folder))
        if unread := unread_among(files):
            left = f"{are(unread)} left out: {some(unread)}"
            note(f"{count(unread, 'image')} of {folder} in formats that are not read {left}")
        self.folder, self.size, self.augmentation = folder, size, augmentation
        self.table = _table_of(folder)
        self.classes: tuple[str, ...] = ()
        rows, labels = [], []
        if self.table is not None:
            names, texts, rows = self._read_table(self.table, files, image_column, caption_column, captions)
        else:
            columns = (("--image-column", image_column, "image"), ("--caption-column", caption_column, "text"))
            for flag, given, usual in columns if captions else ():
                if given != usual:
                    raise ValueError(
                        f"{folder} has no metadata, in which {flag} {given} could be a column: leave it out"
                    )
            names, texts, labels = self._read_files(files, captions)
        if captions and (empty := [name for name, given in zip(names, texts, strict=True) if not given[0].strip()]):
            note(f"{count(empty, 'caption')} in {folder} {are(empty)} empty, of {some(empty)}")
        self.names, self._texts = Strings(names), StringLists(texts)
        self.texts = self._texts.first
        self.rows, self.labels = np.array(rows, np.int64), np.array(labels, np.int32)

    def __len__(self) -> int:
        return len(self.names)

    def file(self, index: int) -> tuple[str, str]:
        path = os.path.join(self.folder, self.names[index])  # noqa: PTH118 - pathlib takes five times as long
        return path, path

    def texts_of(self, index: int) -> tuple[str, ...]:
        return self._texts[index]

    def fingerprint(self) -> str:
        labels = self.labels.tolist()
        found = combine(self.size, of_files(self.folder, self.names), of_texts(self.texts), self.classes, labels)
        if len(self._texts.strings) == len(self):
            return found
        return combine(found, of_texts(self._texts.strings), of_texts(str(len(texts)) for texts in self._texts))

    def _item(self, index: int, position: float, shape: Shape | None = None) -> dict:
        item = super()._item(index, position, shape)
        return item | {"label": int(self.labels[index])} if self.classes else item

    def column(self, name: str) -> list:
        """The values of the metadata column `name` or `name`_file_name, one per item.

        Raises KeyError, with the existing columns, if a row lacks it.
        """
        if self.table is None:
            raise KeyError("none, for there is no metadata")
        kept, values = set(self.rows.tolist()), []
        for i, (_, row) in enumerate(read_table(self.table)):
            if i in kept:
                found = next((key for key in (f"{name}_file_name", name) if key in row), None)
                if found is None:
                    raise KeyError(_columns(row))
                values.append(row[found])
        return values

    # --- layouts of a folder ----------------------------------------------------------------------------------------

    def _read_table(
        self, table: Path, files: Sequence[str], image_column: str, caption_column: str, captions: bool
    ) -> tuple[list[str], list[tuple[str, ...]], list[int]]:
        """The names and captions of a table, and the numbers of their rows."""
        known, named, forms = set(files), set(), _Forms(files)
        rows = read_table(table)
        if (first := next(rows, None)) is None:
            raise ValueError(f"{table} is empty; write a line with file_name and text for each image")
        name_column = _name_column(first[1], image_column, table)
        if captions and caption_column not in first[1]:
            raise _no_column(table, caption_column, first[1], "--caption-column")
        names, texts, numbers = [], [], []
        pairs: dict[tuple[str, tuple[str, ...]], str] = {}
        missing, other = [], []
        for i, (where, row) in enumerate(chain([first], rows)):
            name = check_name(text_of(row, name_column, where), where)
            given = captions or row.get(caption_column) is not None
            of_image = texts_of(row, caption_column, where) if given else ("",)
            if (before := pairs.setdefault((name, of_image), where)) != where:
                raise ValueError(f"{where}: {name} with this caption is there already, in {before}; remove one of them")
            named.update(value for value in row.values() if isinstance(value, str) and value in known)
            if name not in known:
                named.add(name := self._on_disk(name, forms, where))
            if name not in known and not (self.folder / name).is_file():
                missing.append(name)
            elif (suffix := PurePosixPath(name).suffix.lower()) and suffix not in FORMATS:
                other.append(name)
            else:
                names.append(name)
                texts.append(of_image)
                numbers.append(i)
        if missing:
            raise FileNotFoundError(
                f"{table} names {count(missing, 'file')} that {are(missing)} not there: "
                f"{some(missing)}; {forms.hint(missing)}put them into {self.folder} or remove their lines"
            )
        if other:
            note(f"{count(other, 'file')} of {table} in formats that are not read {are(other)} left out: {some(other)}")
        if not names:
            raise ValueError(f"{table} names no image that can be read; give {', '.join(KINDS)} files")
        _note_unlisted(table, names, set(files) - named)
        if beside := sorted(_text_files_of(names, files).values()):
            left = f"{count(beside, 'text file')} next to images {are(beside)} left out: {some(beside)}"
            note(f"captions are read from {table}, and {left}")
        return names, texts, numbers

    def _on_disk(self, name: str, forms: _Forms, where: str) -> str:
        """The name as it is on disk. Raises ValueError if it is a folder."""
        name = forms.find(name)
        if (self.folder / name).is_dir():
            raise ValueError(f"{where}: {name} is a folder; write an image's name, relative to {self.folder}")
        return name

    def _read_files(self, files: Sequence[str], captions: bool) -> tuple[list[str], list[tuple[str, ...]], list[int]]:
        """The names, captions and labels of a folder without a table; sets `classes`."""
        folder, names = self.folder, images_among(files)
        if not names:
            raise FileNotFoundError(f"there are no images in {folder}; give a folder with {', '.join(KINDS)} files")
        text_files = _text_files_of(names, files)
        nested = [name for name in files if PurePosixPath(name).name.casefold() in METADATA]
        if captions and nested:
            raise ValueError(f"{folder} has its captions in {some(nested)}; give one of these folders alone")
        texts = self._read_texts(names, text_files, files, captions) if text_files else {}
        if captions and texts:
            names = [name for name in names if name in texts]
        classes = [] if captions and texts else _classes_of(names)
        self.classes = tuple(sorted(set(classes)))
        place = {name: i for i, name in enumerate(self.classes)}
        unread = [name for name in files if "/" not in name and os.path.splitext(name)[1].lower() in _LIKE_TABLES]  # noqa: PTH122
        if captions and not texts and len(self.classes) < 2:
            raise FileNotFoundError(
                f"{folder} has no metadata.jsonl, metadata.csv or metadata.parquet with file_name and text of each "
                f"image, and no NAME.txt next to them; {_write_one(unread)}"
            )
        if left := [name for name in unread if name.casefold().startswith(("metadata.", "caption"))]:
            note(f"{some(left)} of {folder} {are(left)} left out; captions are read from {METADATA[0]}")
        if captions and self.classes:
            note(f"{folder} has no captions, so the names of its folders stand for them: {some(self.classes)}")
        given = [texts.get(name, "") for name in names] if texts else classes or [""] * len(names)
        return names, [(text,) for text in given], [place[name] for name in classes]

    def _read_texts(
        self, names: Sequence[str], text_files: dict[str, str], files: Sequence[str], captions: bool
    ) -> dict[str, str]:
        """{image: caption}"""
        if left := [name for name in names if name not in text_files]:
            what = f"{are(left)} left out" if captions else "have no caption" if len(left) > 1 else "has no caption"
            note(f"{count(left, 'image')} of {self.folder} without a .txt file of its name {what}: {some(left)}")
        used = set(text_files.values())
        if alone := [name for name in files if _is_text(name) and name not in used]:
            note(f"{count(alone, 'text file')} of {self.folder} without an image {are(alone)} left out: {some(alone)}")
        return {name: caption_of(read_text(self.folder / file)) for name, file in text_files.items()}


# --- files ----------------------------------------------------------------------------------------------------------


def scan(folder: Path) -> list[str]:
    """Sorted relative names of all files in a folder and its subfolders, except hidden ones; links are followed.

    Broken links are counted and named on standard error.
    """
    found: list[str] = []
    broken: list[str] = []
    seen: set[tuple[int, int]] = set()

    def walk(path: str, prefix: str) -> None:
        status = os.stat(path)  # noqa: PTH116 - called thousands of times with strings
        if (status.st_dev, status.st_ino) in seen:  # a link to a parent folder
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                try:
                    is_folder, is_file = entry.is_dir(), entry.is_file()
                except OSError:  # a link to itself
                    is_folder = is_file = False
                if is_folder:
                    walk(entry.path, f"{prefix}{entry.name}/")
                elif is_file:
                    found.append(prefix + entry.name)
                elif entry.is_symlink():
                    broken.append(prefix + entry.name)

    walk(str(folder), "")
    if broken:
        note(f"{count(broken, 'link')} of {folder} to missing files {are(broken)} left out: {some(sorted(broken))}")
    return sorted(found)


def images_among(files: Sequence[str]) -> list[str]:
    """The files that are images of supported formats, by suffix."""
    return [name for name in files if os.path.splitext(name)[1].lower() in FORMATS]  # noqa: PTH122


def unread_among(files: Sequence[str]) -> list[str]:
    """The files that are images of unsupported formats, by suffix."""
    return [name for name in files if os.path.splitext(name)[1].lower() in OTHER_FORMATS]  # noqa: PTH122


def captions_of(folder: Path, caption_column: str = "text") -> dict[str, str]:
    """{image: caption} of a folder, by relative name, with the first caption of each; empty if there are none.

    Class names do not count as captions. Raises as `ImageFolder` does.
    """
    files = scan(folder)
    if _table_of(folder) is None and not _text_files_of(images_among(files), files):
        return {}
    found = ImageFolder(folder, 1, caption_column=caption_column)
    return dict(reversed([*zip(found.names, found.texts, strict=True)]))


def check_name(name: str, where: str) -> str:
    """A file name in a table, without `./`; ValueError, naming its position, unless it is below the table's folder."""
    parts = name.split("/")
    if not name.strip() or "\0" in name:
        raise ValueError(f"{where}: {name!r} names no file; write the image's name, relative to the folder")
    if name.startswith(("/", "\\")) or name[1:2] == ":" or ".." in parts:
        raise ValueError(f"{where}: {name} lies outside of the folder; write names relative to it, without ..")
    if not (found := "/".join(part for part in parts if part not in ("", "."))):
        raise ValueError(f"{where}: {name!r} names no file; write the image's name, relative to the folder")
    return found


def tables_in(folder: Path) -> list[Path]:
    """The metadata files of a folder; more than one is ambiguous."""
    found = [name for name in os.listdir(folder) if name.casefold() in METADATA]  # noqa: PTH208
    return [folder / name for name in sorted(found, key=lambda name: (METADATA.index(name.casefold()), name))]


def _table_of(folder: Path) -> Path | None:
    tables = tables_in(folder)
    if len(tables) > 1:
        raise ValueError(f"{folder} has {some([table.name for table in tables])}; keep one of them")
    if tables and not tables[0].is_file():
        what = "a folder" if tables[0].is_dir() else "a broken link"
        raise ValueError(f"{tables[0]} is {what}, not a table of the images; rename or remove it")
    return tables[0] if tables else None


class _Forms:
    """Lookup of file names independent of their Unicode normal form: macOS writes é as two characters."""

    def __init__(self, files: Sequence[str]):
        self._files = files
        self._by_form: dict[str, str] = {}

    def find(self, name: str) -> str:
        """The name of the file as it is on disk; `name` itself if there is none."""
        if not self._by_form:  # built lazily: most folders do not need it
            self._by_form = {unicodedata.normalize("NFC", file): file for file in self._files}
        return self._by_form.get(unicodedata.normalize("NFC", name), name)

    def hint(self, names: Sequence[str]) -> str:
        """A "did you mean" hint if a file has one of these names up to case."""
        alike = {file.casefold(): file for file in self._files}
        near = next((alike[name.casefold()] for name in names if name.casefold() in alike), None)
        return f"did you mean {near}? " if near else ""


def _classes_of(names: Sequence[str]) -> list[str]:
    """The class of each image, which is its uppermost folder; [] if one is in none."""
    of_each = [name.split("/", 1)[0] if "/" in name else "" for name in names]
    return of_each if all(of_each) else []


def _note_unlisted(table: Path, names: Sequence[str], files: set[str]) -> None:
    """Note images that are left out, of all `files` that no row names, and how many rows name an image again."""
    listed = set(names)
    left = [name for name in images_among(sorted(files)) if name not in listed]
    if left:
        note(f"{count(left, 'image')} without a line in {table} {are(left)} left out: {some(left)}")
    if again := names[len(listed) :]:
        note(f"{count(again, 'line')} of {table} {are(again)} for images that already have a caption")


def _is_text(name: str) -> bool:
    return name[-4:].lower() == ".txt"


def _text_files_of(names: Sequence[str], files: Sequence[str]) -> dict[str, str]:
    """{image: text file of the same name}, independent of the Unicode form; a.txt takes precedence over a.TXT."""
    texts = {unicodedata.normalize("NFC", file[:-4]): file for file in files if _is_text(file)}
    if not texts:
        return {}
    stems = ((name, unicodedata.normalize("NFC", os.path.splitext(name)[0])) for name in names)  # noqa: PTH122
    return {name: texts[stem] for name, stem in stems if stem in texts}


def _write_one(unread: Sequence[str]) -> str:
    """The remedy for a folder without captions, which may be in unsupported files."""
    if not unread:
        return "write one of these"
    return f"{some(unread)} {are(unread)} not read: write captions as {METADATA[0]}, one object with these per line"


def _without_splits(folder: Path, files: list[str]) -> tuple[Path, list[str]]:
    """`train/` and its files, if the folder consists only of splits."""
    inner = {name.split("/", 1)[0] for name in files if "/" in name}
    loose = {name for name in files if "/" not in name and os.path.splitext(name)[1].lower() in FORMATS}  # noqa: PTH122
    if "train" not in inner or not inner <= set(SPLITS) or loose or _table_of(folder) is not None:
        return folder, files
    if others := sorted(inner - {"train"}):
        note(f"{folder / 'train'} is read, and {some(others)} next to it left out")
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
