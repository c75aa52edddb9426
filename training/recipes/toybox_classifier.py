"""The toybox classifier, by whose predictions pipelines are scored (`t2i eval --metrics compositional`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from t2i.contact_sheet import contact_sheet
from t2i.data.sources import TOYBOX_ITEMS
from t2i.data.toybox import Toybox
from t2i.data.toybox.reader import IMAGE_SIZE, Reader, Reading, targets
from t2i.images import to_pil, to_tensor
from t2i.training.config import LoopConfig
from t2i.training.task import Task

PREVIEW_SEED = 2**20  # of previews' scenes; a run's own world is seeded from 0 up


@dataclass(frozen=True)
class ReaderModelConfig:
    channels: tuple[int, ...] = (32, 64, 128)
    """Channels of each level, fine to coarse; every level halves the side."""
    blocks: tuple[int, ...] = (0, 1, 2)
    """Residual blocks of each level."""


@dataclass(frozen=True)
class ReaderRecipe:
    blur: float = 0.9
    """Largest radius of the blur of half of the images, in pixels: images out of a tokenizer are soft."""
    noise: float = 0.04
    """Largest standard deviation of pixel noise; black to white is 1."""
    brightness: float = 0.08
    """Largest relative change of brightness and contrast; more would turn white into gray."""
    model: ReaderModelConfig = field(default_factory=ReaderModelConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        for name in ("blur", "noise", "brightness"):
            if not 0 <= getattr(self, name) <= 2:
                raise ValueError(f"{name} must lie in [0, 2], not {getattr(self, name)}")

    def task(self) -> ReaderTask:
        return ReaderTask(self)


def reader_toybox(preset: str = "base") -> ReaderRecipe:
    """The toybox classifier: predicts layout, kinds and attributes of 64×64 toybox images.

    It is trained on all pairs, also the held-out ones: a classifier that had never seen an avocado armchair would be
    biased against the images whose score matters most. No pipeline is trained on its predictions.

    base: `t2i train reader-toybox`, 5 minutes on two cores; its accuracy on real renders is the ceiling in the README
    tiny: `t2i train reader-toybox --preset tiny`, half a minute on two cores, with a low accuracy
    """
    if preset == "tiny":
        run = "runs/tiny-reader"
        model = ReaderModelConfig((16, 32, 64), (0, 0, 1))
        loop = LoopConfig(run, max_train_steps=100, train_batch_size=64, checkpointing_steps=50, lr_warmup_steps=20)
        return ReaderRecipe(model=model, loop=loop)
    run = "runs/reader-toybox"
    loop = LoopConfig(run, max_train_steps=2_200, train_batch_size=64, checkpointing_steps=550, learning_rate=2e-3)
    return ReaderRecipe(loop=loop)


class ReaderTask(Task):
    """Toybox images, slightly degraded, and what is in them."""

    SHOWN = 24
    next_command = "t2i eval toybox/dalle --metrics compositional --classifier {run}/latest"

    def __init__(self, recipe: ReaderRecipe):
        self.recipe = recipe
        self.source = Toybox("all", size=IMAGE_SIZE, seed=recipe.loop.seed, num=TOYBOX_ITEMS)
        self.prepare = PrepareScene(recipe.blur, recipe.noise, recipe.brightness)
        torch.manual_seed(recipe.loop.seed)  # the same initial weights on every process
        self.model = Reader(recipe.model.channels, recipe.model.blocks)

    def loss(self, images: Tensor, layout: Tensor, kinds: Tensor, attributes: Tensor) -> dict[str, Tensor]:
        return self.model.loss(to_tensor(images), layout, kinds, attributes)

    def preview(self) -> Image.Image:
        """New images, not degraded, with their predictions; with the truth too if a prediction is wrong."""
        data = Toybox("all", size=IMAGE_SIZE, seed=PREVIEW_SEED + self.recipe.loop.seed, num=self.SHOWN)
        items = [data[i] for i in range(self.SHOWN)]
        images = to_tensor(torch.from_numpy(np.stack([item["image"] for item in items])))
        labels = []
        for reading, item in zip(self.model.read(images), items, strict=True):
            truth = Reading.of(item["scene"])
            labels.append(str(reading) if reading == truth else f"{reading} (truth: {truth})")
        return contact_sheet(to_pil(images), labels, columns=8, max_lines=4)

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)


@dataclass(frozen=True)
class PrepareScene:
    """An image, slightly degraded, and its true labels."""

    blur: float
    noise: float
    brightness: float

    def __call__(self, item: dict, rng: np.random.Generator) -> dict:
        """-> images, uint8 (64, 64, 3); layout; kinds (2,); attributes (2,)"""
        layout, kinds, attributes = targets(item["scene"])
        image = spoil(item["image"], rng, self.blur, self.noise, self.brightness)
        return {"images": image, "layout": layout, "kinds": np.array(kinds), "attributes": np.array(attributes)}


def spoil(image: np.ndarray, rng: np.random.Generator, blur: float, noise: float, brightness: float) -> np.ndarray:
    """Random blur, brightness, contrast and pixel noise: a generated image is never as clean as a render.

    uint8 (S, S, 3) -> the same shape; the input is left as it is.
    """
    if rng.random() < 0.5:
        radius = blur * rng.random()
        image = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))
    contrast, shift = 1 + brightness * (2 * rng.random(2) - 1)
    pixels = (image.astype(np.float32) - 127.5) * np.float32(contrast) + np.float32(127.5 * shift)
    pixels += np.float32(255 * noise * rng.random()) * rng.standard_normal(image.shape, dtype=np.float32)
    return pixels.round().clip(0, 255).astype(np.uint8)
