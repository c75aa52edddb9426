"""The disk cache: complete or absent, computed once, never confused with another."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from launching import launched

from t2i.disk_cache import batches_of_this_process, open_or_fill


def squares(part: Path, state) -> None:
    np.save(part / "squares.npy", np.arange(10) ** 2)


def test_a_cache_is_filled_once_and_then_opened(tmp_path):
    folder = tmp_path / "new" / "cache"
    open_or_fill(folder, {"power": 2}, squares, "powers")
    made = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert set(made) == {"squares.npy", "cache.json", "manifest.json"}
    open_or_fill(folder, {"power": 2}, squares, "powers")
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == made
    assert [p.name for p in folder.parent.iterdir()] == ["cache"]


def test_launches_that_want_one_cache_at_once_fill_it_once(tmp_path):
    filled = []

    def slowly(part: Path, state) -> None:
        time.sleep(0.2)
        squares(part, state)
        filled.append(part)

    threads = [
        threading.Thread(target=open_or_fill, args=(tmp_path / "cache", {"power": 2}, slowly, "powers"))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(filled) == 1 and (np.load(tmp_path / "cache" / "squares.npy") == np.arange(10) ** 2).all()
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]


def test_a_filling_that_fails_leaves_nothing_and_one_that_was_killed_is_begun_anew(tmp_path):
    def fails(part: Path, state) -> None:
        squares(part, state)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        open_or_fill(tmp_path / "cache", {"power": 2}, fails, "powers")
    assert not list(tmp_path.iterdir())
    (tmp_path / ".cache.part").mkdir()
    (tmp_path / ".cache.part" / "half.npy").write_text("")
    open_or_fill(tmp_path / "cache", {"power": 2}, squares, "powers")
    assert not (tmp_path / "cache" / "half.npy").exists() and [p.name for p in tmp_path.iterdir()] == ["cache"]


def test_what_is_not_this_cache_is_refused(tmp_path):
    open_or_fill(tmp_path / "cache", {"power": 2}, squares, "powers")
    with pytest.raises(ValueError, match=r"powers in .*cache were computed from something else \(power: 2 -> 3\); rem"):
        open_or_fill(tmp_path / "cache", {"power": 3}, squares, "powers")
    (tmp_path / "cache" / "squares.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"powers in .*cache are damaged: squares.npy has 0 bytes instead of"):
        open_or_fill(tmp_path / "cache", {"power": 2}, squares, "powers")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").write_text("")
    with pytest.raises(FileExistsError, match="letters exists and is no cache of powers"):
        open_or_fill(tmp_path / "letters", {"power": 2}, squares, "powers")


ON_A_MACHINE = """
import os, sys
from pathlib import Path
from t2i.disk_cache import open_or_fill

disk = Path(sys.argv[1]) / os.environ["RANK"]
for name in ("old", "new"):
    try:
        open_or_fill(disk / name, {"power": 2}, lambda part, state: (part / "x").write_text(""), "powers")
    except FileNotFoundError as error:
        print(error)
"""


def test_a_cache_that_only_the_first_machine_sees_is_said(tmp_path):
    """Two processes with disks of their own; of two caches, the first machine has one, and fills the other."""
    open_or_fill(tmp_path / "0" / "old", {"power": 2}, squares, "powers")
    program = tmp_path / "program.py"
    program.write_text(ON_A_MACHINE)
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    run = subprocess.run(
        launched(2, str(program), str(tmp_path)), capture_output=True, text=True, timeout=100, env=environment
    )
    for name in ("old", "new"):
        said = f"the first process has the powers in {tmp_path}/1/{name}, which is not there on this machine: set "
        assert f"{said}XDG_CACHE_HOME, or --cache, to a folder that all machines see" in run.stdout


def test_processes_share_the_rows():
    class Process:
        num_processes, process_index = 3, 0

    rows = []
    for Process.process_index in range(3):
        rows += [i for some in batches_of_this_process(100, 8, Process) for i in some]
    assert sorted(rows) == list(range(100))
