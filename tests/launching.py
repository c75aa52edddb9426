"""Launches several processes of one program in tests."""

from __future__ import annotations

import sys


def launched(processes: int, *program: str, sharded: bool = False) -> list[str]:
    """The command that runs a Python program, "-m module" or a file, in several processes connected by gloo.

    They need ACCELERATE_USE_CPU=true in the environment on a machine with GPUs, and everywhere if `sharded`, by FSDP2.
    """
    if processes == 1:
        return [sys.executable, *program]
    engine = ["--use_fsdp", "--fsdp_version=2"] if sharded else ["--multi_gpu"]
    launch = ["-m", "accelerate.commands.launch", *engine, f"--num_processes={processes}", "--num_machines=1"]
    launch += ["--main_process_port=0"]  # any free port: other tests may run in parallel
    launch += ["--mixed_precision=no", "--dynamo_backend=no", "--num_cpu_threads_per_process=1"]
    return [sys.executable, *launch, *program]
