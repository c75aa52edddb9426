"""The peak memory of one piece of work, in a process of its own that does nothing else."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def peak_mb(module: str, **arguments) -> float | None:
    """Peak resident memory, in MiB, of a fresh process that runs `module`'s `peak(**arguments)` and ends.

    Python, its imports and the inputs are part of it. None where the process fails, for want of memory or of a package.
    """
    code = f"from benchmarks import memory, {module} as work; memory.tell(work.peak)"
    command = [sys.executable, "-W", "ignore", "-c", code, json.dumps(arguments)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def tell(work: Callable[..., None]) -> None:
    """Do `work` with the arguments of the command line, and print the most memory that this process ever had, in MiB.

    By then the work's own prints are over, so it is the last word.
    """
    work(**json.loads(sys.argv[1]))
    print(_most_mb())


def _most_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # on Linux `ru_maxrss` may be that of the process which started this one
        lines = (line.split() for line in status.read_text().splitlines())
        return next(int(words[1]) for words in lines if words[0] == "VmHWM:") / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts bytes
