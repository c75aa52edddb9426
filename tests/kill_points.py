"""Kills a training run at every change that it makes to its folder; run by test_kill_points.py in a process of its own.

    python kill_points.py FOLDER [async]

With "async", a thread finishes the checkpoints; the order of its changes and of the loop's is then not always the same.
The process trains once undisturbed, so that everything is imported, and forks, so that each run costs little: one that
is killed at its k-th change (a file opened for writing, renamed or removed, a folder made), and one that goes on from
what is left. Prints a line of JSON for each k: the change, whether every checkpoint that is left is intact, and whether
the weights are in the end those of the undisturbed run. Files that safetensors writes itself are covered by the changes
before and after.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from t2i.manifest import checkpoints, damage
from t2i.training.cli import run
from t2i.training.recipes import RECIPES

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.truncate"}
SIZES = {"max_train_steps": 4, "train_batch_size": 4, "checkpointing_steps": 2, "checkpoints_total_limit": 1}


def train(folder: Path, asynchronous: bool) -> None:
    tiny = RECIPES["nice"]("tiny")
    resume = "latest" if folder.is_dir() and checkpoints(folder) else None
    loop = {"output_dir": str(folder), "resume": resume, "report_to": "none", "dataloader_num_workers": 0}
    loop |= {"async_save": asynchronous}
    small = {
        "model": dataclasses.replace(tiny.model, width=8, hidden=1),
        "data": dataclasses.replace(tiny.data, scored=8),
        "loop": dataclasses.replace(tiny.loop, **SIZES, **loop),
    }
    run(dataclasses.replace(tiny, **small))


def forked(work: Callable[[], None]) -> int:
    """The exit code of a fork that does `work`; −9 if it was killed."""
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        with contextlib.suppress(BaseException), Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
            work()
            os._exit(0)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(k: int, folder: Path, log: Path, asynchronous: bool) -> Callable[[], None]:
    """Trains, and is killed before the k-th change to the folder, which it first writes to `log`."""

    def work() -> None:
        seen = 0

        def hook(event: str, args: tuple) -> None:
            nonlocal seen
            writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not (writes or event in CHANGES) or not isinstance(args[0], (str, bytes)):
                return
            path = os.fsdecode(args[0])
            if not path.startswith(str(folder)):
                return
            seen += 1
            if seen == k:
                descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.write(descriptor, f"{event} {path.removeprefix(str(folder))}".encode())
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        train(folder, asynchronous)

    return work


def weights(folder: Path) -> str:
    """Hash of the tensors of the last checkpoint, the state of the optimizer included."""
    files = sorted(checkpoints(folder)[-1].rglob("*.safetensors"))
    return hashlib.sha256(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()


def main(root: Path, asynchronous: bool) -> None:
    torch.set_num_threads(1)
    whole, run_folder, log = root / "whole", root / "run", root / "change.txt"
    with contextlib.redirect_stdout(sys.stderr):
        train(whole, asynchronous)
    expected, k = weights(whole), 0
    while True:
        k += 1
        shutil.rmtree(run_folder, ignore_errors=True)
        if (code := forked(killed_at(k, run_folder, log, asynchronous))) == 0:
            return
        assert code == -signal.SIGKILL, f"the run failed by itself at change {k}"
        intact = all(damage(checkpoint, resuming=True) is None for checkpoint in checkpoints(run_folder))
        equal = forked(lambda: train(run_folder, asynchronous)) == 0 and weights(run_folder) == expected
        print(json.dumps({"k": k, "change": log.read_text(), "intact": intact, "equal": equal}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), asynchronous="async" in sys.argv[2:])
