"""The script that makes the embedded weights: from data to both systems with the tiny presets, and once again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from t2i.data.toybox.reader import Reader
from t2i.pipelines import AutoPipeline


@pytest.mark.slow
def test_the_script_makes_all_weights_from_nothing(tmp_path):
    script = Path(__file__).parents[1] / "scripts" / "make_weights.py"
    command = [sys.executable, str(script), "--preset", "tiny", "--runs", str(tmp_path / "runs")]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode and "--out FOLDER" in refused.stderr
    subprocess.run([*command, "--out", str(tmp_path / "weights")], check=True)
    for system in ("dalle", "ldm"):
        pipe = AutoPipeline.from_pretrained(tmp_path / "weights" / system)
        assert pipe("an avocado armchair").images[0].size == (64, 64)
    assert Reader.from_pretrained(tmp_path / "weights" / "reader").config
    again = subprocess.run([*command, "--out", str(tmp_path / "weights")], capture_output=True, text=True)
    assert again.returncode == 0  # all is trained already: stored anew
