"""Runs limited by training time instead of number of steps."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from launching import launched
from PIL import Image

from t2i.training.budget import Budget
from t2i.training.cli import run
from t2i.training.config import LoopConfig
from t2i.training.loop import learning_rate, train
from t2i.training.recipes import RECIPES
from t2i.training.unconditional import UnconditionalTask


def recipe(folder: Path, seconds: float, **loop):
    """A tiny run of this many seconds, with a checkpoint midway."""
    tiny = RECIPES["nice"]("tiny")
    options = {"max_train_time": seconds, "max_train_steps": 1000, "checkpointing_steps": 500, "report_to": "none"}
    loop = {"output_dir": str(folder), "train_batch_size": 8, "dataloader_num_workers": 0} | options | loop
    data = dataclasses.replace(tiny.data, patience=0, scored=20)
    return dataclasses.replace(tiny, data=data, loop=dataclasses.replace(tiny.loop, **loop))


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def progress(checkpoint: Path) -> dict:
    return json.loads((checkpoint / "state" / "progress.json").read_text())


def test_checkpoints_keep_their_share_of_the_seconds():
    budget = Budget(LoopConfig(max_train_time=10.0, max_train_steps=100, checkpointing_steps=25))
    due = []
    for _ in budget.steps():
        budget.spend(0.375)
        if budget.checkpoint_due:
            due.append(budget.seconds)
    assert budget.step == 27 and budget.seconds == 27 * 0.375  # the first after ten seconds
    assert due == [2.625, 5.25, 7.5, 10.125]


def test_a_resumed_budget_has_what_is_left():
    config = LoopConfig(max_train_time=10.0)
    budget = Budget(config, 7, 8.0)
    taken = []
    for step in budget.steps():
        taken.append(step)
        budget.spend(0.5)
    assert taken == [8, 9, 10, 11]
    assert list(Budget(config, 11, 10.0).steps()) == []
    assert list(Budget(LoopConfig(max_train_steps=3), 1).steps()) == [2, 3]


def test_pauses_do_not_count():
    budget = Budget(LoopConfig(max_train_time=10.0))
    time.sleep(0.2)
    budget.pause()
    assert budget.lap() < 0.1
    time.sleep(0.2)
    assert budget.lap() >= 0.2


def test_the_learning_rate_falls_with_the_seconds():
    """As with the steps of a run at constant speed, whatever the actual number of steps."""
    config = LoopConfig(max_train_time=50.0, max_train_steps=100, lr_warmup_steps=10, learning_rate=1.0)
    by_steps = dataclasses.replace(config, max_train_time=None)
    for share in np.linspace(0.01, 1, 12):
        expected = learning_rate(100 * share, by_steps)
        assert learning_rate(1, config, 50 * share) == pytest.approx(expected)
        assert learning_rate(10**6, config, 50 * share) == pytest.approx(expected)
    assert learning_rate(1, config, 0.0) == learning_rate(1, by_steps) > 0
    constant = dataclasses.replace(config, lr_scheduler="constant")
    assert learning_rate(100, constant, 49.0) == 1


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_seconds_that_make_no_sense_are_refused(bad: float):
    with pytest.raises(ValueError, match="max_train_time must be above 0"):
        LoopConfig(max_train_time=bad)


def test_a_run_stops_at_the_first_step_past_its_seconds_and_goes_on_with_more(tmp_path):
    folder = run(recipe(tmp_path / "run", 0.5))
    first = lines(tmp_path / "run")
    assert first[-2]["seconds"] < 0.5 <= first[-1]["seconds"] < 5
    assert all(a["seconds"] < b["seconds"] for a, b in itertools.pairwise(first))
    kept = progress(folder)
    assert (kept["steps"], kept["seconds"]) == (len(first), first[-1]["seconds"])
    there = (int(p.name.split("-")[1]) for p in (tmp_path / "run").glob("checkpoint-*"))
    assert folder.name == f"checkpoint-{max(there)}"
    assert json.loads((folder / "scores.json").read_text())["history"][1:]  # one midway, one at the end
    assert run(recipe(tmp_path / "run", 0.5, resume="latest")) == folder  # no time is left
    assert lines(tmp_path / "run") == first
    run(recipe(tmp_path / "run", 1.0, resume="latest"))
    more = lines(tmp_path / "run")
    assert more[: len(first)] == first and [line["step"] for line in more] == list(range(1, len(more) + 1))
    assert more[len(first)]["seconds"] > 0.5 and more[-2]["seconds"] < 1 <= more[-1]["seconds"]


class SlowToShow(UnconditionalTask):
    def preview(self) -> Image.Image:
        time.sleep(1)
        return Image.new("RGB", (8, 8))


def test_pictures_and_scores_are_not_training(tmp_path):
    """A one-second preview midway through a run of a third of a second."""
    asked = recipe(tmp_path / "run", 0.3)
    train(SlowToShow(asked.data, asked.model, asked.loop, conditional=False), asked.loop, {})
    assert len(list((tmp_path / "run" / "samples").iterdir())) == 2
    assert 0.3 <= lines(tmp_path / "run")[-1]["seconds"] < 1


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step(tmp_path):
    options = ["--max-train-time", "0.5", "--train-batch-size", "8", "--dataloader-num-workers", "0"]
    args = ["nice", "--preset", "tiny", *options, "--report-to", "none", "--output-dir", str(tmp_path / "run")]
    on_cpu = os.environ | {"ACCELERATE_USE_CPU": "true"}  # also on machines with GPUs
    command = launched(2, "-m", "t2i.training", *args)
    subprocess.run(command, check=True, capture_output=True, timeout=120, env=on_cpu)
    last = lines(tmp_path / "run")[-1]
    assert last["seconds"] >= 0.5 and last["images"] == 16 * last["step"]
    assert progress(tmp_path / "run" / "latest")["steps"] == last["step"]


def test_a_model_is_told_how_far_the_training_is(tmp_path):
    tiny = RECIPES["hvae"]("tiny")
    loop = {"output_dir": str(tmp_path), "max_train_steps": 4, "train_batch_size": 8, "dataloader_num_workers": 0}
    loop = dataclasses.replace(tiny.loop, report_to="none", **loop)
    task = dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, scored=20), loop=loop).task()
    assert task.model.progress == 1
    train(task, loop, {})
    assert task.model.progress == 3 / 4  # of the steps, before the last one
    budget = Budget(LoopConfig(max_train_time=10.0), 7, 8.0)
    assert budget.done == 0.8 and [budget.done for _ in budget.steps() if budget.spend(1.5)] == [0.95, 1.0]
