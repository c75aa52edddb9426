"""Extractors without downloads: pixels, random convolutions, and the toybox classifier.

Shapes: N images · H × W pixels · D dimensions
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from t2i.data.image_file import square
from t2i.data.toybox_v1.classifier import IMAGE_SIZE, REGIONS, load_classifier
from t2i.eval.features.base import Extractor, area_resize
from t2i.images import to_tensor
from t2i.weights import digest

PIXEL_SIDE, RANDOM_SIDE = 32, 64
RANDOM_CHANNELS = (64, 64, 128)  # per layer; the mean and standard deviation of each channel give 512 features
RANDOM_SEED = 0


class PixelExtractor(Extractor):
    """The image itself, in [0, 1], area-averaged to 32 × 32: D = 3,072. Aspect ratios are not preserved."""

    def __init__(self, device: str = "cpu"):
        no_weights = hashlib.sha256().hexdigest()
        super().__init__("pixels", 3 * PIXEL_SIDE**2, f"area-{PIXEL_SIDE}", no_weights, device)

    def prepare(self, images: Tensor) -> Tensor:
        return area_resize(images, PIXEL_SIDE) / 255

    def forward(self, prepared: Tensor) -> Tensor:
        return prepared.flatten(1)


class RandomExtractor(Extractor):
    """Three convolutions with fixed random weights, stride 2 and ReLU each: D = 512.

    Features are the spatial mean and standard deviation of every channel of every layer. They respond to colour, edges
    and texture, and being untrained, favour no domain.
    """

    def __init__(self, device: str = "cpu"):
        layers, generator = [], torch.Generator().manual_seed(RANDOM_SEED)
        for before, after in zip((3, *RANDOM_CHANNELS), RANDOM_CHANNELS, strict=False):
            layer = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
            # Scaled integers: the last digits of normal deviates differ between processors.
            integers = torch.randint(-127, 128, layer.weight.shape, generator=generator)
            layer.weight.data = integers.float() * (math.sqrt(6 / (9 * before)) / 127)  # He et al. 2015, uniform
            layers.append(layer)
        self.layers = nn.ModuleList(layers).eval().requires_grad_(False).to(device)
        super().__init__("random", 2 * sum(RANDOM_CHANNELS), f"area-{RANDOM_SIDE}", digest(self.layers), device)

    def prepare(self, images: Tensor) -> Tensor:
        return area_resize(images, RANDOM_SIDE) / 127.5 - 1

    def forward(self, prepared: Tensor) -> Tensor:
        x, parts = prepared, []
        for layer in self.layers:
            x = layer(x).relu()
            parts += [x.mean((2, 3)), x.std((2, 3), correction=0)]
        return torch.cat(parts, 1)


class ToyboxExtractor(Extractor):
    """The toybox classifier's regions before its heads: D = 5 × channels, 640 for the embedded one.

    Args:
        folder: of another classifier. Raises FileNotFoundError or ValueError if there is none.
    """

    def __init__(self, folder: str | Path | None = None, device: str = "cpu"):
        self.model = load_classifier(folder).to(device)
        name = "toybox-v1" if folder is None else f"toybox-v1:{Path(folder).name}"
        dim = len(REGIONS) * self.model.config.channels[-1]
        super().__init__(name, dim, f"square-lanczos-{IMAGE_SIZE}", digest(self.model), device)

    def prepare(self, images: Tensor) -> Tensor:
        rows = images.permute(0, 2, 3, 1).numpy()
        return to_tensor(torch.from_numpy(np.stack([square(Image.fromarray(row), IMAGE_SIZE) for row in rows])))

    def forward(self, prepared: Tensor) -> Tensor:
        return self.model.features(prepared).flatten(1)
