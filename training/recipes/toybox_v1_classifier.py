"""The toybox classifier, used to score generated images (`t2i eval --metrics compositional`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from t2i.checks import check_real
from t2i.contact_sheet import contact_sheet
from t2i.data.sources import TOYBOX_ITEMS
from t2i.data.toybox_v1 import Toybox
from t2i.data.toybox_v1.classifier import IMAGE_SIZE, Prediction, ToyboxClassifier, targets
from t2i.images import to_pil, to_tensor
from t2i.training.config import LoopConfig
from t2i.training.model_options import ModelOptions, model_options
from t2i.training.task import Task

PREVIEW_SEED = 2**20  # seed of the previews' scenes; runs use seeds from 0 up


classifier_options = partial(model_options, ToyboxClassifier, exclude=("kinds", "attributes"))


@dataclass(frozen=True)
class ToyboxClassifierRecipe:
    """Options of `t2i train toybox-v1-classifier`."""

    blur: float = 0.9
    """Maximum blur radius in pixels, applied to half of the images, as images decoded by a tokenizer are soft."""
    noise: float = 0.04
    """Maximum standard deviation of pixel noise, relative to the range from black to white."""
    brightness: float = 0.08
    """Maximum relative change of brightness and contrast; more would turn white into grey."""
    model: ModelOptions = field(default_factory=classifier_options)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        for name in ("blur", "noise", "brightness"):
            check_real(name, getattr(self, name), most=2)

    def task(self) -> ToyboxClassifierTask:
        return ToyboxClassifierTask(self)


def toybox_v1_classifier(preset: str = "base") -> ToyboxClassifierRecipe:
    """The classifier of toybox-v1, for `--metrics compositional`: predicts placement, kinds and attributes.

    Trained on all pairs, including held-out ones: a classifier that had never seen an avocado armchair would be biased
    against the images whose score matters most. No pipeline is trained on its predictions.

    base: `t2i train toybox-v1-classifier`, 5 minutes on two cores
    tiny: `t2i train toybox-v1-classifier --preset tiny`, half a minute on two cores; inaccurate
    """
    if preset == "tiny":
        run = "runs/tiny-toybox-v1-classifier"
        model = classifier_options(channels=(16, 32, 64), blocks=(0, 0, 1))
        loop = LoopConfig(run, max_train_steps=100, train_batch_size=64, checkpointing_steps=50, lr_warmup_steps=20)
        return ToyboxClassifierRecipe(model=model, loop=loop)
    run = "runs/toybox-v1-classifier"
    loop = LoopConfig(run, max_train_steps=2_200, train_batch_size=64, checkpointing_steps=550, learning_rate=2e-3)
    return ToyboxClassifierRecipe(model=classifier_options(blocks=(0, 1, 2)), loop=loop)


class ToyboxClassifierTask(Task):
    """Trains on slightly degraded toybox images and their labels."""

    SHOWN = 24
    next_command = "t2i eval toybox/dalle --metrics compositional --classifier {run}/latest"

    def __init__(self, recipe: ToyboxClassifierRecipe):
        self.recipe = recipe
        self.source = Toybox("all", size=IMAGE_SIZE, seed=recipe.loop.seed, num=TOYBOX_ITEMS)
        self.prepare = PrepareScene(recipe.blur, recipe.noise, recipe.brightness)
        torch.manual_seed(recipe.loop.seed)  # the same initial weights on every process
        self.model = recipe.model.build()

    def loss(self, images: Tensor, layout: Tensor, kinds: Tensor, attributes: Tensor) -> dict[str, Tensor]:
        return self.model.loss(to_tensor(images), layout, kinds, attributes)

    def preview(self) -> Image.Image:
        """New, undegraded images with their predictions, and with the truth where a prediction is wrong."""
        data = Toybox("all", size=IMAGE_SIZE, seed=PREVIEW_SEED + self.recipe.loop.seed, num=self.SHOWN)
        items = [data[i] for i in range(self.SHOWN)]
        images = to_tensor(torch.from_numpy(np.stack([item["image"] for item in items])))
        labels = []
        for prediction, item in zip(self.model.predict(images), items, strict=True):
            truth = Prediction.of(item["scene"])
            labels.append(str(prediction) if prediction == truth else f"{prediction} (truth: {truth})")
        return contact_sheet(to_pil(images), labels, columns=8, max_lines=4)

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)


@dataclass(frozen=True)
class PrepareScene:
    """Prepares a slightly degraded image and its labels."""

    blur: float
    noise: float
    brightness: float

    def __call__(self, item: dict, rng: np.random.Generator) -> dict:
        """-> images, uint8 (64, 64, 3); layout; kinds (2,); attributes (2,)"""
        layout, kinds, attributes = targets(item["scene"])
        image = spoil(item["image"], rng, self.blur, self.noise, self.brightness)
        return {"images": image, "layout": layout, "kinds": np.array(kinds), "attributes": np.array(attributes)}


def spoil(image: np.ndarray, rng: np.random.Generator, blur: float, noise: float, brightness: float) -> np.ndarray:
    """Apply random blur, brightness, contrast and pixel noise, as generated images are never as clean as renders.

    uint8 (S, S, 3) -> the same shape; the input is not modified.
    """
    if rng.random() < 0.5:
        radius = blur * rng.random()
        image = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))
    contrast, shift = 1 + brightness * (2 * rng.random(2) - 1)
    pixels = (image.astype(np.float32) - 127.5) * np.float32(contrast) + np.float32(127.5 * shift)
    pixels += np.float32(255 * noise * rng.random()) * rng.standard_normal(image.shape, dtype=np.float32)
    return pixels.round().clip(0, 255).astype(np.uint8)
