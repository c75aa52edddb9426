"""VQGAN: an image tokenizer trained with a perceptual and an adversarial loss (Esser et al. 2021, arXiv 2012.09841,
§3.1). The tokenizer itself is a VQ-VAE or any other of `convolutional.py`.
"""

from __future__ import annotations

from torch import Tensor, nn

from t2i.images import check_images
from t2i.tokenizers.adversarial import Adversary
from t2i.tokenizers.convolutional import ConvolutionalTokenizer
from t2i.tokenizers.losses import reconstruction_loss
from t2i.tokenizers.perceptual import PerceptualLoss


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
        tokenizer: ConvolutionalTokenizer,
        perceptual_weight: float = 1.0,
        perceptual: PerceptualLoss | None = None,
        adversary: Adversary | None = None,
    ):
        super().__init__()
        self.tokenizer, self.perceptual, self.adversary = tokenizer, perceptual, adversary
        self.perceptual_weight = perceptual_weight

    def enable_gradient_checkpointing(self) -> None:
        self.tokenizer.enable_gradient_checkpointing()

    def loss(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, S, S) in [-1, 1] -> scalars: `loss` to minimise, and its components."""
        check_images(images, self.tokenizer.stride)
        recon, _, commitment = self.tokenizer(images)
        reconstruction, l1, mse = reconstruction_loss(recon, images, self.tokenizer.edge_weight)
        parts = {"l1": l1, "mse": mse, "commitment": commitment.detach()}
        if self.perceptual is not None:
            distance = self.perceptual(recon, images)
            reconstruction = reconstruction + self.perceptual_weight * distance
            parts["perceptual"] = distance.detach()
        parts["loss"] = reconstruction + self.tokenizer.commitment_cost * commitment
        if self.adversary is not None:
            game = self.adversary(recon, images, reconstruction, self.tokenizer.last_layer)
            parts["loss"] = parts["loss"] + game.pop("loss")
            parts |= game
        quantizer = self.tokenizer.quantizer
        return parts | {"perplexity": quantizer.perplexity(), "codes_used": quantizer.share_used()}
