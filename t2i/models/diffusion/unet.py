"""The network of the diffusion models: a small time-conditional U-Net.

Shapes: B batch · C channels · S image side
"""

from __future__ import annotations

from diffusers import UNet2DModel

from t2i.models.latent_variable.vae import GROUPS, check_widths


def make_unet(
    image_size: int, channels: int, num_classes: int, widths: tuple[int, ...], blocks: int, dropout: float
) -> UNet2DModel:
    """Diffusers' U-Net, with attention at the coarsest side: (B, C, S, S), times (B,), labels (B,) -> (B, C, S, S).

    Args:
        widths: number of channels of each level, from fine to coarse; every level after the first halves the side.
        blocks: number of residual blocks per level on the way down; one more on the way up.

    Raises ValueError for sizes that do not fit together.
    """
    check_sizes(image_size, widths, blocks, dropout)
    return UNet2DModel(
        sample_size=image_size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=tuple(widths),
        layers_per_block=blocks,
        down_block_types=("DownBlock2D",) * len(widths),
        up_block_types=("UpBlock2D",) * len(widths),
        norm_num_groups=GROUPS,
        attention_head_dim=GROUPS,
        dropout=dropout,
        num_class_embeds=num_classes or None,
    )


def check_sizes(image_size: int, widths: tuple[int, ...], blocks: int, dropout: float = 0.0) -> None:
    """Raise ValueError as `check_widths` does, and for fewer than one block or an invalid dropout probability."""
    check_widths(image_size, widths)
    if blocks < 1 or not 0 <= dropout < 1:
        raise ValueError(f"blocks must be at least 1 and dropout in [0, 1), not {blocks=}, {dropout=}")
