"""Waiting policy of PyTorch's threads: t2i's choice compared with others, on an idle and on a busy machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.timing import Benchmark, Row, Timed, compare
from t2i.checks import UsageError

_GENERATE = """
import sys, time
from t2i.threads import configure_threads
if sys.argv[1] == "t2i":
    configure_threads("generate")
import torch
from t2i import AutoPipeline
pipe = AutoPipeline.from_pretrained(sys.argv[2])
pipe.set_progress_bar_config(disable=True)
for _ in range(2):  # the first time is slower
    start = time.perf_counter()
    pipe("a red cat", generator=torch.Generator().manual_seed(0))
    seconds = time.perf_counter() - start
print(seconds)
"""
_OTHERS = {
    "PyTorch's default": {},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "passive waiting": {"OMP_WAIT_POLICY": "passive"},
}


@dataclass(frozen=True)
class Threads(Benchmark):
    """Time per image with t2i's thread settings and with others, on an idle machine and with busy processes.

    Each time is measured in a separate process, after a warm-up image.

    Args:
        pipelines: pipelines to generate with.
        busy: number of busy processes in the second half of the measurement.
    """

    repeats: int = 3
    pipelines: tuple[str, ...] = ("toybox/dalle", "toybox/ldm")
    busy: int = 5

    def run(self) -> list[Row]:
        if self.threads is not None:
            raise UsageError("--threads has no effect here: the number of threads is what is compared")
        rows = []
        for load in (0, self.busy):
            with _busy_processes(load):
                for pipeline in self.pipelines:
                    work = f"1 image of {pipeline} with {load} busy processes"
                    ours = _timed(pipeline, "t2i", {})
                    for name, variables in _OTHERS.items():
                        rows.append(compare(work, ours, {name: _timed(pipeline, "torch", variables)}, self.repeats))
        return rows


def _timed(pipeline: str, chosen_by: str, variables: dict[str, str]) -> Timed:
    """Seconds for the second image in a process with these environment variables."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}

    def timed() -> float:
        command = [sys.executable, "-c", _GENERATE, chosen_by, pipeline]
        done = subprocess.run(command, env=inherited | variables, capture_output=True, text=True, check=True)
        return float(done.stdout)

    return timed


@contextmanager
def _busy_processes(number: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
