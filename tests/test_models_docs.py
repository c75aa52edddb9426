"""docs/models.md: its commands run as printed, except those with a folder of the user's; so does its Python."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from t2i.cli import main

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "models.md").read_text()
MADE = (  # created by the commands in their working directory
    "samples.png",
    "reports/eval/report.json",
    "reports/compare-tiny/compare.html",
    "reports/few-labels/accuracies.png",
    "reports/classify/accuracies.png",
    "gradients.png",
    "runs/tiny-gan/fid.png",
)


@pytest.mark.slow
def test_the_commands_run_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [shlex.split(line) for line in re.findall(r"^    ((?:t2i|python) .*)$", TEXT, flags=re.MULTILINE)]
    for program, *arguments in lines:
        if {"FOLDER", "RUN"} & set(arguments):
            continue
        if program == "t2i":
            main(arguments)
        else:
            subprocess.run([sys.executable, ROOT / arguments[0], *arguments[1:]], check=True)
    exec("".join(re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)), names := {})
    assert names["threes"].shape == (16, 1, 8, 8) and names["both"].shape[0] == len(names["words"]) == 8
    for name in MADE:
        assert (tmp_path / name).stat().st_size > 100, name
