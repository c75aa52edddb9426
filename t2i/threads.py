"""How many CPU threads PyTorch uses, and how they wait for each other.

PyTorch's OpenMP threads spin at the end of every operation until the last one arrives. On an idle machine that saves
the time of waking them; on a busy one, where a thread that another waits for is not running, small models become ten
times slower and more. Passive waiting is within 1.2 of the best there, but costs a small model up to half of its speed
on an idle machine. `python scripts/bench.py threads` measures both.

All of this is read by OpenMP when PyTorch is imported, so it has to be decided before.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from t2i.checks import UsageError

BUSY_PERCENT = 25  # of all cores, by other processes: above it, threads wait passively
PROBE_SECONDS = 0.1
# These have data workers, which share the cores: passive waiting is faster even on an idle machine.
LONG_COMMANDS = ("train", "eval", "report", "compare")
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "max 100000" or "200000 100000": microseconds a period


def take_threads_option(args: Sequence[str]) -> tuple[list[str], int | None]:
    """Split `--threads N` (or `--threads=N`) off a command line.

    Raises UsageError where N is no positive integer or the option is given twice.
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
    """Set the number of PyTorch's threads and their waiting for a command, through OpenMP's environment variables.

    Variables that the user has set stay as they are. Where torch is imported already, only their number can change.

    Args:
        command: of `t2i`.
        threads: by default as many as this process may use at once.
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
    """How many cores a container's CPU quota amounts to, where it is less than the cores that there are."""
    try:
        quota, period = _CGROUP_QUOTA.read_text().split()
    except (OSError, ValueError):  # no cgroup v2
        return None
    if quota == "max":
        return None
    cores = math.ceil(int(quota) / int(period))
    return cores if cores < (os.cpu_count() or 1) else None


def _busy() -> bool:
    import psutil  # not before: most mistakes on a command line are found without

    return psutil.cpu_percent(interval=PROBE_SECONDS) > BUSY_PERCENT
