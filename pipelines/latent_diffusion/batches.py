"""Batch sizes of denoising and decoding that fit into memory, by a rough estimate.

Shapes: n images · R rows of a batch · C, h, w latent
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from t2i.diffusion.dit import DiT
from t2i.tokenizers.kl import stride_of

DEFAULT_BATCH_BYTES = 2**30


def batch_bytes(device: torch.device, chosen: int | None) -> int:
    """Limit of a batch's activations: the chosen one, or by default 1 GiB, on CUDA half of the free memory."""
    if chosen is not None:
        return chosen
    if device.type != "cuda":
        return DEFAULT_BATCH_BYTES
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (torch.cuda.mem_get_info(device)[0] + cached) // 2


def denoising_batches(denoiser, latents: Tensor, guided: bool, max_bytes: int) -> Iterator[slice]:
    """Slices of the rows of latents (n, C, h, w), each with activations of at most `max_bytes`."""
    rows, _, h, w = latents.shape
    config = denoiser.config
    widths = [config.width] if isinstance(denoiser, DiT) else config.block_out_channels
    largest = max(width >> (2 * level) for level, width in enumerate(widths)) * h * w  # each level halves the sides
    row_bytes = 64 * largest * latents.dtype.itemsize * (2 if guided else 1)
    size = max(1, max_bytes // row_bytes)
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def decoding_batches(autoencoder, latents: Tensor, max_bytes: int) -> tuple[Tensor, ...]:
    """Latents (n, C, h, w) -> parts (R, C, h, w), each decoded with at most `max_bytes` of activations."""
    pixels = latents[0, 0].numel() * stride_of(autoencoder) ** 2
    row_bytes = 8 * autoencoder.config.block_out_channels[0] * pixels * latents.dtype.itemsize
    return latents.split(max(1, max_bytes // row_bytes))
