"""Memory of training from a laptop's size to 1 B parameters: the tables of docs/scaling.md.

    python scripts/scaling.py

Nothing of these sizes is allocated: parameters and their state are counted on the meta device, and activations are
measured in models of one and of two blocks, under bf16 autocast on the CPU; each further block adds as much.

Shapes: B batch · T text tokens · N image tokens · I channels of a latent · s its side · L text states · D their width
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.diffusion.dit import DiT
from t2i.prior.transformer import TextImageTransformer
from t2i.tables import format_table
from t2i.training.memory import GIB, activation_memory, training_memory

SIZES = {  # width and blocks by name; heads are 64 wide
    "laptop": (192, 6),
    "30 M": (512, 8),
    "100 M": (768, 14),
    "300 M": (1024, 24),
    "1 B": (2048, 20),
}
CARD = 0.9 * 80 * GIB  # what training may take of a GPU with 80 GiB
HEADS = 64


@dataclass(frozen=True)
class Family:
    """A recipe whose model is a transformer.

    Attributes:
        name: for the table.
        command: of a size, given its width and blocks.
        build: the model, given its width and blocks.
        batch: inputs of four images.
        tokens: positions in each block.
    """

    name: str
    command: str
    build: Callable[[int, int], nn.Module]
    batch: dict[str, Tensor]
    tokens: int
    loss: Callable[..., Tensor]


class Objective(nn.Module):
    def __init__(self, model: nn.Module, loss: Callable[..., Tensor]):
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        return {"loss": self._loss(self.model, **batch)}


def prior() -> Family:
    """DALL·E's transformer at 256 px: 24 text tokens, 32×32 image tokens."""

    def build(width: int, blocks: int) -> nn.Module:
        sizes = {"width": width, "layers": blocks, "heads": width // HEADS}
        return TextImageTransformer(text_vocab_size=1024, image_vocab_size=8192, text_length=24, grid_size=32, **sizes)

    batch = {"text": torch.ones(4, 24, dtype=torch.long), "codes": torch.zeros(4, 1024, dtype=torch.long)}
    command = "t2i train prior-toybox --optimizer muon --width {} --layers {} --heads {}"
    return Family("prior", command, build, batch, 24 + 1024, lambda model, **given: model.loss(**given)["loss"])


def denoiser() -> Family:
    """Latent diffusion's transformer at 256 px: latents of 32×32, in patches of 2×2."""

    def build(width: int, blocks: int) -> nn.Module:
        sizes = {"width": width, "depth": blocks, "heads": width // HEADS}
        return DiT(sample_size=32, in_channels=8, cross_attention_dim=768, patch_size=2, **sizes)

    def loss(model: nn.Module, latents: Tensor, times: Tensor, states: Tensor) -> Tensor:
        return F.mse_loss(model(latents, times, states).sample, latents)

    batch = {"latents": torch.randn(4, 8, 32, 32), "times": torch.rand(4), "states": torch.randn(4, 77, 768)}
    command = (
        "t2i train ldm-toybox --optimizer muon --denoiser dit --patch-size 2 --head-width 64 --width {} --depth {}"
    )
    return Family("denoiser", command, build, batch, 16 * 16, loss)


def activations(family: Family, width: int, blocks: int) -> tuple[int, int]:
    """Bytes for each image, all kept and with those within blocks recomputed (--gradient-checkpointing)."""
    with torch.autocast("cpu", torch.bfloat16):
        one, two = (activation_memory(Objective(family.build(width, n), family.loss), family.batch)[0] for n in (1, 2))
    block, inputs = two - one, 4 * family.tokens * width  # of a block: all that it keeps; its inputs alone
    return one + block * (blocks - 1), one + inputs * (blocks - 1)


def table(family: Family) -> str:
    head = ["size", "width", "blocks", "parameters", "1 GPU", "8, DDP", "8, FSDP", "16, FSDP"]
    head += ["an image", "recomputed", "images, 8 FSDP"]
    rows = []
    for name, (width, blocks) in SIZES.items():
        with torch.device("meta"):
            model = family.build(width, blocks)
        ways = ((1, False), (8, False), (8, True), (16, True))
        states = [sum(training_memory(model, "muon", processes, sharded).values()) for processes, sharded in ways]
        kept, recomputed = activations(family, width, blocks)
        count = sum(p.numel() for p in model.parameters())
        figures = [f"{bytes_ / GIB:.2f}" for bytes_ in (*states, kept, recomputed)]
        fits = [int((CARD - states[2]) // each) for each in (kept, recomputed)]
        rows.append([name, str(width), str(blocks), f"{count / 1e6:.1f} M", *figures, f"{fits[0]:,} / {fits[1]:,}"])
    return format_table(head, rows, right=range(1, len(head)))


def main() -> None:
    torch.manual_seed(0)
    for family in (prior(), denoiser()):
        print(f"{family.name}: {family.command.format('WIDTH', 'BLOCKS', 'HEADS')}")
        print(f"{table(family)}\n")


if __name__ == "__main__":
    main()
