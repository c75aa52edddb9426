"""Folders of pictures with nothing beside them: what unconditional models can learn from.

Shapes: S side of the pictures
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from t2i.data.sources import METADATA, square


class PlainFolder:
    """Every picture in a folder and in those below it; where all lie in folders of their own, these are the classes.

    Args:
        folder: of files that Pillow can open; others are left alone.
        size: side of the pictures handed out, see `square`.

    Attributes:
        names: of the classes, in the order of the alphabet; none where a picture lies beside the folders.

    Raises FileNotFoundError for a folder without pictures.
    """

    def __init__(self, folder: Path, size: int):
        known = Image.registered_extensions()
        self.files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in known and p.is_file())
        if not self.files:
            raise FileNotFoundError(f"there are no pictures in {folder}; give a folder of PNG, JPEG, … files")
        self.size = size
        classes = [file.relative_to(folder).parts[0] for file in self.files]
        in_folders = all(file.parent != folder for file in self.files)
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


def is_plain_folder(folder: Path) -> bool:
    """Whether it is a folder without the table of captions that `open_source` asks for."""
    return folder.is_dir() and not any((folder / name).exists() for name in METADATA)
