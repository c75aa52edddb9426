"""The autoencoder, which has no likelihood and cannot be sampled.

Shapes: B batch · C channels · S image side · Z latent dimensions
"""

from __future__ import annotations

from typing import ClassVar

from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from t2i.models.base import GenerativeModel, Likelihood
from t2i.models.latent_variable.vae import check_widths, decoder_levels, encoder_levels


class Autoencoder(GenerativeModel):
    """Encoder and decoder as in the VAE, trained with the mean squared error.

    Args:
        image_size, channels, levels, num_classes: Properties of the images, see `GenerativeModel`; without labels.
        widths: Channels of each level of the networks, from fine to coarse; each level after the first halves the
            resolution.
        blocks: Residual blocks per level.
        latent_dim: Size of the code, Z.
        dropout: Dropout probability of the feature maps between levels.

    Raises ValueError for sizes that do not fit together.
    """

    likelihood: ClassVar[Likelihood] = "none"
    latents: ClassVar[bool] = True
    samples: ClassVar[bool] = False

    @register_to_config
    def __init__(
        self,
        image_size: int = 28,
        channels: int = 1,
        levels: int = 256,
        num_classes: int = 0,
        widths: tuple[int, ...] = (32, 64, 64),
        blocks: int = 1,
        latent_dim: int = 32,
        dropout: float = 0.0,
    ):
        super().__init__()
        self._declare(image_size, channels, levels, num_classes)
        check_widths(image_size, widths)
        if num_classes or latent_dim < 1:
            raise ValueError(f"an Autoencoder takes no labels, and at least one latent: {num_classes=}, {latent_dim=}")
        self.latent_dim = latent_dim
        side, top = image_size // 2 ** (len(widths) - 1), widths[-1]
        self.encoder = nn.Sequential(
            *encoder_levels(channels, widths, blocks, dropout), nn.Flatten(), nn.Linear(top * side * side, latent_dim)
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, top * side * side),
            nn.Unflatten(1, (top, side, side)),
            *decoder_levels(widths, blocks, dropout, channels),
        )

    def loss(self, images: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Images (B, C, S, S), no labels -> scalars: `loss`, the mean squared error of pixels in [-1, 1]."""
        self._check(images, y)
        return {"loss": (self.decoder(self.encoder(images.to(self.dtype))).float() - images).square().mean()}

    def encode(self, images: Tensor, y: Tensor | None = None) -> Tensor:
        """Images (B, C, S, S) -> latents (B, Z). Raises ValueError for other images."""
        self._check(images, y)
        return self.encoder(images.to(self.dtype))

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Latents (B, Z) -> images (B, C, S, S) in [-1, 1]. Raises ValueError for other shapes."""
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"latents must have the shape (B, {self.latent_dim}), not {tuple(z.shape)}")
        self._check_labels(y, len(z))
        return self.decoder(z.to(self.dtype)).clamp(-1, 1)
