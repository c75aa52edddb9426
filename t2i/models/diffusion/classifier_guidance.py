"""Classifier guidance of a score model: ∇ ln p(x_t | y) = ∇ ln p(x_t) + ∇ ln p(y | x_t).

Song et al. 2021, arXiv 2011.13456, § 5 and app. I; a scale above 1: Dhariwal and Nichol 2021, arXiv 2105.05233, § 4.
Shapes: B batch · C channels · S image side · K classes · N training images
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from t2i.models.base import dequantize
from t2i.models.diffusion.sde import SDE
from t2i.models.diffusion.unet import GROUPS, check_sizes
from t2i.nn.blocks import ResBlock

NoisyLogits = Callable[[Tensor, Tensor], Tensor]  # images (B, C, S, S) and times (B,) -> logits (B, K)


class NoisyClassifier(ModelMixin, ConfigMixin):
    """A classifier of noisy images, p(y | x_t).

    Args:
        image_size, channels, levels, num_classes: properties of the training images; K classes.
        widths: number of channels of each level, from fine to coarse; every level after the first halves the side.
        blocks: number of residual blocks per level.

    Raises ValueError for sizes that do not fit together.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 28,
        channels: int = 1,
        levels: int = 256,
        num_classes: int = 10,
        widths: tuple[int, ...] = (32, 64, 64),
        blocks: int = 1,
    ):
        super().__init__()
        check_sizes(image_size, widths, blocks)
        if num_classes < 2 or channels < 1 or not 2 <= levels <= 256:
            raise ValueError(f"need two classes, a channel and 2 to 256 levels: {num_classes=}, {channels=}, {levels=}")
        self.frequencies = Timesteps(widths[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = TimestepEmbedding(widths[0], widths[-1])
        self.stages, before = nn.ModuleList(), channels
        for i, width in enumerate(widths):
            first = nn.Conv2d(before, width, 4, 2, 1) if i else nn.Conv2d(before, width, 3, padding=1)
            self.stages.append(
                nn.ModuleList([first, nn.Linear(widths[-1], width), *(ResBlock(width) for _ in range(blocks))])
            )
            before = width
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, before), nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.logits = nn.Linear(4 * before, num_classes)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Noisy images (B, C, S, S), times (B,) in (0, 1] -> logits (B, K)"""
        time = self.time(self.frequencies(100 * t.to(x.device)).to(self.dtype))
        h = (x / (1 + x.square().mean((1, 2, 3), keepdim=True)).sqrt()).to(self.dtype)  # unit variance, even at σ = 50
        for first, shift, *blocks in self.stages:
            h = first(h) + shift(time)[:, :, None, None]
            for block in blocks:
                h = block(h)
        return self.logits(self.out(h)).float()

    def loss(self, images: Tensor, y: Tensor, sde: SDE) -> dict[str, Tensor]:
        """Images of L levels (B, C, S, S), labels (B,) -> scalars at uniform times: `loss`, nats; `accuracy`."""
        x0 = dequantize(images, self.config.levels)
        t = sde.first + (1 - sde.first) * torch.rand(len(x0), device=x0.device)
        logits = self(sde.add_noise(x0, torch.randn_like(x0), t), t)
        return {"loss": F.cross_entropy(logits, y), "accuracy": (logits.argmax(1) == y).float().mean().detach()}


def fit_classifier(
    classifier: NoisyClassifier,
    sde: SDE,
    images: Tensor,
    y: Tensor,
    steps: int = 1000,
    batch: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> list[float]:
    """Train on images of L levels (N, C, S, S) and labels (N,), on the classifier's device; returns the loss per step.

    The seed determines batches, times and noise; torch's global generator is not changed.
    Raises ValueError unless every image has a valid label.
    """
    classes = classifier.config.num_classes
    if y.shape != images.shape[:1] or y.is_floating_point() or not 0 <= y.min() <= y.max() < classes:
        raise ValueError(f"need {len(images)} integer labels in [0, {classes}), not {y.dtype} {tuple(y.shape)}")
    optimizer = torch.optim.AdamW(classifier.train().parameters(), learning_rate)
    losses = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(steps):
            rows = torch.randint(len(images), (batch,))
            loss = classifier.loss(images[rows].to(classifier.device), y[rows].to(classifier.device), sde)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    classifier.eval()
    return losses


def gradient(classifier: NoisyLogits, x: Tensor, t: Tensor, target: Tensor) -> Tensor:
    """∇ ln p(target | x_t): images (B, C, S, S), times (B,), labels (B,) -> (B, C, S, S)"""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        log_p = classifier(x, t).log_softmax(dim=1)
        return torch.autograd.grad(log_p.gather(1, target[:, None].to(x.device)).sum(), x)[0]
