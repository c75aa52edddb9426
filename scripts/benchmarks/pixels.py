"""PixelCNNs: sampling with cached activations, compared with a full forward pass per pixel, as most samplers of such
models do (pytorch-generative's, for one). The images are also checked to be equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from benchmarks.timing import Benchmark, Row, clock, compare
from t2i.checks import UsageError
from t2i.models.autoregressive.causal import Autoregressive
from t2i.training.recipes import RECIPES

Model = Literal["pixelcnn", "gated-pixelcnn", "pixelcnn-pp"]


@dataclass(frozen=True)
class Pixels(Benchmark):
    """PixelCNNs: sampling with cached activations, compared with a full forward pass per pixel.

    Args:
        models: recipes whose base sizes are used, with random weights.
        batch: batch size.
        image_size: side of the grey images in pixels; they have the recipe's number of levels, or 256.
    """

    models: tuple[Model, ...] = ("pixelcnn", "gated-pixelcnn", "pixelcnn-pp")
    batch: int = 16
    image_size: int = 28
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise UsageError(f"--batch must be at least 1, not {self.batch}")

    def run(self) -> list[Row]:
        return [self._row(name) for name in self.models]

    def _row(self, name: str) -> Row:
        torch.manual_seed(0)
        recipe = RECIPES[name]("base")
        levels = recipe.data.levels or 256
        model = recipe.model.build(image_size=self.image_size, channels=1, levels=levels, num_classes=0).eval()
        self._check_same(name, model)
        ours = clock(lambda: model.sample(self.batch, generator=torch.Generator().manual_seed(0)))
        theirs = clock(lambda: model.sample(self.batch, generator=torch.Generator().manual_seed(0), cached=False))
        size = f"{self.batch} x {self.image_size}x{self.image_size}"
        return compare(f"sample {size}, {name}", ours, {"a whole pass for every pixel": theirs}, self.repeats)

    def _check_same(self, name: str, model: Autoregressive) -> None:
        once, again = (model.sample(2, generator=torch.Generator().manual_seed(1), cached=c) for c in (True, False))
        if not torch.equal(once, again):
            raise RuntimeError(f"{name} generates other images with its cache than without")
