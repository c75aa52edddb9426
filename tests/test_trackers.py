"""Accelerate's trackers in training runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_training import vqvae_recipe

from t2i.training.cli import run
from t2i.training.config import LoopConfig


def reported(folder: Path, **loop):
    asked = vqvae_recipe(folder, checkpointing_steps=2, **loop)
    return replace(asked, loop=replace(asked.loop, report_to="tensorboard"))


def test_every_tracker_of_accelerate_can_be_chosen():
    assert set(get_args(get_type_hints(LoopConfig)["report_to"])) == {*map(str, LoggerType), "none"}


def test_metrics_and_previews_reach_the_tracker_and_a_resumed_run_takes_the_place_of_what_was_lost(tmp_path):
    run(reported(tmp_path / "run", max_train_steps=2))
    run(reported(tmp_path / "run", max_train_steps=10, resume="latest"))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), {"images": 0, "scalars": 0}).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 10]
    assert [event.step for event in events.Images("samples")] == [2, 4, 6, 8, 10]


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_written(tmp_path):
    missing = next(
        name for name in map(str, LoggerType) if name != "all" and name not in map(str, get_available_trackers())
    )
    asked = reported(tmp_path / "run")
    with pytest.raises(ValueError, match=rf"--report-to {missing} needs a package .* pip install {missing[:4]}"):
        run(replace(asked, loop=replace(asked.loop, report_to=missing)))
    assert not (tmp_path / "run").exists()
