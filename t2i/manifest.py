"""The manifest of a checkpoint, by which truncated, altered or missing files are detected.

`checkpoint-N/manifest.json` lists each file of the checkpoint with its size in bytes and its SHA-256. It is written
last, so a checkpoint with a manifest was complete.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path, PurePosixPath

from t2i.files import read_json, sync, write_json

MANIFEST = "manifest.json"
STATE = "state"  # the part of a checkpoint that is only needed for resuming a run


def write_manifest(folder: Path) -> None:
    """Flush every file under `folder` to disk, then write its manifest."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    files = {path.relative_to(folder).as_posix(): _entry(path) for path in paths}
    for inner in (p for p in folder.rglob("*") if p.is_dir()):
        sync(inner)
    write_json(folder / MANIFEST, {"files": files})


def add_to_manifest(folder: Path, name: str) -> None:
    """Add an entry for a file that was added to a folder after its manifest was written."""
    manifest = read_json(folder / MANIFEST, "files")
    write_json(folder / MANIFEST, {"files": manifest["files"] | {name: _entry(folder / name)}})


def damage(folder: Path, resuming: bool = False) -> str | None:
    """The damage of a checkpoint, as a phrase that names the file; None if it is intact.

    Args:
        folder: folder of a checkpoint with a manifest.
        resuming: also check `state/`, which must have no other files, and treat a missing manifest as damage.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        expected = {str(name): (int(about["size"]), str(about["sha256"])) for name, about in files.items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing" if resuming else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return f"{MANIFEST} cannot be read"
    for name, (size, sha256) in expected.items():
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts:
            return f"{MANIFEST} names {name}, which lies outside"
        if parts.parts[0] == STATE and not resuming:
            continue
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes instead of {size:,}"
        if _sha256(path) != sha256:
            return f"{name} has other contents than were saved"
    state = (folder / STATE).iterdir() if resuming and (folder / STATE).is_dir() else ()
    for path in sorted(state):  # all tensors that are there are read
        if (name := f"{STATE}/{path.name}") not in expected and not path.name.startswith("."):
            return f"{name} was added after it was saved"
    return None


def verify(folder: str | Path) -> None:
    """Raise ValueError if `folder` is a damaged checkpoint, naming the file and the newest whole checkpoint of its run.

    The state needed only for resuming is not checked. A folder without a manifest is not a checkpoint and passes.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        return
    folder = folder.parent / folder.resolve().name if folder.is_symlink() else folder  # `latest` is a link
    if what := damage(folder):
        other = newest_whole(folder.parent)
        remedy = f"the newest whole checkpoint is {other}: open that one" if other else "make it again"
        raise ValueError(f"{folder} is damaged: {what}; {remedy}")


def checkpoints(run: Path) -> list[Path]:
    """The folders checkpoint-N of a run, oldest first."""
    found = [p for p in run.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name) and p.is_dir()]
    return sorted(found, key=lambda p: int(p.name.split("-")[1]))


def newest_whole(run: Path, resuming: bool = False) -> Path | None:
    """The newest intact checkpoint of a run, including `state/` if `resuming`."""
    whole = (p for p in reversed(checkpoints(run)) if (p / MANIFEST).is_file() and damage(p, resuming) is None)
    return next(whole, None)


def _entry(path: Path) -> dict:
    """The manifest entry of a file, which is flushed to disk."""
    sync(path)
    return {"size": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
