"""What an autoencoder's code is good for: a classifier on its encoder, frozen, tuned, or begun anew.

Shapes: B batch · C channels · S image side · Z latent numbers · K classes
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
    """The encoder of an `Autoencoder` of the same sizes, its latents brought to one scale, and a linear layer.

    Args:
        image_size, channels, levels, widths, blocks, latent_dim, dropout: of the autoencoder.
        num_classes: K, 2 at least.

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
        """On an encoder of this form, with a copy of its weights or with new ones."""
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
        """Images (B, C, S, S) in [-1, 1] -> the likeliest class of each (B,), `batch` at a time."""
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
    """A classifier trained on a few labelled images with Adam and half a cosine down to nothing.

    Args:
        autoencoder: whose encoder it has, which is left as it is.
        images, labels: (B, C, S, S) in [-1, 1], and (B,) in [0, K).
        start: "frozen": only the linear layer learns; "tuned": all of it, from the autoencoder's weights; "scratch":
            all of it, from new ones.
        steps, batch, learning_rate: of all three alike, but that the linear layer alone learns ten times as fast;
            batches are drawn with replacement.
        seed: of new weights, batches and dropout; torch's own generator is left as it was.

    Returns:
        the classifier, in evaluation mode. Raises ValueError for an unknown start, and for images without labels.
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
