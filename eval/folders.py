"""Which files of a folder are its pictures: one answer for what is scored, compared with, or searched for copies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from t2i.cli_errors import UsageError
from t2i.data.plain import FORMATS, pictures_below


def image_files(folder: str | Path, allow_mixed: bool = False) -> list[Path]:
    """The pictures of `folder`, in the order of their relative paths.

    Those that its manifest.json names, where `t2i.eval.generation` wrote one; otherwise all PNG, JPEG and WebP files
    below it but hidden ones.

    Raises FileNotFoundError where there is no folder, no picture in it, or drawing was not finished; and ValueError
    for folders whose pictures are no set of their own (a training run, a pipeline, a report, or what holds one of
    these), and where there is more than one format, unless `allow_mixed`: what JPEG does to a picture moves FID as
    much as a change of model.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give one with PNG, JPEG or WebP pictures")
    if (manifest := drawn_manifest(folder)) is not None:
        return sorted((folder / entry["file"] for entry in manifest["images"]), key=Path.as_posix)
    _check(folder)
    names = pictures_below(folder)
    if not names:
        raise FileNotFoundError(f"there are no pictures in {folder}; give a folder with PNG, JPEG or WebP files")
    _check_below(folder, names)
    formats = sorted({FORMATS[name.suffix.lower()] for name in names})
    if len(formats) > 1 and not allow_mixed:
        raise ValueError(f"{folder} mixes {' and '.join(formats)}; convert them to one, or give allow_mixed=True")
    return [folder / name for name in names]


def drawn_manifest(folder: Path) -> dict | None:
    """The manifest.json of a folder of drawn pictures; None where there is none, or another program's."""
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return manifest if isinstance(manifest, dict) and {"header", "images"} <= manifest.keys() else None


def check_outside(out: Path, folder: Path) -> None:
    """Raise UsageError where a report in `out` would put its pictures among those of `folder`."""
    if drawn_manifest(folder) is None and out.resolve().is_relative_to(folder.resolve()):
        raise UsageError(
            f"--out {out} lies inside {folder}, and its pictures would be read with the others; give another folder"
        )


def _check(folder: Path) -> None:
    """Raise for a folder whose pictures are no set of their own, naming one that may be meant."""
    if any(folder.glob("manifest-*.jsonl")):
        raise FileNotFoundError(f"the pictures of {folder} are not finished; generate them again to go on")
    if kind := _kind(folder):
        raise UsageError(f"{folder} is {kind} and no folder of pictures; {_meant(folder)}")


def _check_below(folder: Path, names: Sequence[Path]) -> None:
    """The same of the folders that the pictures lie in."""
    inner = {parent for name in names for parent in name.parents if parent != Path()}
    for path in (folder / name for name in sorted(inner)):
        if kind := _kind(path):
            raise UsageError(f"{folder} holds {path}, which is {kind}: its pictures would count; move it elsewhere")
        if drawn_manifest(path) is not None:
            raise UsageError(f"{folder} holds drawn pictures in {path}; did you mean that folder? otherwise move it")


def _kind(folder: Path) -> str | None:
    """What a folder is that has pictures for people to look at; None for any other."""
    if (folder / "model_index.json").is_file():
        return "a pipeline"
    if (folder / "recipe.json").is_file() and any(folder.glob("checkpoint-*")):
        return "a training run"
    pages = ("report.html", "successes-and-failures.png")
    if (folder / "report.json").is_file() and any((folder / page).is_file() for page in pages):
        return "a report"
    return None


def _meant(folder: Path) -> str:
    if (latest := folder / "latest").is_dir():
        return f"did you mean the pipeline {latest}?"
    drawn = sorted(path.parent for path in folder.glob("*/manifest.json") if drawn_manifest(path.parent))
    return f"did you mean {drawn[0]}?" if drawn else "give one with PNG, JPEG or WebP files"
