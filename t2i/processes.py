"""This process: which one of `accelerate launch` it is, and the most memory that it has held."""

from __future__ import annotations

import os
import re
import sys
from datetime import timedelta
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

LONGEST_WAIT = timedelta(hours=24)  # for the slowest process; PyTorch's own limit is 10 minutes


def this_process() -> PartialState:
    """This process among those that were launched. ValueError where several were that do not know of each other."""
    launched = int(os.environ.get("WORLD_SIZE", 1))
    waiting = {"timeout": LONGEST_WAIT} if launched > 1 else {}
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), **waiting)
    if state.num_processes != launched:  # each would take itself for the only one, and all would write the same files
        raise ValueError(
            f"{launched} processes were launched but they are not connected; where there is no GPU for them, "
            "set ACCELERATE_USE_CPU=true"
        )
    return state


def most_memory() -> float | None:
    """The most memory that this process has ever held, in MiB; None on Windows.

    Linux hands ru_maxrss on from the process that started this one, so what it says of this one alone comes first.
    """
    status = Path("/proc/self/status")
    if status.is_file() and (held := re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)):
        return int(held[1]) / 2**10
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
