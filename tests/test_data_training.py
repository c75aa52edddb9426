"""Runs on shards with an unreadable image, mixed with toybox, cropped and flipped at random."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile

import numpy as np
import pytest
from PIL import Image
from test_training import command, losses, vqvae_recipe

from t2i.training.cli import run
from t2i.training.config import DataConfig


@pytest.fixture
def data(tmp_path, monkeypatch) -> str:
    """Two shards whose index is not there yet, in a mixture."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng, shards = np.random.default_rng(0), tmp_path / "shards"
    shards.mkdir()
    for k in range(2):
        with tarfile.open(shards / f"{k}.tar", "w") as tar:
            for i in range(20):
                file = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)).save(file, "png")
                image = b"no image" if (k, i) == (1, 3) else file.getvalue()
                for name, content in ((f"{i:03}.png", image), (f"{i:03}.txt", b"noise")):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return f"{shards}=3,toybox-v1=1"


def test_a_resumed_run_on_shards_is_one_that_never_stopped(data, tmp_path, capsys):
    options = {"data": DataConfig(data, image_size=16, crop="random", random_flip=True)}
    options |= {"train_batch_size": 8, "lr_scheduler": "constant"}
    run(vqvae_recipe(tmp_path / "whole", **options))
    said = capsys.readouterr().err
    assert "index of 40 images in the 2 shards" in said
    assert f"replaced: {tmp_path}/shards/1.tar/003.png is not an image that can be read" in said
    run(vqvae_recipe(tmp_path / "parts", max_train_steps=3, dataloader_num_workers=2, **options))
    run(vqvae_recipe(tmp_path / "parts", resume="latest", dataloader_num_workers=1, **options))
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    weights = [tmp_path / name / "latest" / "state" / "model.safetensors" for name in ("whole", "parts")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_two_processes_on_shards_train_as_one(data, tmp_path):
    found = {}
    for processes in (2, 1):  # two make the index together
        sizes = ["--train-batch-size", str(8 // processes), "--max-train-steps", "4", "--warmup-batches", "1"]
        flags = ["--data", data, "--image-size", "16", "--crop", "random", "--random-flip"]
        folder = tmp_path / str(processes)
        args = command("vqvae-toybox", *sizes, *flags, "--output-dir", str(folder), processes=processes)
        on_cpu = os.environ | {"ACCELERATE_USE_CPU": "true"}  # also on machines with GPUs
        subprocess.run(args, check=True, capture_output=True, timeout=120, env=on_cpu)
        found[processes] = losses(folder)
    assert np.allclose(found[1], found[2], rtol=1e-3)
