"""A recipe's training step in isolation: its task, with embedded parts for those trained earlier, and a batch."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from torch.utils.data import default_collate

from t2i.data.sampling import NumberedSamples

STAND_INS = {"autoencoder": "toybox/ldm", "text_encoder": "toybox/ldm", "cache": "none"}
TOKENIZERS = {64: "toybox/dalle", 128: "toybox/vqgan"}  # by image size


def task_of(recipe):
    """The recipe's task, on the CPU; nothing is written."""
    stand_ins = STAND_INS | {"tokenizer": TOKENIZERS[recipe.data.image_size]} if hasattr(recipe, "data") else STAND_INS
    return replace(recipe, **{k: v for k, v in stand_ins.items() if hasattr(recipe, k)}).task()


def batch_of(task, size: int, different: int = 4) -> dict[str, Tensor]:
    """A batch of the task's samples with only a few different ones. Latents are those of a cache."""
    samples = NumberedSamples(task.source, task.prepare, 0)
    few = [samples[i] for i in range(min(size, different))]
    batch = default_collate([few[i % len(few)] for i in range(size)])
    if "posterior_noise" in batch:
        batch["latents"] = batch.pop("posterior_noise")
        del batch["images"]
    return batch
