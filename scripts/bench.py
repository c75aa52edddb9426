"""Benchmark this project's code against its peers on this machine: `python scripts/bench.py sampling --out DIR`.

Writes DIR/bench.json, rows of {"work", "ours_s", "peer", "peer_s", "ratio"}: medians of interleaved repeats, and
ratio = peer_s / ours_s; with "ours_mb" and "peer_mb", peak memory in MiB, if measured.
`python scripts/bench.py NAME --help` lists a benchmark's options.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from benchmarks.data import Data
from benchmarks.features import Features
from benchmarks.flows import Flows
from benchmarks.frechet import Frechet
from benchmarks.gpu import Generation, Training
from benchmarks.latent import Latent
from benchmarks.loop import Loop
from benchmarks.pixels import Pixels
from benchmarks.prior import Lookup, PriorTraining
from benchmarks.sampling import Sampling
from benchmarks.threads import Threads
from benchmarks.timing import Benchmark, machine, table, write

from t2i.arguments import parse
from t2i.checks import UsageError, check_choice
from t2i.cli_errors import exit_on_bad_input

BENCHMARKS: dict[str, type[Benchmark]] = {
    "sampling": Sampling,
    "prior": PriorTraining,
    "lookup": Lookup,
    "frechet": Frechet,
    "features": Features,
    "latent": Latent,
    "pixels": Pixels,
    "flows": Flows,
    "threads": Threads,
    "generation": Generation,
    "training": Training,
    "data": Data,
    "loop": Loop,
}


def main(args: Sequence[str]) -> None:
    """Run the benchmark named in `args`; raises UsageError if there is none."""
    if not args or args[0] in ("-h", "--help"):
        print(_overview())
        return
    name, *options = args
    check_choice("benchmark", name, BENCHMARKS)
    kind = BENCHMARKS[name]
    run(parse(kind(), options, prog=f"python scripts/bench.py {name}", description=kind.__doc__ or ""))


def run(benchmark: Benchmark) -> None:
    """Run the benchmark, write bench.json and print the same rows as a table."""
    for option, value in (("--repeats", benchmark.repeats), ("--threads", benchmark.threads)):
        if value is not None and value < 1:
            raise UsageError(f"{option} must be at least 1, not {value}")
    if benchmark.threads is not None:
        torch.set_num_threads(benchmark.threads)
    rows = benchmark.run()
    path = write(rows, benchmark.out)
    print(machine())
    print(table(rows))
    print(f"written to {path}")


def _overview() -> str:
    lines = ["usage: python scripts/bench.py NAME [--out DIR] [options]; NAME --help lists them", ""]
    for name, kind in BENCHMARKS.items():
        lines.append(f"  {name:16} {(kind.__doc__ or '').splitlines()[0]}")
    return "\n".join(lines)


if __name__ == "__main__":
    with exit_on_bad_input():
        main(sys.argv[1:])
