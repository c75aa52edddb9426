"""Folders of pictures with nothing beside them: what unconditional models can learn from.

Shapes: S side of the pictures
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from t2i.data.fingerprint import combine, of_files
from t2i.data.sources import METADATA, square

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WebP"}


def pictures_below(folder: Path) -> list[Path]:
    """Paths, relative to the folder and in order, of all PNG, JPEG and WebP files below it but hidden ones."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in FORMATS)
    names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    return [name for name in sorted(names, key=Path.as_posix) if (folder / name).is_file()]


class PlainFolder:
    """Every picture in a folder and in those below it; where all lie in folders of their own, these are the classes.

    Args:
        folder: see `pictures_below`.
        size: side of the pictures handed out, see `square`.

    Attributes:
        names: of the classes, in the order of the alphabet; none where a picture lies beside the folders.

    Raises FileNotFoundError for a folder without pictures.
    """

    def __init__(self, folder: Path, size: int):
        names = pictures_below(folder)
        if not names:
            raise FileNotFoundError(f"there are no pictures in {folder}; give a folder with PNG, JPEG or WebP files")
        self.folder, self.size, self.files = folder, size, [folder / name for name in names]
        classes = [name.parts[0] for name in names]
        in_folders = all(len(name.parts) > 1 for name in names)
        self.names = tuple(sorted(set(classes))) if in_folders else ()
        self.labels = [self.names.index(name) if in_folders else 0 for name in classes]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict:
        """dict(image=uint8 (S, S, 3), text=name of the class, or "", label=its place); ValueError if damaged."""
        file, label = self.files[index], self.labels[index]
        try:
            with Image.open(file) as image:
                picture = square(image, self.size)
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{file} is damaged or no picture ({error}); remove it") from None
        return {"image": picture, "text": self.names[label] if self.names else "", "label": label}

    def captions(self, limit: int) -> Iterator[str]:
        return (self.names[label] if self.names else "" for label in self.labels[:limit])

    def fingerprint(self) -> str:
        names = [file.relative_to(self.folder).as_posix() for file in self.files]
        return combine(self.size, of_files(self.folder, names))


def is_plain_folder(folder: Path) -> bool:
    """Whether it is a folder without the table of captions that `open_source` asks for."""
    return folder.is_dir() and not any((folder / name).exists() for name in METADATA)
