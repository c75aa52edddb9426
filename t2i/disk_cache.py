"""Disk caches of arrays that are computed once.

A cache is a folder of files, usually memory-mapped NAME.npy files, with

    cache.json      the key: everything that determines the content, as plain data
    manifest.json   sizes and hashes of the files, checked whenever the cache is opened

The folder is created atomically. The processes of one launch fill it together, so it must be on a disk that all of
their machines see; another launch that needs the same cache waits until it is complete.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from t2i.files import alone, read_json, sync, write_json, writing
from t2i.manifest import damage, write_manifest
from t2i.processes import this_process

KEY = "cache.json"


def open_or_fill(
    folder: Path,
    key: Mapping[str, str | int | float],
    fill: Callable[[Path, PartialState], None],
    contents: str,
    remedy: str = "choose another folder",
) -> None:
    """Check that `folder` is a cache with this key, or create and fill it.

    Args:
        key: names and values of everything that determines the contents.
        fill: writes the contents into a folder; called by all processes of the launch. Files created by the first
            process before its `wait_for_everyone` can be opened by the others after theirs.
        contents: description of the contents for messages, such as "latents".
        remedy: remedy for an unusable folder, for messages.

    Raises:
        ValueError: the cache has another key, or is damaged.
        FileExistsError: the folder exists and is not a cache.
        FileNotFoundError: another machine of the launch has the folder, and this one does not.
        OSError: the cache could not be written.
    """
    state = this_process()
    if folder.exists() and not (folder / KEY).is_file():
        raise FileExistsError(f"{folder} exists and is no cache of {contents}; {remedy}")
    with ExitStack() as stack:
        missing = [not (folder / KEY).is_file()]
        if missing[0] and state.is_main_process:
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = folder.with_name(f".{folder.name}.lock")
            stack.enter_context(alone(lock))
            stack.callback(lock.unlink, missing_ok=True)
            missing = [not (folder / KEY).is_file()]  # another launch may have created it meanwhile
        if state.num_processes > 1:
            broadcast_object_list(missing)
        if missing[0]:
            _fill(folder, key, fill, state, contents)
    _check_shared(folder / KEY, folder, contents)
    _check(folder, key, contents, remedy)


def batches_of_this_process(num: int, batch: int, state: PartialState) -> Iterator[range]:
    """The batches of rows 0 … num - 1 that this process computes: every n-th, for n processes."""
    for start in range(state.process_index * batch, num, state.num_processes * batch):
        yield range(start, min(start + batch, num))


def _fill(
    folder: Path, key: Mapping, fill: Callable[[Path, PartialState], None], state: PartialState, contents: str
) -> None:
    part = folder.with_name(f".{folder.name}.part")
    try:
        with writing(folder):
            if state.is_main_process:
                shutil.rmtree(part, ignore_errors=True)  # left by a launch that was killed
                part.mkdir()
            state.wait_for_everyone()
            _check_shared(part, folder, contents)
            fill(part, state)
            state.wait_for_everyone()
            if state.is_main_process:
                write_json(part / KEY, dict(key))
                write_manifest(part)
                part.rename(folder)
                sync(folder.parent)
    except BaseException:  # also on Ctrl-C
        if state.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
        raise
    state.wait_for_everyone()


def _check_shared(path: Path, folder: Path, contents: str) -> None:
    """Raise FileNotFoundError if a file or folder that the first process has is not there for this one."""
    if not path.exists():
        raise FileNotFoundError(
            f"the first process has the {contents} in {folder}, which is not there on this machine: set "
            "XDG_CACHE_HOME, or --cache, to a folder that all machines see"
        )


def _check(folder: Path, key: Mapping, contents: str, remedy: str) -> None:
    before = read_json(folder / KEY)
    if changed := [name for name in key if before.get(name) != key[name]]:
        what = "; ".join(f"{name}: {str(before.get(name))[:12]} -> {str(key[name])[:12]}" for name in changed)
        raise ValueError(
            f"the {contents} in {folder} were computed from something else ({what}); remove that folder, or {remedy}"
        )
    if what := damage(folder, resuming=True):
        raise ValueError(f"the {contents} in {folder} are damaged: {what}; remove that folder, or {remedy}")
