"""Latents of images, for training a denoiser.

Shapes: B batch · C channels · h, w sides of a latent · S image side
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from t2i.images import to_tensor
from t2i.tokenizers.kl import posterior
from t2i.training.recipes.encodings import Encoding
from t2i.weights import digest


def latents_of(autoencoder: AutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 (B, S, S, 3) -> mean and standard deviation of the scaled latents, float32 (B, C, h, w) each."""
    # Full precision, as the decoder expects.
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        q = posterior(autoencoder, to_tensor(images))
    return q.mean * autoencoder.config.scaling_factor, q.std * autoencoder.config.scaling_factor


def latent_encoding(autoencoder: AutoencoderKL) -> Encoding:
    """The latents of an autoencoder, on whose device they are computed; encoding costs about as much as the denoiser
    itself.
    """

    def encode(images: Tensor) -> Tensor:
        return torch.stack(latents_of(autoencoder, images.to(autoencoder.device)), 1)  # (B, 2, C, h, w)

    key = {"autoencoder_sha256": digest(autoencoder), "scaling_factor": autoencoder.config.scaling_factor}
    return Encoding("latents", ("mean", "std"), encode, np.float16, key)
