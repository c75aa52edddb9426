"""VQGAN: an image tokenizer trained with a perceptual and an adversarial loss (Esser et al. 2021, arXiv 2012.09841,
§3.1). The tokenizer itself is a VQ-VAE, or one with finite scalar quantization.
"""

from __future__ import annotations

from torch import Tensor, nn

from t2i.images import check_images
from t2i.tokenizers.adversarial import Adversary
from t2i.tokenizers.fsq import FSQVAE
from t2i.tokenizers.losses import image_loss
from t2i.tokenizers.perceptual import PerceptualLoss
from t2i.tokenizers.vqvae import VQVAE


class VQGANObjective(nn.Module):
    """A tokenizer with its training objective: pixel + perceptual + commitment + adversarial loss.

    Args:
        tokenizer: The network.
        perceptual_weight: Weight of the perceptual loss.
        perceptual: The perceptual loss, or None.
        adversary: The discriminator with its losses, or None.
    """

    def __init__(
        self,
        tokenizer: VQVAE | FSQVAE,
        perceptual_weight: float = 1.0,
        perceptual: PerceptualLoss | None = None,
        adversary: Adversary | None = None,
    ):
        super().__init__()
        self.tokenizer, self.adversary = tokenizer, adversary
        self._perceptual = (perceptual,)  # not a submodule: it is not trained, averaged or saved
        self.perceptual_weight = perceptual_weight

    @property
    def perceptual(self) -> PerceptualLoss | None:
        return self._perceptual[0]

    def enable_gradient_checkpointing(self) -> None:
        self.tokenizer.enable_gradient_checkpointing()

    def loss(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, S, S) in [-1, 1] -> scalars: `loss` to minimise, and its components."""
        check_images(images, self.tokenizer.stride)
        recon, _, commitment = self.tokenizer(images)
        tokenizer, extra = self.tokenizer, (self.perceptual, self.perceptual_weight, self.adversary)
        return tokenizer.add_quantization(
            image_loss(recon, images, tokenizer.last_layer, tokenizer.edge_weight, *extra), commitment
        )
