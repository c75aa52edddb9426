"""How many latents are denoised or decoded at once: as many as memory has room for, by a rough count.

Shapes: n images · R images of a batch · C, h, w latent
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from t2i.diffusion.dit import DiT
from t2i.tokenizers.kl import stride_of

DEFAULT_BATCH_BYTES = 2**30


def batch_bytes(device: torch.device) -> int:
    """What the activations of a batch may take: 1 GiB, and on CUDA half of the memory that is free."""
    if device.type != "cuda":
        return DEFAULT_BATCH_BYTES
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for use again
    return (torch.cuda.mem_get_info(device)[0] + kept) // 2


def denoising_batches(denoiser, latents: Tensor, guided: bool, most: int) -> Iterator[slice]:
    """The rows of latents (n, C, h, w) in as many slices as keep each one's activations under `most` bytes."""
    rows, _, h, w = latents.shape
    config = denoiser.config
    widths = [config.width] if isinstance(denoiser, DiT) else config.block_out_channels
    largest = max(width >> (2 * level) for level, width in enumerate(widths)) * h * w  # each level halves the sides
    a_row = 64 * largest * latents.dtype.itemsize * (2 if guided else 1)
    size = max(1, most // a_row)
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def decoding_batches(autoencoder, latents: Tensor, most: int) -> tuple[Tensor, ...]:
    """Latents (n, C, h, w) -> parts (R, C, h, w), each decoded under `most` bytes."""
    pixels = latents[0, 0].numel() * stride_of(autoencoder) ** 2
    a_row = 8 * autoencoder.config.block_out_channels[0] * pixels * latents.dtype.itemsize
    return latents.split(max(1, most // a_row))
