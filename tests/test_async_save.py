"""Checkpoints that a thread finishes are those of a run that waits for them."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from accelerate import Accelerator
from test_checkpoints import contents, nice
from test_training import vqvae_recipe

from t2i.manifest import checkpoints, damage, write_manifest
from t2i.training.background import Background
from t2i.training.checkpoints import Checkpoints
from t2i.training.cli import run
from t2i.training.lock import LOCK
from t2i.training.loop import train
from t2i.training.recipes.dalle.tokenizers import TokenizerTask
from t2i.training.task import Evaluation


class Scored(TokenizerTask):
    """Its scores have no loss to compare checkpoints by."""

    def evaluate(self) -> Evaluation:
        return Evaluation({"score": 1.0})


def scored(folder: Path, **options) -> None:
    asked = vqvae_recipe(folder, max_train_steps=6, checkpointing_steps=2, **options)
    train(Scored(asked), asked.loop, {})


def train_nice(folder: Path, **options) -> None:
    run(nice(folder, **options))


def without_seconds(folder: Path) -> dict:
    """The files of a checkpoint but for the time that training took, which two runs do not share."""
    files: dict = contents(folder)
    if (state := "state/progress.json") in files:
        files[state] = json.loads(files[state]) | {"seconds": None}
        files["manifest.json"] = json.loads(files["manifest.json"])["files"]
        del files["manifest.json"][state]
    return files


@pytest.mark.parametrize("make", [scored, train_nice])
def test_all_files_are_those_of_a_run_that_waits(make, tmp_path):
    """Scores and the best checkpoint included."""
    saved = []
    for asynchronous in (False, True):
        folder = tmp_path / str(asynchronous)
        make(folder, async_save=asynchronous)
        assert (folder / "latest").resolve().name == "checkpoint-6" and not list(folder.glob(".*"))
        parts = [*checkpoints(folder), *folder.glob("best")]
        assert all(damage(part, resuming=True) is None for part in parts)
        saved.append({part.name: without_seconds(part) for part in parts})
    assert saved[0].keys() >= {"checkpoint-4", "checkpoint-6"} and "scores.json" in saved[0]["checkpoint-6"]
    assert saved[0] == saved[1]


def test_steps_are_made_while_a_checkpoint_is_written_and_one_is_written_at_a_time(tmp_path, monkeypatch):
    log, writing = tmp_path / "run" / "metrics.jsonl", threading.Lock()

    def write_after_the_next_step(folder: Path) -> None:
        assert writing.acquire(blocking=False), "another checkpoint is being written"
        step, began = int(folder.name.split("-")[1].split(".")[0]), time.monotonic()
        while len(log.read_text().splitlines()) < min(step + 1, 6):
            assert time.monotonic() - began < 30, "no step was made"
            time.sleep(0.01)
        write_manifest(folder)
        writing.release()

    monkeypatch.setattr("t2i.training.checkpoints.write_manifest", write_after_the_next_step)
    last = run(vqvae_recipe(tmp_path / "run", max_train_steps=6, checkpointing_steps=2, async_save=True))
    assert last.name == "checkpoint-6" and damage(last, resuming=True) is None


def test_a_second_ctrl_c_leaves_the_folder_locked_until_the_thread_has_ended(tmp_path):
    go_on, lock = threading.Event(), tmp_path / "run" / LOCK
    with (
        pytest.raises(KeyboardInterrupt),
        Checkpoints(tmp_path / "run", 1, 8, Accelerator(), asynchronous=True) as saved,
    ):
        saved.open(None, {}, {})
        saved.background.do(go_on.wait)
        raise KeyboardInterrupt
    assert lock.exists()
    go_on.set()
    saved.background.join()
    assert not lock.exists()


def test_an_error_in_the_thread_is_raised_by_each_wait_after_all_work():
    background, done = Background(asynchronous=True), []
    background.do(lambda: done.append(1))
    background.do(lambda: 1 / 0)
    background.do(lambda: done.append(2))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            background.wait()
    assert done == [1, 2] and background.failed and not background.busy
