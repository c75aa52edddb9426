"""Classifiers on the encoder of an autoencoder: frozen, fine-tuned, or trained from scratch.

Shapes: B batch · C channels · S image side · Z latent dimensions · K classes
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from t2i.models.latent_variable.autoencoder import Autoencoder

Start = Literal["frozen", "tuned", "scratch"]
STARTS: tuple[Start, ...] = ("frozen", "tuned", "scratch")


class Classifier(ModelMixin, ConfigMixin):
    """The encoder of an `Autoencoder`, normalisation of its latents, and a linear layer.

    Args:
        image_size, channels, levels, widths, blocks, latent_dim, dropout: arguments of the autoencoder.
        num_classes: K, at least 2.

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
        latent_dim: int = 32,
        dropout: float = 0.0,
    ):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"a classifier needs two classes at least, not {num_classes}")
        self.encoder = Autoencoder(image_size, channels, levels, 0, widths, blocks, latent_dim, dropout).encoder
        self.norm = nn.BatchNorm1d(latent_dim, affine=False)  # one step size for latents of any scale
        self.head = nn.Linear(latent_dim, num_classes)

    @classmethod
    def like(cls, autoencoder: Autoencoder, num_classes: int, weights: bool = True) -> Classifier:
        """A classifier with the architecture of an autoencoder's encoder, optionally with a copy of its weights."""
        config = autoencoder.config
        names = ("image_size", "channels", "levels", "widths", "blocks", "latent_dim", "dropout")
        model = cls(num_classes=num_classes, **{name: config[name] for name in names})
        if weights:
            model.encoder.load_state_dict(autoencoder.encoder.state_dict())
        return model

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, S, S) in [-1, 1] -> logits (B, K)"""
        return self.head(self.norm(self.encoder(images)))

    @torch.no_grad()
    def predict(self, images: Tensor, batch: int = 500) -> Tensor:
        """Images (B, C, S, S) in [-1, 1] -> most likely classes (B,), computed in batches of `batch`."""
        return torch.cat([self(part).argmax(1) for part in images.split(batch)])


def train_classifier(
    autoencoder: Autoencoder,
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    start: Start = "tuned",
    steps: int = 300,
    batch: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> Classifier:
    """Train a classifier on a few labelled images, with Adam and cosine decay of the learning rate to 0.

    Args:
        autoencoder: the autoencoder whose encoder is used; it is not modified.
        images, labels: (B, C, S, S) in [-1, 1], and (B,) in [0, K).
        start: "frozen": train only the linear layer; "tuned": train all, from the autoencoder's weights; "scratch":
            train all, from random weights.
        steps, batch, learning_rate: the same for all three, except a ten times higher learning rate for "frozen";
            batches are sampled with replacement.
        seed: seed of new weights, batches and dropout; torch's global generator is not changed.

    Returns:
        The classifier, in eval mode. Raises ValueError for an unknown start, and for images without labels.
    """
    if start not in STARTS:
        raise ValueError(f"unknown start {start!r}: choose from {', '.join(STARTS)}")
    if len(images) < 2 or labels.shape != (len(images),) or not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"need two images at least, each with a label in [0, {num_classes}), not {len(images)}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Classifier.like(autoencoder, num_classes, weights=start != "scratch").to(images.device)
        if start == "frozen":
            with torch.no_grad():
                codes = torch.cat([model.encoder.eval()(part) for part in images.split(500)])
            _fit(nn.Sequential(model.norm, model.head), codes, labels, steps, batch, learning_rate * 10)
        else:
            _fit(model, images, labels, steps, batch, learning_rate)
    return model.eval()


def _fit(model: nn.Module, x: Tensor, labels: Tensor, steps: int, batch: int, learning_rate: float) -> None:
    """Minimise the cross-entropy of `model(x)`."""
    optimizer = torch.optim.Adam(model.train().parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = torch.randint(len(x), (batch,), device=x.device)
        loss = F.cross_entropy(model(x[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
