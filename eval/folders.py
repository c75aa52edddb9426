"""Which files of a folder are its pictures: one answer for what is scored, compared with, or searched for copies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from t2i.cli_errors import UsageError
from t2i.data.folder import images_among, note, scan
from t2i.data.image_file import FORMATS, KINDS
from t2i.eval.manifest import check_files, find_manifest


def image_files(folder: str | Path, allow_mixed: bool = False) -> list[Path]:
    """The pictures of `folder`, in the order of their relative paths.

    Those that its manifest.json names, where `t2i.eval.generation` wrote one; otherwise all images of FORMATS below it
    but hidden ones. What is left out is counted and named on standard error.

    Raises FileNotFoundError where there is no folder, no picture in it, or drawing was not finished; and ValueError
    where a picture is not the one that the manifest names, for folders whose pictures are no set of their own (a
    training run, a pipeline, a report, or what holds one of these), and where there is more than one format, unless
    `allow_mixed`: what JPEG does to a picture moves FID as much as a change of model.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give one with {', '.join(KINDS)} files")
    if (manifest := find_manifest(folder)) is not None:
        check_files(folder, manifest)
        _note_unlisted(folder, manifest)
        return sorted((folder / entry["file"] for entry in manifest["images"]), key=Path.as_posix)
    _check(folder)
    names = [PurePosixPath(name) for name in images_among(folder, scan(folder))]
    if not names:
        raise FileNotFoundError(f"there are no pictures in {folder}; give a folder with {', '.join(KINDS)} files")
    _check_below(folder, names)
    formats = sorted({FORMATS[name.suffix.lower()] for name in names})
    if len(formats) > 1 and not allow_mixed:
        raise ValueError(f"{folder} mixes {' and '.join(formats)}; convert them to one, or give allow_mixed=True")
    return [folder / name for name in names]


def _note_unlisted(folder: Path, manifest: dict) -> None:
    listed = {entry["file"] for entry in manifest["images"]}
    there = [f"images/{name}" for name in scan(folder / "images")] if (folder / "images").is_dir() else []
    if left := [name for name in images_among(folder, there) if name not in listed]:
        some = ", ".join(left[:3]) + (", …" if len(left) > 3 else "")
        note(f"{len(left)} images of {folder} that its manifest.json does not name are left out: {some}")


def check_outside(out: Path, folder: Path) -> None:
    """Raise UsageError where a report in `out` would put its pictures among those of `folder`."""
    if find_manifest(folder) is None and out.resolve().is_relative_to(folder.resolve()):
        raise UsageError(
            f"--out {out} lies inside {folder}, and its pictures would be read with the others; give another folder"
        )


def _check(folder: Path) -> None:
    """Raise for a folder whose pictures are no set of their own, naming one that may be meant."""
    if any(folder.glob("manifest-*.jsonl")):
        raise FileNotFoundError(f"the pictures of {folder} are not finished; generate them again to go on")
    if kind := _kind(folder):
        raise UsageError(f"{folder} is {kind} and no folder of pictures; {_meant(folder)}")


def _check_below(folder: Path, names: Sequence[PurePosixPath]) -> None:
    """The same of the folders that the pictures lie in."""
    inner = {parent for name in names for parent in name.parents if parent != PurePosixPath()}
    for path in (folder / name for name in sorted(inner)):
        if kind := _kind(path):
            raise UsageError(f"{folder} holds {path}, which is {kind}: its pictures would count; move it elsewhere")
        if find_manifest(path) is not None:
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
    drawn = sorted(path.parent for path in folder.glob("*/manifest.json") if find_manifest(path.parent))
    return f"did you mean {drawn[0]}?" if drawn else f"give one with {', '.join(KINDS)} files"
