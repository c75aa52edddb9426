"""Shared by all benchmarks: common options, interleaved timing, and the table."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from t2i.devices import cpu_name
from t2i.files import write_json
from t2i.tables import format_table

Timed = Callable[[], float]  # does the work once and returns the seconds it took


@dataclass(frozen=True)
class Benchmark:
    """Options of every benchmark.

    Args:
        out: folder of bench.json.
        repeats: number of rounds of the interleaved measurement; medians are reported.
        threads: number of torch's threads, for us and the peers alike; default: torch's choice.
    """

    out: Path = Path("reports/bench")
    repeats: int = 5
    threads: int | None = None

    def run(self) -> list[Row]:
        """Measure; a peer that is not available is reported in one printed line and has no row."""
        raise NotImplementedError


@dataclass(frozen=True)
class Row:
    """One comparison: median seconds of the same work by us and by a peer; ratio is peer_s / ours_s.

    `ours_mb` and `peer_mb` are peak memory in MiB, if measured; `items` is the number of images or training steps the
    seconds cover, if a rate is more informative.
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
        """All fields that are set."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def clock(work: Callable[[], object], grad: bool = False) -> Timed:
    """Wrap `work` as a function that times it, in inference mode unless it needs gradients."""

    def timed() -> float:
        with torch.inference_mode(not grad):
            start = time.perf_counter()
            work()
            return time.perf_counter() - start

    return timed


def interleave(contestants: dict[str, Timed], repeats: int) -> dict[str, float]:
    """Median seconds of each contestant. They alternate in every round, so that disturbances affect all equally."""
    for timed in contestants.values():  # the first call of each pays for allocation and kernel selection
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
    """GPU and CPU model, cores available to this process, and torch's threads and version."""
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    threads = torch.get_num_threads()
    return f"{gpu}{cpu_name()}, {cores()} cores, {threads} threads, torch {torch.__version__}"


def cores() -> int:
    """Number of cores available to this process."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not available on every system
        return os.cpu_count() or 1


def table(rows: Sequence[Row]) -> str:
    """The rows as text, one per line."""
    columns = {
        "work": [r.work for r in rows],
        "ours_s": [f"{r.ours_s:.3f}" for r in rows],
        "peer": [r.peer for r in rows],
        "peer_s": [f"{r.peer_s:.3f}" for r in rows],
        "ratio": [f"{r.ratio:.2f}x" for r in rows],
    }
    for name in ("ours_mb", "peer_mb"):
        if any(getattr(r, name) is not None for r in rows):
            columns[name] = ["–" if (mb := getattr(r, name)) is None else f"{mb:.0f}" for r in rows]
    if any(r.items for r in rows):
        columns["items/s"] = [f"{r.items / r.ours_s:.1f}" if r.items else "–" for r in rows]
    right = [i for i, name in enumerate(columns) if name not in ("work", "peer")]
    return format_table(list(columns), list(zip(*columns.values(), strict=True)), right)


def write(rows: Sequence[Row], folder: Path) -> Path:
    """Write `folder`/bench.json. Existing rows of other work are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bench.json"
    before = json.loads(path.read_text()) if path.exists() else []
    kept = [row for row in before if row["work"] not in {new.work for new in rows}]
    write_json(path, kept + [row.as_dict() for row in rows])
    return path
