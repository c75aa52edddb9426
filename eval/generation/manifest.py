"""manifest.json of a folder of generated images: reading, validation, and comparison with the files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from t2i.data.folder import check_name
from t2i.data.image_file import ImageError, read_image
from t2i.notes import some

REMEDY = "generate the images again, or remove manifest.json to score the folder as it is"
_ENTRY = {"file": str, "sha256": str, "prompt": str, "key": str, "index": int, "seed": int, "black": bool}


def find_manifest(folder: Path) -> dict | None:
    """The manifest.json of a folder of generated images; None if there is none, or it is another program's.

    Raises ValueError for a damaged one.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is damaged and cannot be read as JSON; {REMEDY}") from None
    if not isinstance(manifest, dict) or not {"header", "images"} <= manifest.keys():
        return None
    header, images = manifest["header"], manifest["images"]
    if not isinstance(header, dict) or not isinstance(images, list):
        raise ValueError(f"{path} is damaged: its header must be an object, its images a list; {REMEDY}")
    for i, entry in enumerate(images):
        check_entry(entry, f"{path}, image {i}")
    return manifest


def check_entry(entry: object, where: str) -> None:
    """Raise ValueError unless it is a valid entry for one image, with a file inside the manifest's folder."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is not an object; {REMEDY}")
    for key, kind in _ENTRY.items():
        if not isinstance(entry.get(key), kind):
            raise ValueError(f"{where} has {'no' if key not in entry else 'a wrong'} {key!r}; {REMEDY}")
    check_name(entry["file"], where)


def check_files(folder: Path, manifest: dict) -> None:
    """Raise ValueError, naming the first few, if images have been replaced by others.

    Missing or unreadable images are not reported here but when they are read.
    """
    changed = [entry["file"] for entry in manifest["images"] if digest(folder / entry["file"]) != entry["sha256"]]
    replaced = [name for name in changed if _is_readable(folder / name)]
    if replaced:
        raise ValueError(
            f"{len(replaced)} of {len(manifest['images'])} images in {folder} are not those of its manifest.json: "
            f"{some(replaced)}; {REMEDY}"
        )


def _is_readable(path: Path) -> bool:
    try:
        read_image(path)
    except ImageError:
        return False
    return True


def digest(path: Path) -> str | None:
    """SHA-256 of a file; None if it does not exist."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
