"""scripts/gpu_check.py ends and prints, whatever its parts do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_check.py"
sys.path.insert(0, str(SCRIPT.parent))

from gpu_check import Part, run  # noqa: E402  # beside this project's packages


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_a_part_that_hangs_is_stopped_and_the_time_left_is_kept():
    env = dict(os.environ)
    hangs = run(Part("hangs", 5.5, python("import time; print('began', flush=True); time.sleep(60)")), 100, env)
    assert hangs.state == "stopped at its time limit" and hangs.seconds < 15 and "began" in hangs.output
    assert run(Part("fails", 20, python("raise SystemExit('no kernel')")), 100, env).state == "failed"
    assert run(Part("late", 20, python("")), 1, env).state == "not started"
    assert run(Part("passes", 20, python("print(1)")), 100, env).output == "1\n"


def test_a_checkout_that_is_not_installed_has_a_version():
    unknown = "import importlib.metadata as m; from importlib.metadata import PackageNotFoundError as E\n"
    unknown += "def version(name): raise E(name)\nm.version = version\nimport t2i; print(t2i.__version__)"
    done = subprocess.run(python(unknown), capture_output=True, text=True, cwd=SCRIPT.parents[1])
    assert done.stdout == "0+unknown\n", done.stderr


@pytest.mark.slow
def test_the_check_runs_on_a_cpu(tmp_path):
    """From a separate folder, by path only, as if t2i were not installed."""
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--quick", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    assert [part["state"] for part in found["parts"]] == ["passed"] * 3
    assert [row["work"].split(",")[0] for row in found["rows"]] == ["toybox/ldm", "train vqvae-toybox"]
    assert all(row["ours_s"] > 0 and row["items"] == 1 for row in found["rows"])
    assert all(row["work"] in done.stdout for row in found["rows"])
