"""The training walk-through of the README: from data to images with the tiny presets, as printed there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2i.cli import main

README = Path(__file__).parent.parent / "README.md"


def commands() -> list[list[str]]:
    """The lines of the section "Train": the stages of both systems, each with an image, and a distillation."""
    section = README.read_text().split("## Train")[1].split("\n## ")[0]
    lines = re.findall(r"^    t2i (.*)$", section, flags=re.MULTILINE)
    return [[word.strip('"') for word in re.findall(r'"[^"]*"|\S+', line)] for line in lines]


@pytest.mark.slow
def test_the_walkthrough_runs_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = commands()
    trained = ["vqvae-toybox", "prior-toybox", "kl-toybox", "clip-toybox", "ldm-toybox", "lcm"]
    assert [command[1] for command in given if command[0] == "train"] == trained
    assert sum(command[0] == "generate" for command in given) == len(given) - len(trained) == 3
    for command in given:
        main(command)
    for run in ("vqvae", "prior", "kl", "clip", "ldm"):
        losses = [json.loads(line)["loss"] for line in Path(f"runs/tiny-{run}/metrics.jsonl").read_text().splitlines()]
        assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:20]), run
        assert len(list(Path(f"runs/tiny-{run}/samples").glob("*.png"))) >= 2
    for result in ("tiny.png", "tiny-ldm.png", "four-steps.png"):
        assert np.array(Image.open(result)).std() > 10  # it is not blank
