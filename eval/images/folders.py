"""Which files of a folder are its images, whether they are scored, compared with, or searched for near copies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from t2i.checks import UsageError
from t2i.data.folder import images_among, scan, unread_among
from t2i.data.image_file import FORMATS, KINDS
from t2i.eval.generation.manifest import check_files, find_manifest
from t2i.notes import count, note, some

USUAL = ("PNG", "JPEG", "WebP")  # formats that sets of images are usually saved in


def image_files(folder: str | Path, allow_mixed: bool = False) -> list[Path]:
    """The images of `folder`, in the order of their relative paths.

    Those that its manifest.json names, where t2i generated them; otherwise all images below it but hidden ones. What is
    left out is counted and named on standard error, and by `left_out`.

    Raises FileNotFoundError where there is no folder, no image in it, or generation was not finished; and ValueError
    where an image is not the one that the manifest names, for output folders (a training run, a pipeline, a report, or
    a folder that holds one), and where there is more than one format, unless `allow_mixed`: JPEG compression moves FID
    as much as a change of model. A few images of a format that is not USUAL, among others that are, are left out
    instead.
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
            raise FileNotFoundError(f"there are no images in {folder}; give a folder with {', '.join(KINDS)} files")
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
    """Raise UsageError where a report in `out` would add its images to those of `folder`."""
    if find_manifest(folder) is None and out.resolve().is_relative_to(folder.resolve()):
        raise UsageError(
            f"--out {out} lies inside {folder}, and its images would be read with the others; give another folder"
        )


def _check(folder: Path) -> None:
    """Raise for an output folder, naming the folder that may be meant."""
    if any(folder.glob("manifest-*.jsonl")):
        raise FileNotFoundError(f"the images of {folder} are not finished; generate them again to go on")
    if kind := _kind(folder):
        raise UsageError(f"{folder} is {kind} and no folder of images; {_meant(folder)}")


def _check_below(folder: Path, names: Sequence[PurePosixPath]) -> None:
    """The same of the folders that the images lie in."""
    inner = {parent for name in names for parent in name.parents if parent != PurePosixPath()}
    for path in (folder / name for name in sorted(inner)):
        if kind := _kind(path):
            raise UsageError(f"{folder} holds {path}, which is {kind}: its images would count; move it elsewhere")
        if find_manifest(path) is not None:
            raise UsageError(f"{folder} holds generated images in {path}; did you mean that folder? otherwise move it")


def _kind(folder: Path) -> str | None:
    """Which kind of output folder it is; None for any other folder."""
    if (folder / "model_index.json").is_file():
        return "a pipeline"
    if (folder / "recipe.json").is_file() and any(folder.glob("checkpoint-*")):
        return "a training run"
    if (folder / "report.json").is_file() and (folder / "report.html").is_file():
        return "a report"
    return None


def _meant(folder: Path) -> str:
    if (latest := folder / "latest").is_dir():
        return f"did you mean the pipeline {latest}?"
    generated = sorted(path.parent for path in folder.glob("*/manifest.json") if find_manifest(path.parent))
    return f"did you mean {generated[0]}?" if generated else f"give one with {', '.join(KINDS)} files"
