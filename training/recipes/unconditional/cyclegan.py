"""CycleGAN: unpaired translation between two toybox textures or styles, or two folders of images."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t2i.checks import check_whole
from t2i.contact_sheet import contact_sheet
from t2i.data.domains import PrepareBoth, Unpaired
from t2i.data.splits import TEST_SEED
from t2i.images import to_pil, to_tensor
from t2i.models.adversarial.cyclegan import CycleGAN, CycleGANObjective
from t2i.training.config import LoopConfig, check_image_size
from t2i.training.model_options import ModelOptions, model_options
from t2i.training.task import Evaluation, Task


@dataclass(frozen=True)
class DomainsConfig:
    """The two sets of images to translate between."""

    domain_a: str = "toybox-v1:white"
    """Domain A: 'toybox-v1:ATTRIBUTE' (one thing per image, with it), an image folder, or a dataset on the Hub."""
    domain_b: str = "toybox-v1:zebra"
    """Domain B, as domain A. True translations, and hence scores, exist only if both domains are toybox."""
    image_column: str = "image"
    """Name of the image column."""
    caption_column: str = "text"
    """Name of the caption column."""
    image_size: int = 32
    """Side of the square images, in pixels."""
    scored: int = 128
    """Number of held-out scenes translated in both directions for the score."""

    def __post_init__(self) -> None:
        check_image_size(self.image_size)
        check_whole("scored", self.scored)


@dataclass(frozen=True)
class CycleGANRecipe:
    """Options of `t2i train cyclegan`."""

    data: DomainsConfig = field(default_factory=DomainsConfig)
    model: ModelOptions = field(default_factory=lambda: model_options(CycleGAN))
    objective: ModelOptions = field(default_factory=lambda: model_options(CycleGANObjective))
    loop: LoopConfig = field(default_factory=LoopConfig)

    def task(self) -> CycleGANTask:
        return CycleGANTask(self)


def cyclegan(preset: str = "base") -> CycleGANRecipe:
    """CycleGAN: translates white things to zebra stripes and back, trained without pairs.

    base: `t2i train cyclegan`, 32×32 toybox images; another pair: --domain-a toybox-v1:wood --domain-b toybox-v1:brick
    tiny: `t2i train cyclegan --preset tiny`, 16×16, half a minute on one core
    """
    if preset == "tiny":
        model = model_options(CycleGAN, widths=(16, 32))
        objective = model_options(CycleGANObjective, discriminator_channels=(16, 32))
        loop = _loop("tiny-cyclegan", 1e-3, max_train_steps=200, checkpointing_steps=100)
        return CycleGANRecipe(DomainsConfig(image_size=16, scored=64), model, objective, loop)
    return CycleGANRecipe(loop=_loop("cyclegan", 4e-4, max_train_steps=4_000, checkpointing_steps=250))


def _loop(name: str, learning_rate: float, **steps: int) -> LoopConfig:
    game = {"adam_beta1": 0.5, "lr_warmup_steps": 0, "max_grad_norm": 1e3}  # see recipes/unconditional/adversarial.py
    return LoopConfig(f"runs/{name}", learning_rate=learning_rate, train_batch_size=8, **steps, **game)


class CycleGANTask(Task):
    """Trains on images of two domains; scored on images with known translations if both domains are toybox."""

    SHOWN = 8
    next_command = 'in Python, t2i.models.adversarial.cyclegan.CycleGAN.from_pretrained("{run}/latest")'

    def __init__(self, recipe: CycleGANRecipe):
        data, seed = recipe.data, recipe.loop.seed
        columns = {"image_column": data.image_column, "caption_column": data.caption_column}
        self.source = Unpaired(data.domain_a, data.domain_b, data.image_size, seed, **columns)
        self.prepare = PrepareBoth(self.source.b)
        pairs = self.source.pairs(data.scored, TEST_SEED + seed)
        self.pairs = None if pairs is None else tuple(to_tensor(torch.from_numpy(side)) for side in pairs)
        torch.manual_seed(seed)  # the same initial weights on every process
        self.model = recipe.objective.build(recipe.model.build(), data.image_size)

    def loss(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """a, b: uint8 (B, S, S, 3), images of the two domains"""
        return self.model.loss(to_tensor(a), to_tensor(b))

    @torch.no_grad()
    def preview(self) -> Image.Image:
        """Rows: images of A, their translations and reconstructions; the same for B; the true translations if known."""
        if self.pairs is None:
            shown = range(min(self.SHOWN, len(self.source)))
            items = [self.prepare(self.source[i], np.random.default_rng((0, i))) for i in shown]
            a, b = (to_tensor(torch.from_numpy(np.stack([item[name] for item in items]))) for name in "ab")
        else:
            a, b = (side[: self.SHOWN] for side in self.pairs)
        model, names = self.model.model, ("A", "A to B", "and back", "true B", "B to A")
        made_b, made_a = (model.translate(x.to(model.device), to) for x, to in ((a, "b"), (b, "a")))
        rows = [a, made_b, model.translate(made_b, "a"), b, made_a]
        if self.pairs is None:
            names = (*names[:3], "some B", names[4])
        images = to_pil(torch.cat([row.float().cpu() for row in rows]))
        return contact_sheet(images, [name for name in names for _ in a], columns=len(a), cell=64)

    def save(self, folder: Path) -> None:
        """Save the generators."""
        self.model.model.save_pretrained(folder)

    def evaluate(self) -> Evaluation | None:
        return None if self.pairs is None else Evaluation(self.score())

    @torch.no_grad()
    def score(self, batch: int = 32) -> dict[str, float]:
        """Mean absolute errors of pixels in [-1, 1]: of both translations, the untranslated images, and the cycles."""
        model, sums = self.model.model, dict.fromkeys(("a_to_b", "b_to_a", "untranslated", "cycle_a", "cycle_b"), 0.0)
        a, b = self.pairs
        for start in range(0, len(a), batch):
            x, y = (side[start : start + batch].to(model.device) for side in (a, b))
            made_y, made_x = model.translate(x, "b"), model.translate(y, "a")
            errors = made_y - y, made_x - x, x - y, model.translate(made_y, "a") - x, model.translate(made_x, "b") - y
            for name, error in zip(sums, errors, strict=True):
                sums[name] += float(error.float().abs().mean()) * len(x) / len(a)
        return {"pictures": len(a), **sums}
