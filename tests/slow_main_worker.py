"""A run whose main process takes longer to preview, to evaluate and to save than a collective may wait.

A program, started by `launching.launched` in test_training_processes.py.
"""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path

from PIL import Image
from test_training import vqvae_recipe

from t2i import processes
from t2i.training import checkpoints, state
from t2i.training.loop import train
from t2i.training.recipes.dalle.tokenizers import TokenizerTask
from t2i.training.state import write_tensors
from t2i.training.task import Evaluation

TIMEOUT = 8.0  # seconds


class Slow(TokenizerTask):
    def preview(self) -> Image.Image:
        time.sleep(TIMEOUT + 2)
        return Image.new("RGB", (8, 8))

    def evaluate(self) -> Evaluation:
        time.sleep(2)
        return Evaluation({"score": 1.0})

    def save(self, folder: Path) -> None:
        time.sleep(TIMEOUT + 2)
        super().save(folder)


def write_slowly(folder: Path, tensors: dict) -> None:
    time.sleep(TIMEOUT + 2)
    write_tensors(folder, tensors)


def main(folder: Path, async_save: bool) -> None:
    processes.LONGEST_WAIT = timedelta(seconds=TIMEOUT)
    processes.this_process()
    asked = vqvae_recipe(folder, max_train_steps=2, checkpointing_steps=2, train_batch_size=2, async_save=async_save)
    train(Slow(asked), asked.loop, {})


if __name__ == "__main__":
    state.write_tensors = checkpoints.write_tensors = write_slowly
    main(Path(sys.argv[1]), sys.argv[2] == "async")
