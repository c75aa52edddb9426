"""Which files of a folder are its pictures: one answer for what is scored, compared with, or searched for copies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from t2i.checks import UsageError
from t2i.data.folder import images_among, scan, unread_among
from t2i.data.image_file import FORMATS, KINDS
from t2i.eval.manifest import check_files, find_manifest
from t2i.notes import count, note, some

USUAL = ("PNG", "JPEG", "WebP")  # formats that sets of pictures are saved in


def image_files(folder: str | Path, allow_mixed: bool = False) -> list[Path]:
    """The pictures of `folder`, in the order of their relative paths.

    Those that its manifest.json names, where `t2i.eval.generation` wrote one; otherwise all images below it but hidden
    ones. What is left out is counted and named on standard error, and by `left_out`.

    Raises FileNotFoundError where there is no folder, no picture in it, or drawing was not finished; and ValueError
    where a picture is not the one that the manifest names, for folders whose pictures are no set of their own (a
    training run, a pipeline, a report, or what holds one of these), and where there is more than one format, unless
    `allow_mixed`: what JPEG does to a picture moves FID as much as a change of model. A few of a format that is not
    USUAL beside others that are one of these are left out instead.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give one with {', '.join(KINDS)} files")
    if (manifest := find_manifest(folder)) is not None:
        check_files(folder, manifest)
        names = sorted(entry["file"] for entry in manifest["images"])
    else:
        _check(folder)
        names = _of_one_format(folder, images_among(scan(folder)), allow_mixed)
        if not names:
            raise FileNotFoundError(f"there are no pictures in {folder}; give a folder with {', '.join(KINDS)} files")
        _check_below(folder, [PurePosixPath(name) for name in names])
    if said := left_out(folder, allow_mixed):
        note(said)
    return [folder / name for name in names]


def left_out(folder: str | Path, allow_mixed: bool = False) -> str:
    """Which images of a folder `image_files` leaves out, as a sentence; empty where it takes all."""
    folder, said = Path(folder), []
    if (manifest := find_manifest(folder)) is not None:
        listed = {entry["file"] for entry in manifest["images"]}
        there = [f"images/{name}" for name in scan(folder / "images")] if (folder / "images").is_dir() else []
        if unlisted := [name for name in images_among(there) if name not in listed]:
            said.append(f"{count(unlisted, 'image')} not in manifest.json ({some(unlisted)})")
    else:
        files = scan(folder)
        taken = set(_of_one_format(folder, images_among(files), allow_mixed))
        if mixed := [name for name in images_among(files) if name not in taken]:
            said.append(f"{count(mixed, 'image')} of another format than the others ({some(mixed)}), see --allow-mixed")
        if unread := unread_among(files):
            said.append(f"{count(unread, 'image')} of formats that are not read ({some(unread)})")
    return f"left out of {folder}: {'; '.join(said)}." if said else ""


def _of_one_format(folder: Path, names: list[str], allow_mixed: bool) -> list[str]:
    formats = [FORMATS[PurePosixPath(name).suffix.lower()] for name in names]
    usual = sorted(set(formats) & set(USUAL)) or sorted(set(formats))
    if allow_mixed:
        return names
    if len(usual) > 1:
        raise ValueError(f"{folder} mixes {' and '.join(usual)}; convert them to one, or give allow_mixed=True")
    return [name for name, kind in zip(names, formats, strict=True) if kind in usual]


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
