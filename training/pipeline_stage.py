"""What the stages share whose model is the last part of a pipeline."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from t2i.contact_sheet import contact_sheet
from t2i.training.task import Task


class PipelineStage(Task):
    """A stage (see loop.py) that draws its validation prompts at each checkpoint, and saves a pipeline that can.

    A subclass sets `source` and a `recipe` with `validation_prompts`, and says what its `pipeline` is.
    """

    SHOWN = 8  # captions of the data, where the recipe names no prompts
    EACH = 2  # pictures of a prompt
    OPTIONS = ""  # of `t2i generate`, which such a pipeline needs
    HOW: ClassVar[dict] = {}  # they are drawn, beside the pipeline's defaults

    def pipeline(self) -> DiffusionPipeline:
        """All parts, with the weights as they are now."""
        raise NotImplementedError

    def preview(self) -> Image.Image:
        """Pictures of the validation prompts, always from the same seeds."""
        prompts = list(self.recipe.validation_prompts) or list(self.source.captions(self.SHOWN))
        generators = [torch.Generator().manual_seed(i) for i in range(self.EACH * len(prompts))]
        pipe = self.pipeline()
        pipe.set_progress_bar_config(disable=True)
        images = pipe(prompts, num_images_per_prompt=self.EACH, generator=generators, **self.HOW).images
        return contact_sheet(images, [p for p in prompts for _ in range(self.EACH)], columns=8)

    def first_prompt(self) -> str:
        """A validation prompt, or a caption of the data."""
        return next(iter(self.recipe.validation_prompts), None) or next(iter(self.source.captions(1)))

    @property
    def next_command(self) -> str:
        return f"t2i generate {shlex.quote(self.first_prompt())} --pipeline {{run}}/latest{self.OPTIONS}"

    def save(self, folder: Path) -> None:
        self.pipeline().save_pretrained(folder)
