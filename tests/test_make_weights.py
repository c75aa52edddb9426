"""The script that trains the embedded weights: from data to both systems with the tiny presets, and again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from t2i.data.toybox.classifier import load_classifier
from t2i.data.toybox_v1.classifier import ToyboxClassifier
from t2i.pipelines import AutoPipeline
from t2i.training.recipes import RECIPES

SCRIPT = Path(__file__).parents[1] / "scripts" / "make_weights.py"


@pytest.mark.slow
def test_the_estimate_for_a_gpu_is_below_a_quarter_of_an_hour(tmp_path):
    command = [sys.executable, str(SCRIPT), "--preset", "gpu", "--dry-run", "--workers", "14", "--runs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
    lines = done.stdout.splitlines()
    recipes = [name for line in lines if (name := line.split(" ")[0]) in RECIPES]
    systems = ["vqvae-toybox", "vqgan-toybox", "prior-toybox", "kl-toybox", "clip-toybox", "ldm-toybox"]
    assert recipes == [*systems, "toybox-v1-classifier", "toybox-classifier"]
    assert "Assumed: an NVIDIA H200" in lines[0]
    assert 200 < int(re.search(r"In all (\d+) s", lines[-1])[1]) < 900


@pytest.mark.slow
def test_the_gpu_schedule_runs_on_a_cpu(tmp_path):
    """bfloat16, images rendered in advance, more workers: everything but compiling, which takes long here."""
    how = ["--sizes", "tiny", "--rendered", "300", "--workers", "2", "--no-compile"]
    command = [sys.executable, str(SCRIPT), "--preset", "gpu", *how, "--runs", str(tmp_path / "runs")]
    subprocess.run([*command, "--out", str(tmp_path / "weights")], check=True)
    for system in ("dalle", "ldm"):
        pipe = AutoPipeline.from_pretrained(tmp_path / "weights" / system)
        assert pipe("an avocado armchair").images[0].size == (64, 64)
    recipe = json.loads((tmp_path / "runs" / "kl-toybox" / "recipe.json").read_text())
    assert recipe["data"] == str(tmp_path / "runs" / "toybox-v1-rendered") and recipe["mixed_precision"] == "bf16"


@pytest.mark.slow
def test_the_script_makes_all_weights_from_nothing(tmp_path):
    command = [sys.executable, str(SCRIPT), "--preset", "tiny", "--runs", str(tmp_path / "runs")]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode and "--out FOLDER" in refused.stderr
    subprocess.run([*command, "--out", str(tmp_path / "weights")], check=True)
    for system in ("dalle", "ldm"):
        pipe = AutoPipeline.from_pretrained(tmp_path / "weights" / system)
        assert pipe("an avocado armchair").images[0].size == (64, 64)
    assert ToyboxClassifier.from_pretrained(tmp_path / "weights" / "classifier-v1").config
    assert load_classifier(tmp_path / "weights" / "classifier").config
    again = subprocess.run([*command, "--out", str(tmp_path / "weights")], capture_output=True, text=True)
    assert again.returncode == 0  # everything is trained already and only stored again
