"""Launches several processes of one program in tests."""

from __future__ import annotations

import sys


def launched(processes: int, *program: str) -> list[str]:
    """The command that runs a Python program, "-m module" or a file, in several processes connected by gloo."""
    if processes == 1:
        return [sys.executable, *program]
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", f"--num_processes={processes}", "--num_machines=1"]
    launch += ["--main_process_port=0"]  # any free port: other tests may run in parallel
    launch += ["--mixed_precision=no", "--dynamo_backend=no", "--num_cpu_threads_per_process=1"]
    return [sys.executable, *launch, *program]
