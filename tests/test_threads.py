"""The number of threads of a command, and their waiting policy, are set before torch is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from t2i import threads
from t2i.checks import UsageError


def openmp(code: str, **environment: str) -> list[str]:
    """Settings of a process after `code`: number of torch's threads, waiting policy."""
    code = f"from t2i.threads import configure_threads\n{code}\nimport os, torch\n"
    code += "print(torch.get_num_threads(), os.environ.get('OMP_WAIT_POLICY'))"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run([sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True)
    return done.stdout.split()


def test_the_option_is_taken_from_any_place():
    assert threads.take_threads_option(["generate", "--threads", "2", "a cat"]) == (["generate", "a cat"], 2)
    assert threads.take_threads_option(["generate", "a cat", "--threads=1"]) == (["generate", "a cat"], 1)
    assert threads.take_threads_option(["generate", "a cat"]) == (["generate", "a cat"], None)


@pytest.mark.parametrize("args", [["--threads"], ["--threads", "0"], ["--threads=-1"], ["--threads", "two"]])
def test_only_numbers_of_threads_are_taken(args):
    with pytest.raises(UsageError, match="--threads takes a number of CPU threads"):
        threads.take_threads_option(args)


def test_the_option_is_given_once():
    with pytest.raises(UsageError, match="given twice"):
        threads.take_threads_option(["--threads", "1", "--threads=2"])


def test_long_commands_wait_passively_and_what_the_user_set_stays():
    assert openmp("configure_threads('train', 1)") == ["1", "passive"]
    assert openmp("configure_threads('train')", OMP_NUM_THREADS="1", OMP_WAIT_POLICY="active") == ["1", "active"]


@pytest.mark.parametrize(("percent", "policy"), [(80.0, "passive"), (5.0, "None")])
def test_waiting_follows_the_load_of_the_machine(percent, policy):
    code = f"import psutil; psutil.cpu_percent = lambda interval: {percent}; configure_threads('generate', 1)"
    assert openmp(code) == ["1", policy]


@pytest.mark.parametrize(("text", "cores"), [("max 100000", None), ("50000 100000", 1), ("100000 100000", 1)])
def test_a_containers_quota_is_the_number_of_threads(text, cores, tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(threads, "_CGROUP_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert threads._cpu_quota() == cores
    monkeypatch.setattr(threads, "_CGROUP_QUOTA", tmp_path / "none")
    assert threads._cpu_quota() is None
