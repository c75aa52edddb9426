"""The peak memory of one piece of work, in a process of its own that does nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from t2i.processes import most_memory


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
    print(most_memory())
