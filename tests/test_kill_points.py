"""A run that is killed (SIGKILL) at any change to its folder goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("kill_points.py")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forked")
@pytest.mark.parametrize("how", [(), ("async",)], ids=["waiting", "async"])
def test_a_kill_at_every_write_and_rename_loses_nothing(tmp_path, how):
    done = subprocess.run(
        [sys.executable, str(WORKER), str(tmp_path), *how], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    points = [json.loads(line) for line in done.stdout.splitlines()]
    changes = " ".join(point["change"] for point in points)
    for expected in ("manifest.json", "os.rename", "checkpoint-4", "latest", "recipe.json", "metrics.jsonl"):
        assert expected in changes, f"nothing was killed at {expected}"
    assert [point for point in points if not (point["intact"] and point["equal"])] == []
