"""The number of PyTorch's CPU threads, and their waiting policy.

PyTorch's OpenMP threads spin at the end of every operation until the last one arrives. On an idle machine this saves
the time of waking them; on a busy one, where the awaited thread may not be running, small models become ten times
slower and more. Passive waiting is within a factor of 1.2 of the best there, but costs a small model up to half of its
speed on an idle machine. `python scripts/bench.py threads` measures both.

OpenMP reads these settings when PyTorch is imported, so they have to be made before.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from t2i.checks import UsageError

BUSY_PERCENT = 25  # load of all cores by other processes above which threads wait passively
PROBE_SECONDS = 0.1
# These commands have data workers, which share the cores: passive waiting is faster even on an idle machine.
LONG_COMMANDS = ("train", "eval", "report", "compare", "data filter")
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "max 100000" or "200000 100000": microseconds per period


def take_threads_option(args: Sequence[str]) -> tuple[list[str], int | None]:
    """Split `--threads N` (or `--threads=N`) off a command line.

    Raises UsageError if N is not a positive integer or the option is given twice.
    """
    rest, values, words = [], [], iter(args)
    for word in words:
        if word == "--threads":
            values.append(next(words, ""))
        elif word.startswith("--threads="):
            values.append(word.removeprefix("--threads="))
        else:
            rest.append(word)
    if len(values) > 1:
        raise UsageError("--threads is given twice")
    if values and not (values[0].isdecimal() and int(values[0]) >= 1):
        raise UsageError(f"--threads takes a number of CPU threads, at least 1, not {values[0]!r}")
    return rest, int(values[0]) if values else None


def configure_threads(command: str, threads: int | None = None) -> None:
    """Set the number of PyTorch's threads and their waiting policy by OpenMP's environment variables.

    Variables set by the user are kept. If torch is already imported, only the number of threads can change.

    Args:
        command: command of `t2i`.
        threads: number of threads; by default the number of cores available to this process.
    """
    if "torch" in sys.modules:
        if threads is not None:
            sys.modules["torch"].set_num_threads(threads)
        return
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    elif (quota := _cpu_quota()) is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(quota))
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys() and (command in LONG_COMMANDS or _busy()):
        os.environ["OMP_WAIT_POLICY"] = "passive"


def _cpu_quota() -> int | None:
    """The number of cores of a container's CPU quota, if it is less than the number of cores."""
    try:
        quota, period = _CGROUP_QUOTA.read_text().split()
    except (OSError, ValueError):  # no cgroup v2
        return None
    if quota == "max":
        return None
    cores = math.ceil(int(quota) / int(period))
    return cores if cores < (os.cpu_count() or 1) else None


def _busy() -> bool:
    import psutil  # imported here: most errors on a command line are found without it

    return psutil.cpu_percent(interval=PROBE_SECONDS) > BUSY_PERCENT
