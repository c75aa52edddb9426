"""Check that everything runs on this machine's GPU, and how fast: `python scripts/gpu_check.py`, in under five minutes.

Runs the tests marked `cuda`, then measures images/s and training steps/s. Each part runs in a separate process with a
time limit, so that the script always ends and prints; measurements before a limit are kept.
Writes OUT/bench.json (as scripts/bench.py does) and OUT/gpu_check.json as parts finish, and prints one table.
`--device cpu --quick` does the same on a CPU, in about a minute. Needs no installed t2i: a checkout is enough.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHOWN = 15  # last lines shown of the output of a failed part
LINKS = ("pipelines", "training", "eval")  # in t2i/; a copy of the checkout may have lost them


@dataclass(frozen=True)
class Check:
    device: str = "cuda"
    """Device to check."""
    quick: bool = False
    """Run few tests and tiny benchmarks, to check the script itself."""
    out: Path = Path("reports/gpu")
    """Output folder for the results."""
    limit: float = 290.0
    """Time limit of all parts together, in seconds; parts with no time left are not started."""


@dataclass(frozen=True)
class Part:
    """A command with a time limit in seconds."""

    name: str
    seconds: float
    command: tuple[str, ...]


@dataclass
class Outcome:
    """Outcome of a part: "passed", "failed", "stopped at its time limit" or "not started"."""

    name: str
    state: str
    seconds: float
    output: str = ""


def parts(check: Check) -> list[Part]:
    """The tests first, then the measurements, most important first."""
    bench = (sys.executable, str(ROOT / "scripts" / "bench.py"))
    how = ("--device", check.device, "--out", str(check.out), "--repeats", "1" if check.quick else "2")
    tests = (sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-p", "no:cacheprovider", "--tb=short", "-rs")
    if check.quick:
        files = ("tests/test_emulated_device.py", "tests/test_rendered.py")
        small = ("--batches", "1", "--precisions", "float32", "--no-compiled")
        return [
            Part("tests", 60, (*tests, *files)),
            Part("generate toybox/ldm", 60, (*bench, "generation", *how, *small, "--num-inference-steps", "1")),
            Part("train vqvae-toybox", 60, (*bench, "training", *how, *_tiny("vqvae-toybox"))),
        ]
    tests += ("-m", "cuda", *sorted(f"tests/{path.name}" for path in (ROOT / "tests").glob("test_cuda_*.py")))
    several = ("-n", "6", "--dist", "worksteal") if _has("xdist") else ()
    dalle = (*bench, "generation", *how[:-1], "1", "--system", "toybox/dalle")  # its 256 passes take a second
    return [
        Part("tests", 95, tests + several),
        Part("generate toybox/ldm", 45, (*bench, "generation", *how, "--system", "toybox/ldm")),
        Part("train", 90, (*bench, "training", *how)),
        Part("generate toybox/dalle", 60, dalle),
    ]


def _tiny(recipe: str) -> tuple[str, ...]:
    return ("--recipes", recipe, "--preset", "tiny", "--batch", "2", "--steps", "1", "--no-compiled")


def _has(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


def run(part: Part, left: float, environment: dict[str, str]) -> Outcome:
    """Run a part within its time limit and the time left."""
    limit, start = min(part.seconds, left), time.perf_counter()
    if limit < 5:
        return Outcome(part.name, "not started", 0.0)
    process = subprocess.Popen(
        part.command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
        state = "passed" if process.returncode == 0 else "failed"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # including its workers
        output, _ = process.communicate()
        state = "stopped at its time limit"
    return Outcome(part.name, state, time.perf_counter() - start, output)


def main(args: list[str]) -> int:
    """Run all parts and print the table; 0 if all passed."""
    from t2i.arguments import parse

    check = parse(Check(), args, prog="gpu_check.py", description=__doc__)
    out = check.out if check.out.is_absolute() else Path.cwd() / check.out
    check = Check(check.device, check.quick, out, check.limit)
    out.mkdir(parents=True, exist_ok=True)
    (out / "bench.json").unlink(missing_ok=True)
    started, outcomes = time.perf_counter(), []
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    for part in parts(check):
        outcome = run(part, check.limit - (time.perf_counter() - started), environment)
        outcomes.append(outcome)
        print(f"{outcome.name}: {outcome.state} after {outcome.seconds:.0f} s", flush=True)
        if outcome.state != "passed":
            print("\n".join(outcome.output.splitlines()[-SHOWN:]), flush=True)
        _write(out, check, outcomes)
    print()
    print(report(outcomes, out))
    return 0 if all(outcome.state == "passed" for outcome in outcomes) else 1


def _write(out: Path, check: Check, outcomes: list[Outcome]) -> None:
    from t2i.files import write_json

    result = {
        "device": check.device,
        "parts": [asdict(o) | {"output": o.output[-20_000:]} for o in outcomes],
        "rows": _rows(out),
    }
    write_json(out / "gpu_check.json", result)


def _rows(out: Path) -> list[dict]:
    return json.loads((out / "bench.json").read_text()) if (out / "bench.json").is_file() else []


def report(outcomes: list[Outcome], out: Path) -> str:
    """One table: the outcome of each part, and the measured rows as scripts/bench.py prints them."""
    from benchmarks.timing import Row, machine, table

    lines = [machine()]
    for outcome in outcomes:
        last = next((line for line in reversed(outcome.output.splitlines()) if line.strip()), "")
        counted = f": {last.strip('= ')}" if outcome.name == "tests" else ""
        lines.append(f"{outcome.name}: {outcome.state} after {outcome.seconds:.0f} s{counted}")
    rows = [Row(**row) for row in _rows(out)]
    lines += ["", table(rows) if rows else "nothing was measured", "", f"written to {out / 'gpu_check.json'}"]
    return "\n".join(lines)


def link_folders() -> None:
    """Restore the links t2i/pipelines etc. if a copy of the checkout has lost them."""
    for name in LINKS:
        link = ROOT / "t2i" / name
        if not link.exists():
            link.symlink_to(Path("..") / name)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    link_folders()
    sys.exit(main(sys.argv[1:]))
