"""The current process: its state under `accelerate launch`, and its peak memory."""

from __future__ import annotations

import atexit
import os
import re
import sys
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

LONGEST_WAIT = timedelta(hours=24)  # timeout for the slowest process; PyTorch's default is 10 minutes


def this_process() -> PartialState:
    """The state of this process among those launched. ValueError if several were launched but are not connected."""
    launched = int(os.environ.get("WORLD_SIZE", 1))
    waiting = {"timeout": LONGEST_WAIT} if launched > 1 else {}
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), **waiting)
    if state.num_processes != launched:  # each would consider itself the only one, and write the same files
        raise ValueError(
            f"{launched} processes were launched but they are not connected; where there is no GPU for them, "
            "set ACCELERATE_USE_CPU=true"
        )
    if launched > 1:
        atexit.unregister(_disconnect)  # once, and as the first thing to be done at exit
        atexit.register(_disconnect)
    return state


def _disconnect() -> None:
    """Leave the group of processes. Gloo's threads, where they outlive the interpreter, abort the process (SIGABRT)."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def most_memory() -> float | None:
    """The peak memory of this process, in MiB; None on Windows.

    On Linux, ru_maxrss is inherited from the parent process, so VmHWM is preferred.
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
