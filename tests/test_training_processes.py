"""Several processes in one run: locks, signals, launchers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from launching import launched
from test_checkpoints import resume
from test_training import losses, vqvae_recipe

from t2i.manifest import damage
from t2i.training.cli import run
from t2i.training.lock import LOCK


@pytest.fixture
def copy(tmp_path) -> Path:
    """A run with checkpoint-2 and checkpoint-4."""
    run(vqvae_recipe(tmp_path / "run", max_train_steps=4, checkpointing_steps=2))
    return tmp_path / "run"


# --- one run per folder ---------------------------------------------------------------------------------------------


def holder(pid: int, host: str | None = None) -> str:
    started = psutil.Process(pid).create_time() if psutil.pid_exists(pid) else 1.0
    return json.dumps({"host": host or socket.gethostname(), "pid": pid, "started": started})


def test_two_runs_in_one_folder_are_refused_and_a_stale_lock_is_not(copy):
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (copy / LOCK).write_text(holder(other.pid))
        with pytest.raises(FileExistsError, match=rf"run is being trained by process {other.pid} on "):
            resume(copy)
        with pytest.raises(FileExistsError, match="is being trained by process"):
            run(vqvae_recipe(copy))
        reused = json.loads((copy / LOCK).read_text())
    finally:
        other.kill()
        other.wait()
    resume(copy, steps=5)  # the process has ended
    assert not (copy / LOCK).exists()
    reused["pid"], reused["started"] = os.getpid(), 1.0  # its PID was reused
    (copy / LOCK).write_text(json.dumps(reused))
    resume(copy, steps=6)
    (copy / LOCK).write_text('{"host": ')  # truncated
    resume(copy, steps=7)
    (copy / LOCK).write_text(holder(1, "elsewhere"))
    with pytest.raises(FileExistsError, match=r"process 1 on elsewhere.*if it no longer runs, remove .*\.lock"):
        resume(copy)


# --- signals --------------------------------------------------------------------------------------------------------


def started(folder: Path, processes: int = 1, sharded: bool = False) -> subprocess.Popen:
    """A long run with a data worker, in a separate session, after two steps."""
    options = {"train-batch-size": 4, "max-train-steps": 10**5, "checkpointing-steps": 10**5, "report-to": "none"}
    words = [w for name, value in options.items() for w in (f"--{name}", str(value))]
    args = launched(processes, "-m", "t2i.training", "vqvae-toybox", "--preset", "tiny", *words, sharded=sharded)
    on_cpu = os.environ | {"ACCELERATE_USE_CPU": "true"}  # also on machines with GPUs
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": on_cpu}
    process = subprocess.Popen([*args, "--output-dir", str(folder)], start_new_session=True, **pipes)
    log = folder / "metrics.jsonl"
    while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < 2):
        time.sleep(0.02)
    return process


def test_sigterm_to_the_group_saves_and_ends_all_with_0(tmp_path):
    """As sent by schedulers: also to the data worker, and more than once."""
    process = started(tmp_path / "run")
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    for _ in range(3):
        os.killpg(process.pid, signal.SIGTERM)
        time.sleep(0.05)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and "Traceback" not in errors, errors
    steps = len(losses(tmp_path / "run"))
    folder = tmp_path / "run" / f"checkpoint-{steps}"
    assert f"saved {folder}; resume with --resume latest" in said and damage(folder, resuming=True) is None
    assert not psutil.wait_procs(family, timeout=20)[1]


@pytest.mark.slow
def test_workers_end_with_a_loop_that_is_killed(tmp_path):
    process = started(tmp_path / "run")
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate(timeout=60)
    assert not psutil.wait_procs(family, timeout=30)[1]


@pytest.mark.slow
def test_sigterm_to_a_launcher_and_its_group_saves(tmp_path):
    """The launcher forwards the signal, and itself ends with an error."""
    process = started(tmp_path / "run", processes=2)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 1
    steps = len(losses(tmp_path / "run"))
    assert damage(tmp_path / "run" / f"checkpoint-{steps}", resuming=True) is None


def rank(process: subprocess.Popen, number: int) -> psutil.Process:
    """One of the processes that a launcher started."""
    ranks = (p for p in psutil.Process(process.pid).children() if p.environ().get("RANK") == str(number))
    return next(ranks)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_sigterm_to_one_process_of_two_saves_and_ends_both_with_0(tmp_path, sharded):
    process = started(tmp_path / "run", processes=2, sharded=sharded)
    family = psutil.Process(process.pid).children(recursive=True)
    rank(process, 1).terminate()
    said, errors = process.communicate(timeout=30)
    assert process.returncode == 0 and "Traceback" not in errors, errors
    folder = tmp_path / "run" / f"checkpoint-{len(losses(tmp_path / 'run'))}"
    assert f"saved {folder}; resume with --resume latest" in said and damage(folder, resuming=True) is None
    assert not psutil.wait_procs(family, timeout=20)[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_process_that_dies_ends_the_launch_within_a_minute(tmp_path, number):
    process = started(tmp_path / "run", processes=2)
    family = psutil.Process(process.pid).children(recursive=True)
    rank(process, number).kill()
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not psutil.wait_procs(family, timeout=20)[1]


@pytest.mark.slow
def test_all_processes_of_a_launch_are_refused_together(copy):
    (copy / "checkpoint-4" / "state" / "random-0.json").unlink()
    words = ["--preset", "tiny", "--output-dir", str(copy), "--resume", "latest"]
    args = launched(2, "-m", "t2i.training", "vqvae-toybox", *words)
    on_cpu = os.environ | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(args, capture_output=True, text=True, env=on_cpu, timeout=120)
    assert done.stderr.count("checkpoint-4 is damaged: state/random-0.json is missing") >= 2


@pytest.mark.slow
@pytest.mark.parametrize("save", ["async", "waiting"])
def test_a_slow_main_process_does_not_end_the_run_by_a_timeout(save, tmp_path):
    """Two processes that may wait for eight seconds in a collective, and a preview and a save that take ten."""
    worker = str(Path(__file__).with_name("slow_main_worker.py"))
    on_cpu = os.environ | {"ACCELERATE_USE_CPU": "true"}
    args = launched(2, worker, str(tmp_path / "run"), save)
    done = subprocess.run(args, capture_output=True, text=True, env=on_cpu, timeout=120)
    assert done.returncode == 0, done.stderr[-5000:]
    assert damage(tmp_path / "run" / "checkpoint-2", resuming=True) is None
    assert (tmp_path / "run" / "checkpoint-2" / "scores.json").is_file()
    assert (tmp_path / "run" / "samples" / "step-000002.png").is_file()
