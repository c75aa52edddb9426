"""What every benchmark shares: its common options, timing two things fairly, and the table."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

Timed = Callable[[], float]  # does the work once and returns the seconds that it took


@dataclass(frozen=True)
class Benchmark:
    """The options of every benchmark.

    Args:
        out: the folder of bench.json.
        repeats: rounds of the interleaved measurement; the medians are reported.
        threads: torch's, for us and the peers alike; its own choice by default.
    """

    out: Path = Path("reports/bench")
    repeats: int = 5
    threads: int | None = None

    def run(self) -> list[Row]:
        """Measure; a peer that is not to be had is said in one printed line and has no row."""
        raise NotImplementedError


@dataclass(frozen=True)
class Row:
    """One comparison: median seconds of the same work by us and by a peer; ratio is peer_s / ours_s.

    `ours_mb` and `peer_mb` are peak memory in MiB, where a benchmark measures it; `items` is how many images, or steps
    of training, the seconds are of, where a rate says more.
    """

    work: str
    ours_s: float
    peer: str
    peer_s: float
    ratio: float
    ours_mb: float | None = None
    peer_mb: float | None = None
    items: int | None = None

    def as_dict(self) -> dict:
        """What is known of it."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def clock(work: Callable[[], object], grad: bool = False) -> Timed:
    """`work` as something that times itself, in inference mode unless it takes gradients."""

    def timed() -> float:
        with torch.inference_mode(not grad):
            start = time.perf_counter()
            work()
            return time.perf_counter() - start

    return timed


def interleave(contestants: dict[str, Timed], repeats: int) -> dict[str, float]:
    """Median seconds of each. All take their turn in every round, so that what slows the machine slows them alike."""
    for timed in contestants.values():  # the first call of each pays for allocation and for choosing kernels
        timed()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, timed in contestants.items():
            seconds[name].append(timed())
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def compare(work: str, ours: Timed, peers: dict[str, Timed], repeats: int) -> Row:
    """Ours against the fastest of a peer's settings, which the row names."""
    medians = interleave({"": ours, **peers}, repeats)
    ours_s = medians.pop("")
    peer = min(medians, key=medians.__getitem__)
    return Row(work, ours_s, peer, medians[peer], medians[peer] / ours_s)


def machine() -> str:
    """The GPU's and the CPU's model, the cores that this process may use, torch's threads and version."""
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    threads = torch.get_num_threads()
    return f"{gpu}{_cpu_model()}, {cores()} cores, {threads} threads, torch {torch.__version__}"


def cores() -> int:
    """Those that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def table(rows: Sequence[Row]) -> str:
    """The rows as text, one line each under a heading."""
    cells = [("work", "ours_s", "peer", "peer_s", "ratio")]
    cells += [(r.work, f"{r.ours_s:.3f}", r.peer, f"{r.peer_s:.3f}", f"{r.ratio:.2f}x") for r in rows]
    if any(r.ours_mb is not None or r.peer_mb is not None for r in rows):
        sizes = [["–" if mb is None else f"{mb:.0f}" for mb in (r.ours_mb, r.peer_mb)] for r in rows]
        cells = [(*row, *more) for row, more in zip(cells, [("ours_mb", "peer_mb"), *sizes], strict=True)]
    if any(r.items for r in rows):
        rates = ["–" if not r.items else f"{r.items / r.ours_s:.1f}" for r in rows]
        cells = [(*row, rate) for row, rate in zip(cells, ["items/s", *rates], strict=True)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def write(rows: Sequence[Row], folder: Path) -> Path:
    """Write `folder`/bench.json whole or not at all. Rows of other work that are there already stay."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bench.json"
    before = json.loads(path.read_text()) if path.exists() else []
    kept = [row for row in before if row["work"] not in {new.work for new in rows}]
    unfinished = path.with_suffix(".json.tmp")
    unfinished.write_text(json.dumps(kept + [row.as_dict() for row in rows], indent=2) + "\n")
    unfinished.replace(path)
    return path
