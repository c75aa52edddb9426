"""Peak memory of a piece of work, measured in a separate process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from t2i.processes import most_memory


def peak_mb(module: str, **arguments) -> float | None:
    """Peak resident memory, in MiB, of a fresh process that runs `module`'s `peak(**arguments)` and ends.

    Includes Python, its imports and the inputs. None if the process fails, for lack of memory or of a package.
    """
    code = f"from benchmarks import memory, {module} as work; memory.tell(work.peak)"
    command = [sys.executable, "-W", "ignore", "-c", code, json.dumps(arguments)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def tell(work: Callable[..., None]) -> None:
    """Run `work` with the command line's arguments, and print the peak memory of this process, in MiB.

    It is printed last, after any output of the work.
    """
    work(**json.loads(sys.argv[1]))
    print(most_memory())
