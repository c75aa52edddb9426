"""CycleGAN: unpaired translation between two image domains.

Zhu et al. 2017, arXiv 1703.10593. Two generators and two discriminators, trained with the sum of their losses, see
`t2i/models/adversarial/gan.py`.
Shapes: B batch · S image side · P size of the image pool
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from t2i.images import check_images
from t2i.models.adversarial.losses import discriminator_loss, generator_loss
from t2i.models.latent_variable.vae import check_widths, decoder_levels, encoder_levels
from t2i.nn.discriminator import PatchDiscriminator, held

Domain = Literal["a", "b"]


class CycleGAN(ModelMixin, ConfigMixin):
    """The two generators, which translate images of domain A to B and back (there is no `sample`).

    The generators are encoder-decoder networks of residual blocks (appendix 7.2 of the paper), with the group norms and
    activations of the other models.

    Args:
        widths: Channels of each level of the generators, from fine to coarse; each level after the first halves the
            resolution.
        blocks: Residual blocks per level, in the encoder and in the decoder.

    Raises ValueError for widths that the group norms cannot divide.
    """

    @register_to_config
    def __init__(self, widths: tuple[int, ...] = (32, 64), blocks: int = 1):
        super().__init__()
        stride = 2 ** (len(widths) - 1)
        check_widths(stride, widths)
        if blocks < 1:
            raise ValueError(f"blocks must be at least 1, not {blocks}")
        self.stride = stride
        self.to_a, self.to_b = (_generator(widths, blocks) for _ in range(2))

    def translate(self, images: Tensor, to: Domain = "b") -> Tensor:
        """Images (B, 3, S, S) in [-1, 1] of the other domain -> translated to domain `to`, same shape and range.

        Raises ValueError for an unknown domain, and for images of another shape or range.
        """
        if to not in ("a", "b"):
            raise ValueError(f"the domains are 'a' and 'b', not {to!r}")
        check_images(images, self.stride)
        return (self.to_a if to == "a" else self.to_b)(images.to(self.dtype))


class Pool(nn.Module):
    """A buffer of generated images for the discriminator (Shrivastava et al. 2017, arXiv 1612.07828, §2.3).

    Generated images are stored until the pool is full. Then, with probability ½, an image is swapped with a random
    stored one, else it is passed through. Images and count are buffers, and the count seeds the randomness: a resumed
    run equals an uninterrupted one. Under torch.distributed, all processes hold the same pool of everyone's images.
    """

    def __init__(self, room: int, size: int, seed: int):
        super().__init__()
        self.seed = seed
        self.register_buffer("images", torch.zeros(room, 3, size, size))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def forward(self, made: Tensor) -> Tensor:
        """(B, 3, S, S) -> the same number of images, detached, some of them replaced by earlier ones"""
        everyone, rank = _gathered(made.detach())
        shown, room, seen = everyone.clone(), len(self.images), int(self.seen)
        rng = torch.Generator().manual_seed(2 * seen + self.seed)
        for i, image in enumerate(everyone):
            if seen + i < room:
                self.images[seen + i] = image
            elif room and torch.rand((), generator=rng) < 0.5:
                place = int(torch.randint(room, (), generator=rng))
                shown[i], self.images[place] = self.images[place].to(shown.dtype), image.to(self.images.dtype)
        self.seen += len(everyone)
        return shown[rank * len(made) : (rank + 1) * len(made)]


class CycleGANObjective(nn.Module):
    """A CycleGAN with its discriminators and its training objective.

    Args:
        model: The generators.
        size: Side of the images, S.
        discriminator_channels: Channels of each level of the patch discriminators; every level halves the resolution.
        cycle: Weight of the cycle-consistency loss, λ (eq. 3).
        identity: Weight of the identity loss, relative to λ (§ 5.2); 0 disables it.
        pool: Size of the buffer of earlier generated images that each discriminator also sees, P; 0 disables it.

    Raises ValueError for numbers out of range and for sizes that do not fit together.
    """

    def __init__(
        self,
        model: CycleGAN,
        size: int,
        discriminator_channels: tuple[int, ...] = (32, 64),
        cycle: float = 10.0,
        identity: float = 0.5,
        pool: int = 50,
    ):
        super().__init__()
        if not cycle >= 0 or not identity >= 0 or pool < 0 or size % model.stride:
            raise ValueError(
                f"cycle, identity and pool must be at least 0, and size a multiple of {model.stride}, not {cycle=}, "
                f"{identity=}, {pool=}, {size=}"
            )
        self.model, self.cycle, self.identity = model, cycle, identity
        self.judge_a = PatchDiscriminator(discriminator_channels)
        self.judge_b = PatchDiscriminator(discriminator_channels)
        self.pool_a, self.pool_b = Pool(pool, size, 0), Pool(pool, size, 1)

    def loss(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Images of both domains, (B, 3, S, S) each -> scalars: `loss`, the sum over all networks, and its components.

        Full objective: eq. 3, with least-squares losses instead of eq. 1 (§4), halved for the discriminators.
        """
        made_b, made_a = self.model.translate(a, "b"), self.model.translate(b, "a")
        again_a, again_b = self.model.to_a(made_b), self.model.to_b(made_a)
        fooled = generator_loss("least_squares", held(self.judge_a, made_a))
        fooled = fooled + generator_loss("least_squares", held(self.judge_b, made_b))
        cycle = (again_a.float() - a).abs().mean() + (again_b.float() - b).abs().mean()
        own = self._told_apart(self.judge_a, self.pool_a, a, made_a)
        own = own + self._told_apart(self.judge_b, self.pool_b, b, made_b)
        # The paper's code minimises E (D − 1)² here, and halves only the discriminators' loss: §4 and appendix 7.1.
        loss = 2 * fooled + self.cycle * cycle + own
        parts = {"generator": fooled.detach(), "discriminator": own.detach(), "cycle": cycle.detach()}
        if self.identity > 0:
            kept = (self.model.to_a(a).float() - a).abs().mean() + (self.model.to_b(b).float() - b).abs().mean()
            loss = loss + self.cycle * self.identity * kept
            parts["identity"] = kept.detach()
        return {"loss": loss, **parts}

    def enable_gradient_checkpointing(self) -> None:
        """Not supported: raises ValueError."""
        raise ValueError("CycleGAN's networks have no gradient checkpointing; leave it out")

    def _told_apart(self, judge: nn.Module, pool: Pool, real: Tensor, made: Tensor) -> Tensor:
        shown = pool(made) if self.training else made.detach()
        return discriminator_loss("least_squares", judge(real), judge(shown))


def _generator(widths: tuple[int, ...], blocks: int) -> nn.Sequential:
    return nn.Sequential(
        *encoder_levels(3, widths, blocks, 0.0), *decoder_levels(widths, blocks, 0.0, outputs=3), nn.Tanh()
    )


def _gathered(images: Tensor) -> tuple[Tensor, int]:
    """The images of all processes, in rank order, and this process's rank."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return images, 0
    images = images.contiguous()
    parts = [torch.empty_like(images) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, images)
    return torch.cat(parts), dist.get_rank()
