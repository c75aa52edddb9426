"""Which of the processes of `accelerate launch` this one is."""

from __future__ import annotations

import os
from datetime import timedelta

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
