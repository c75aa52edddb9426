"""Options of the discriminator that image tokenizers can be trained with."""

from __future__ import annotations

from dataclasses import dataclass

from t2i.checks import check_real
from t2i.nn.discriminator import PatchDiscriminator
from t2i.tokenizers.adversarial import Adversary


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The optional discriminator."""

    discriminator_weight: float = 0.0
    """Weight of the adversarial loss, multiplied by its adaptive weight; 0: no discriminator."""
    discriminator_channels: tuple[int, ...] = (32, 64, 128)
    """Channels of each level of the discriminator; every level halves the resolution."""
    discriminator_start: int = 1000
    """Number of forward passes before the discriminator is trained and the adversarial loss is added."""
    discriminator_ramp: int = 500
    """Number of forward passes after that over which the adversarial loss rises from 0 to its full weight."""

    def __post_init__(self) -> None:
        for name in ("discriminator_weight", "discriminator_start", "discriminator_ramp"):
            check_real(name, getattr(self, name))

    def adversary(self) -> Adversary | None:
        """A new discriminator with its losses; None if its weight is 0."""
        if self.discriminator_weight == 0:
            return None
        discriminator = PatchDiscriminator(self.discriminator_channels)
        return Adversary(discriminator, self.discriminator_weight, self.discriminator_start, self.discriminator_ramp)
