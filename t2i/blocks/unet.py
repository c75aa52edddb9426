"""The network of the diffusion models: a small U-Net that knows how noisy its input is.

Shapes: B batch · C channels · S image side
"""

from __future__ import annotations

from diffusers import UNet2DModel

GROUPS = 8  # of the group norms


def make_unet(
    image_size: int, channels: int, num_classes: int, widths: tuple[int, ...], blocks: int, dropout: float
) -> UNet2DModel:
    """Diffusers' U-Net, with attention at the coarsest side: (B, C, S, S), times (B,), labels (B,) -> (B, C, S, S).

    Args:
        widths: channels of each level, fine to coarse; every level but the first halves the side.
        blocks: residual blocks a level on the way down; one more on the way up.

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
    """Raise ValueError for channels that the norms cannot group and a side that the levels cannot halve."""
    if not widths or any(w < GROUPS or w % GROUPS for w in widths) or blocks < 1 or not 0 <= dropout < 1:
        raise ValueError(
            f"widths must be multiples of {GROUPS}, at least one of them, blocks at least 1 and dropout in [0, 1), not "
            f"widths={tuple(widths)}, {blocks=}, {dropout=}"
        )
    if image_size % 2 ** (len(widths) - 1):
        raise ValueError(f"an image side of {image_size} cannot be halved {len(widths) - 1} times")
