"""The current process: its state under `accelerate launch`, and its peak memory."""

from __future__ import annotations

import atexit
import itertools
import os
import re
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

LONGEST_WAIT = timedelta(hours=24)  # timeout for the slowest process; PyTorch's default is 10 minutes
_waits = itertools.count()  # calls of `wait_for_main`, equally many on each process


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


def wait_for_main() -> None:
    """Wait until the main process gets here too, however long it takes; all processes must call this.

    A collective would end the run after the timeout of the group of processes, and NCCL's keeps a GPU busy. This is a
    key in the store by which the processes found each other, which is asked for until it is there; if the main process
    dies, the launcher ends those that wait, or the store is gone, which raises torch.distributed.DistError.
    """
    state = this_process()
    if state.num_processes == 1:
        return
    store, key = torch.distributed.distributed_c10d._get_default_store(), f"t2i/main/{next(_waits)}"
    if state.is_main_process:
        store.set(key, "")
    pause = 0.005
    while not store.check([key]):
        time.sleep(pause)
        pause = min(1.0, 1.5 * pause)


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
