"""Runs that are killed at random moments, by the script that anyone can run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "kill_runs.py"
sys.path.insert(0, str(SCRIPT.parent))
from kill_runs import compare  # noqa: E402  # beside this project's packages


@pytest.mark.slow
def test_a_run_that_is_killed_ten_times_ends_with_the_weights_of_an_undisturbed_one(tmp_path):
    args = ["--kills", "10", "--steps", "300", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, str(SCRIPT), *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "10 kills" in done.stdout


def test_a_difference_in_one_byte_is_found(tmp_path):
    for name in ("whole", "killed"):
        (tmp_path / name / "state").mkdir(parents=True)
        (tmp_path / name / "state" / "model.safetensors").write_bytes(b"weights")
    assert compare(tmp_path / "whole", tmp_path / "killed") == 1
    (tmp_path / "killed" / "state" / "model.safetensors").write_bytes(b"Weights")
    with pytest.raises(ValueError, match="differs from that of the undisturbed run"):
        compare(tmp_path / "whole", tmp_path / "killed")
