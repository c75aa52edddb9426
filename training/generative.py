"""Base class of tasks whose model is the trained part of a pipeline."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from t2i.contact_sheet import contact_sheet
from t2i.training.task import Task


class GenerativeTask(Task):
    """Previews are images of the validation prompts; checkpoints are complete pipelines.

    Attributes:
        validation_prompts: prompts of the previews; default: the first captions of the data.
    """

    CAPTIONS = 8  # captions from the data used if there are no validation prompts
    IMAGES_PER_PROMPT = 2
    SAMPLING: ClassVar[dict[str, int | float]] = {}  # arguments of the pipeline call that differ from its defaults

    validation_prompts: tuple[str, ...] = ()

    def pipeline(self) -> DiffusionPipeline:
        """The pipeline with the current weights."""
        raise NotImplementedError

    def preview(self) -> Image.Image:
        """Images of the validation prompts, always with the same seeds."""
        prompts = list(self.validation_prompts) or list(self.source.captions(self.CAPTIONS))
        generators = [torch.Generator().manual_seed(i) for i in range(self.IMAGES_PER_PROMPT * len(prompts))]
        pipe = self.pipeline()
        pipe.set_progress_bar_config(disable=True)
        images = pipe(prompts, num_images_per_prompt=self.IMAGES_PER_PROMPT, generator=generators, **self.SAMPLING)
        return contact_sheet(images.images, [p for p in prompts for _ in range(self.IMAGES_PER_PROMPT)], columns=8)

    def save(self, folder: Path) -> None:
        self.pipeline().save_pretrained(folder)

    @property
    def next_command(self) -> str:
        return self.generate_command("--pipeline {run}/latest")

    def generate_command(self, pipeline: str) -> str:
        """The `t2i generate` command with a validation prompt or a caption from the data."""
        prompt = next(iter(self.validation_prompts), None) or next(iter(self.source.captions(1)))
        options = (f"--{name.replace('_', '-')} {value:g}" for name, value in self.SAMPLING.items())
        return " ".join(["t2i generate", shlex.quote(prompt), pipeline, *options])
