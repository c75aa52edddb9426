"""Options of the perceptual loss that image tokenizers can be trained with."""

from __future__ import annotations

from dataclasses import dataclass

from t2i.checks import check_real
from t2i.tokenizers.perceptual import PerceptualLoss, open_perceptual_loss
from t2i.weights import digest


@dataclass(frozen=True)
class PerceptualConfig:
    """The optional perceptual loss."""

    perceptual: str = "toybox"
    """Network of the perceptual loss: toybox (the embedded toybox classifier), the folder of another one (such as
    runs/toybox-classifier/latest), or a file with the weights of torchvision's VGG16."""
    perceptual_weight: float = 0.0
    """Weight of the perceptual loss; 0: none."""

    def __post_init__(self) -> None:
        check_real("perceptual_weight", self.perceptual_weight)

    def open(self) -> tuple[PerceptualLoss | None, dict[str, str]]:
        """The loss, or None if its weight is 0, and the digest of its network for the run's fingerprint."""
        if self.perceptual_weight == 0:
            return None, {}
        loss = open_perceptual_loss(self.perceptual)
        return loss, {"perceptual_sha256": digest(loss.features)}
