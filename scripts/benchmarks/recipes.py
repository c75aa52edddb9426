"""A recipe's training step in isolation: its task, with stand-ins for parts trained earlier, and a batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor
from torch.utils.data import default_collate

from t2i.data.sampling import NumberedSamples

WEIGHTS = Path(__file__).parents[2] / "pipelines" / "weights" / "toybox"
STAND_INS = {  # for parts that earlier recipes train: existing parts of the same kind
    "tokenizer": str(WEIGHTS / "dalle" / "image_tokenizer"),
    "autoencoder": str(WEIGHTS / "ldm"),
    "text_encoder": str(WEIGHTS / "ldm"),
    "cache": "none",
}


def task_of(recipe):
    """The recipe's task, on the CPU; nothing is written."""
    return replace(recipe, **{k: v for k, v in STAND_INS.items() if hasattr(recipe, k)}).task()


def batch_of(task, size: int, different: int = 4) -> dict[str, Tensor]:
    """A batch of the task's samples with only a few different ones. Latents are those of a cache."""
    samples = NumberedSamples(task.source, task.prepare, 0)
    few = [samples[i] for i in range(min(size, different))]
    batch = default_collate([few[i % len(few)] for i in range(size)])
    if "posterior_noise" in batch:
        batch["latents"] = batch.pop("posterior_noise")
        del batch["images"]
    return batch
