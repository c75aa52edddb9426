"""Adversarial training of an image tokenizer with a patch discriminator, for sharper images than pixel losses give.

Esser et al. 2021, arXiv 2012.09841, eq. 6 and 7.
Shapes: B batch · S image side
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from t2i.nn.discriminator import discriminator_loss, generator_loss, held

LIMIT = 1e4  # maximum of the adaptive weight


def adaptive_weight(reconstruction: Tensor, generator: Tensor, last_layer: Tensor, limit: float = LIMIT) -> Tensor:
    """λ = ‖∇ reconstruction‖ / (‖∇ generator‖ + 10⁻⁶), clamped to [0, limit], detached (Esser et al. 2021, eq. 7).

    Both gradients are with respect to `last_layer`, the weight of the decoder's last layer; under torch.distributed
    they are those of the global batch, so that λ is equal on all processes. The graph is retained.
    """
    losses = (reconstruction, generator)
    both = torch.stack([torch.autograd.grad(loss, last_layer, retain_graph=True)[0].float() for loss in losses])
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(both)
        both /= dist.get_world_size()
    wanted, given = both.flatten(1).norm(dim=1)
    return (wanted / (given + 1e-6)).clamp(0, limit)


class Adversary(nn.Module):
    """The discriminator, with its loss and the tokenizer's adversarial loss as one sum for one backward pass.

    loss = share(step) · weight · λ · G(x̂; sg[D]) + L(D; x, sg[x̂]), with sg[·] the stop-gradient. The first term uses
    the discriminator with detached weights, so it trains the tokenizer only; the second uses a detached reconstruction,
    so it trains the discriminator only. Hence the gradient of the sum is, for each of the two, that of its own loss at
    the weights before the step, as in simultaneous updates. One optimizer step updates both, since AdamW treats each
    weight independently (only the clipping of the gradient norm is shared).

    Args:
        discriminator: maps images to scores, as PatchDiscriminator.
        weight: adversarial loss weight, multiplied by λ.
        start: number of forward passes in training mode before either of the two losses is computed.
        ramp: number of forward passes after that over which the adversarial weight grows from 0 to `weight`.
    """

    def __init__(self, discriminator: nn.Module, weight: float = 0.5, start: int = 0, ramp: int = 0):
        super().__init__()
        if weight <= 0 or start < 0 or ramp < 0:
            raise ValueError(f"weight must be above 0, start and ramp at least 0: {weight=}, {start=}, {ramp=}")
        self.discriminator = discriminator
        self.weight, self.start, self.ramp = weight, start, ramp
        self.register_buffer(
            "passes", torch.zeros((), dtype=torch.long)
        )  # in training mode; saved, so that runs resume

    def share(self) -> float:
        """Current fraction of the adversarial weight: 0 up to pass `start`, 1 from `ramp` passes later."""
        beyond = int(self.passes) - self.start
        return min(1.0, max(0.0, beyond / max(1, self.ramp)))

    def forward(self, recon: Tensor, images: Tensor, reconstruction: Tensor, last_layer: Tensor) -> dict[str, Tensor]:
        """The term to add to the tokenizer's loss, and its components.

        Without gradients λ is undefined, and the generator's term is omitted. Up to `start` all terms are 0.

        Args:
            recon, images: (B, 3, S, S); recon with its graph.
            reconstruction: scalar reconstruction loss, against which λ balances the generator's term.
            last_layer: weight of the decoder's last layer.

        Returns:
            scalars `loss`, `generator`, `discriminator` and `adaptive_weight`, all but the first detached.
        """
        if self.training:
            self.passes += 1
        if int(self.passes) <= self.start:
            # A gradient of zero: to DistributedDataParallel, a parameter without one is an error.
            zero = sum((p.sum() * 0.0 for p in self.discriminator.parameters()), recon.new_zeros(()))
            return {"loss": zero} | dict.fromkeys(("generator", "discriminator", "adaptive_weight"), zero.detach())
        own = discriminator_loss(self.discriminator(images), self.discriminator(recon.detach()))
        generator = weight = total = own.new_zeros(())
        if (share := self.share()) > 0 and recon.requires_grad:
            generator = generator_loss(held(self.discriminator, recon))
            weight = adaptive_weight(reconstruction, generator, last_layer)
            total = share * self.weight * weight * generator
        return {
            "loss": total + own,
            "generator": generator.detach(),
            "discriminator": own.detach(),
            "adaptive_weight": weight,
        }
