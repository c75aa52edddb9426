"""Kill a training run at random moments and compare its weights with those of a run that nothing disturbed:
`python scripts/kill_runs.py`.

A training of `--steps` steps is run once as it is. Then the same is started again and again: its processes are killed
(SIGKILL) at a random moment, and it is resumed, until `--kills` kills have been survived; then it is left to finish.
Three in four kills come while it trains or writes a checkpoint, the others at any moment from its start on. Exits with
an error unless every tensor of both last checkpoints, the state of the optimizer included, is equal bit for bit.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from t2i.arguments import parse
from t2i.checks import UsageError
from t2i.cli_errors import exit_on_bad_input
from t2i.manifest import checkpoints

POLL = 0.005  # seconds
ERRORS = "errors.txt"  # what the newest process printed


@dataclass(frozen=True)
class KillRuns:
    recipe: str = "vae"
    """Recipe, of which the tiny preset is trained."""
    kills: int = 100
    """Number of kills."""
    steps: int = 2_000
    """Number of training steps."""
    checkpointing_steps: int = 20
    """Number of steps between checkpoints."""
    seed: int = 0
    """Seed of the moments."""
    out: Path = Path("runs/kill-runs")
    """Folder of both runs, whole/ and killed/, which are removed if they exist."""

    def __post_init__(self) -> None:
        if min(self.kills, self.steps, self.checkpointing_steps) < 1:
            raise ValueError("kills, steps and checkpointing-steps must be at least 1")


def main(args: Sequence[str]) -> None:
    config = parse(KillRuns(), args, prog="kill_runs.py", description=__doc__)
    started = time.perf_counter()
    whole, killed = config.out / "whole", config.out / "killed"
    for run in (whole, killed):
        shutil.rmtree(run, ignore_errors=True)
    process = start(config, whole)
    startup = wait_for_step(process, whole, 1, before=None)
    per_step = finish(process, config.out) / config.steps
    rng = random.Random(config.seed)
    for i in tqdm(range(config.kills), unit="kill"):
        log = log_file(killed)
        process = start(config, killed)
        if i % 4 == 3:
            time.sleep(rng.uniform(0, startup))
        else:
            most = config.steps * (i + 1) // (config.kills + 1)  # so that the kills are spread over the whole run
            wait_for_step(process, killed, rng.randint(min(saved_step(killed) + 1, most), most), before=log)
            time.sleep(rng.uniform(0, 2 * per_step))
        if process.poll() is not None:
            finish(process, config.out)
            raise UsageError(f"the run finished after {i} kills: give fewer --kills, or more --steps")
        os.killpg(process.pid, signal.SIGKILL)  # data workers too
        process.wait()
    finish(start(config, killed), config.out)
    compared = compare(checkpoints(whole)[-1], checkpoints(killed)[-1])
    seconds = time.perf_counter() - started
    print(f"{config.kills} kills in {seconds:.0f} s: all {compared} files of tensors are those of the undisturbed run")


def start(config: KillRuns, run: Path) -> subprocess.Popen:
    """Start training in a session of its own, or resume it if there is a checkpoint."""
    options = {
        "--output-dir": run,
        "--max-train-steps": config.steps,
        "--checkpointing-steps": config.checkpointing_steps,
    }
    options |= {"--report-to": "none"} | ({"--resume": "latest"} if run.is_dir() and checkpoints(run) else {})
    command = [sys.executable, "-m", "t2i.training", config.recipe, "--preset", "tiny"]
    command += [str(part) for option in options.items() for part in option]
    config.out.mkdir(parents=True, exist_ok=True)
    with (config.out / ERRORS).open("wb") as errors:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True)


def wait_for_step(process: subprocess.Popen, run: Path, step: int, before: int | None) -> float:
    """Wait until a process has logged a step, or a later one, or has ended; returns the seconds that it took.

    Args:
        before: the `log_file` before the process was started, which it replaces.
    """
    started = time.perf_counter()
    while process.poll() is None and (log_file(run) in (None, before) or logged_step(run) < step):
        time.sleep(POLL)
    return time.perf_counter() - started


def log_file(run: Path) -> int | None:
    """The number of the file that is the run's log of steps; None if there is none."""
    path = run / "metrics.jsonl"
    return path.stat().st_ino if path.exists() else None


def logged_step(run: Path) -> int:
    """The number of whole lines of the run's log, one a step."""
    return (run / "metrics.jsonl").read_bytes().count(b"\n")


def saved_step(run: Path) -> int:
    """The step of the newest checkpoint, 0 if there is none."""
    saved = checkpoints(run) if run.is_dir() else []
    return int(saved[-1].name.split("-")[1]) if saved else 0


def finish(process: subprocess.Popen, out: Path) -> float:
    """Wait for the end; returns the seconds until then. Raises UsageError with the message of a run that failed."""
    started = time.perf_counter()
    if process.wait():
        raise UsageError(f"training failed: {last_line(out / ERRORS)}")
    return time.perf_counter() - started


def last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"


def compare(whole: Path, killed: Path) -> int:
    """Number of files of tensors, all equal. Raises UsageError, naming the first that is not."""
    files = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors"))
    if not files:
        raise UsageError(f"{whole} holds no tensors")
    for file in files:
        if not (killed / file).is_file() or (whole / file).read_bytes() != (killed / file).read_bytes():
            raise UsageError(f"{killed / file} differs from that of the undisturbed run")
    return len(files)


if __name__ == "__main__":
    with exit_on_bad_input():
        main(sys.argv[1:])
