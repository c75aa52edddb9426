"""A run of an earlier version, tests/frozen_run, opens and goes on under this one.

`python tests/test_frozen_run.py` makes it again, with scratch files in ./run and ./frozen. That is done only when a
version stops reading older runs on purpose.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from t2i.tokenizers.auto import open_image_tokenizer
from t2i.training.cli import run
from t2i.training.config import DataConfig, LoopConfig
from t2i.training.recipes import RECIPES

FROZEN = Path(__file__).with_name("frozen_run")
MODEL = {"channels": (16, 16), "encoder_blocks": (0, 1), "decoder_blocks": (0, 1), "codebook_size": 16, "code_width": 8}


def recipe(folder: Path, steps: int, resume: str | None = None):
    tiny = RECIPES["vqvae-toybox"]("tiny")
    loop = LoopConfig(
        output_dir=str(folder),
        resume=resume,
        max_train_steps=steps,
        train_batch_size=4,
        checkpointing_steps=2,
        checkpoints_total_limit=1,
        lr_warmup_steps=1,
        lr_scheduler="constant",
        dataloader_num_workers=0,
        report_to="none",
        optimizer="muon",
        learning_rate=1e-3,
    )
    model = dataclasses.replace(tiny.model, **MODEL, warmup_batches=1, patch=2)
    return dataclasses.replace(tiny, data=DataConfig("toybox-v1", image_size=16), model=model, loop=loop)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def make(folder: Path) -> None:
    """Two steps of the run, and the losses of two more for comparison."""
    for steps, resume in ((2, None), (4, "latest")):
        run(recipe(folder, steps, resume))
        if steps == 2:
            shutil.copytree(folder, folder.with_name("frozen"), symlinks=True)
    shutil.rmtree(FROZEN, ignore_errors=True)
    FROZEN.mkdir()
    for name in ("checkpoint-2", "recipe.json", "metrics.jsonl"):
        source = folder.with_name("frozen") / name
        shutil.copytree(source, FROZEN / name) if source.is_dir() else shutil.copy(source, FROZEN / name)
    tokenizer = open_image_tokenizer(FROZEN / "checkpoint-2")
    expected = {"losses": losses(folder), "codes": codes(tokenizer)}
    (FROZEN / "expected.json").write_text(json.dumps(expected) + "\n")


def codes(tokenizer) -> list[int]:
    image = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)
    with torch.no_grad():
        return tokenizer.encode(image).flatten().tolist()


@pytest.fixture
def frozen(tmp_path) -> Path:
    return Path(shutil.copytree(FROZEN, tmp_path / "run"))


def test_its_weights_open(frozen):
    expected = json.loads((frozen / "expected.json").read_text())
    assert codes(open_image_tokenizer(frozen)) == expected["codes"]


def test_it_goes_on_to_the_losses_that_it_had(frozen):
    expected = json.loads((frozen / "expected.json").read_text())["losses"]
    (frozen / "expected.json").unlink()
    run(recipe(frozen, 4, resume="latest"))
    assert losses(frozen) == pytest.approx(expected, rel=1e-3)
    assert losses(frozen)[:2] == expected[:2]


if __name__ == "__main__":
    make(Path("run"))
