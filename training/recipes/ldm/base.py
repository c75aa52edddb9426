"""Base class of tasks that train a denoiser of latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from t2i.devices import fastest_device
from t2i.diffusion.conditioning import masks_padding
from t2i.diffusion.consistency import ConsistencyObjective
from t2i.diffusion.dit import DiT
from t2i.diffusion.objective import DiffusionObjective
from t2i.processes import this_process
from t2i.text.cache import CachedStates
from t2i.text.captions import LOOKED_AT, warn_of_long_captions
from t2i.text.encoders import TextEncoder
from t2i.tokenizers.kl import stride_of
from t2i.training.config import DataConfig, LoopConfig
from t2i.training.recipes.encodings import cached_encodings
from t2i.training.recipes.ldm.latents import latent_encoding, latents_of
from t2i.training.recipes.text_conditioned import TextConditionedTask, Tokens, prepare_text
from t2i.weights import digest


class LatentDiffusionTask(TextConditionedTask):
    """Trains a denoiser on latents and captions; the autoencoder is frozen, and by default the text encoder too.

    Subclasses set `model` and define `pipeline`.

    Args:
        data, loop: the recipe's options.
        encoder, autoencoder: on any device.
        objective: the denoiser's loss.
        caption_dropout: fraction of samples trained without caption.
        denoiser_stride: as of `stride_of_denoiser`, to train on images of several aspect ratios.

    Raises ValueError for an image size that the autoencoder cannot encode, and as `open_source` does.
    """

    def __init__(
        self,
        data: DataConfig,
        loop: LoopConfig,
        encoder: TextEncoder,
        autoencoder: AutoencoderKL,
        objective: DiffusionObjective | ConsistencyObjective,
        caption_dropout: float = 0.0,
        denoiser_stride: int | None = None,
    ):
        self.data, self.loop = data, loop
        self.encoder, self.autoencoder, self.objective = encoder, autoencoder, objective
        self.fingerprint = {"autoencoder_sha256": digest(autoencoder), "text_encoder_sha256": encoder.key()}
        stride = stride_of(autoencoder)
        if data.image_size % stride:
            raise ValueError(
                f"{data.image_size} pixels are not divisible by the autoencoder's {stride}; give another --image-size"
            )
        self.source = data.open(loop.seed, stride=None if denoiser_stride is None else stride * denoiser_stride)
        warn_of_long_captions(self.source.captions(LOOKED_AT), encoder.tokenizer, encoder.room)
        texts, channels = Tokens(encoder.tokenizer, encoder.length), autoencoder.config.latent_channels
        self.prepare = PrepareLatent(texts, caption_dropout, objective, channels, stride)

    def cache_latents(self, folder: str | None, images: int) -> None:
        """Train on latents computed once, for at most `images` images."""
        self.autoencoder.to(this_process().device)
        loop, parent = self.loop, Path(self.loop.output_dir).parent
        options = (images, loop.dataloader_num_workers, parent)
        encoding = latent_encoding(self.autoencoder)
        self.source = cached_encodings(encoding, folder, self.source, self.data, loop.seed, *options)

    def loss(
        self,
        noise: Tensor,
        timesteps: Tensor,
        mask: Tensor,
        states: Tensor | None = None,
        ids: Tensor | None = None,
        latents: Tensor | None = None,
        images: Tensor | None = None,
        posterior_noise: Tensor | None = None,
        grid: Tensor | None = None,
        **conditions: Tensor,
    ) -> dict[str, Tensor]:
        """Takes the output of PrepareLatent.

        Args:
            grid: (B, K, h, w), for denoisers with additional input channels.
            conditions: what else the denoiser is given, under its arguments' names.
        """
        if latents is None:
            if self.autoencoder.device != noise.device:
                self.autoencoder.to(noise.device)
            mean, std = latents_of(self.autoencoder, images)
            latents = mean + std * posterior_noise
        states, attended = self.text_states(mask, ids, states), mask.bool() if masks_padding(self.encoder) else None
        return self.objective.loss(self.denoiser, latents, noise, timesteps, states, attended, grid, **conditions)


@dataclass(frozen=True)
class PrepareLatent:
    """Prepares latent, caption and noise of a sample; the caption is dropped with probability `dropout`."""

    texts: Tokens | CachedStates
    dropout: float
    objective: DiffusionObjective
    latent_channels: int
    stride: int  # of the autoencoder

    def __call__(self, item: dict, rng: np.random.Generator) -> dict:
        """-> noise (C, h, w), timesteps, mask (L,); states (L, D), or, if not cached, ids (L,); latents (C, h, w), or,
        if not cached, images, uint8 (H, W, 3), and posterior_noise (C, h, w) to sample their latents with.
        """
        sample = prepare_text(self.texts, item["text"], self.dropout, rng)
        shape = item["mean"].shape if "mean" in item else self._latent_shape(item["image"])
        noise = rng.standard_normal(shape, dtype=np.float32)
        if "mean" in item:
            sample["latents"] = item["mean"].astype(np.float32) + item["std"].astype(np.float32) * noise
        else:
            sample |= {"images": item["image"], "posterior_noise": noise}
        return sample | self.objective.sample_noise(shape, rng)

    def _latent_shape(self, image: np.ndarray) -> tuple[int, int, int]:
        height, width, _ = image.shape
        return self.latent_channels, height // self.stride, width // self.stride


def stride_of_denoiser(denoiser: UNet2DConditionModel | DiT) -> int:
    """The factor between latents and the coarsest level of a U-Net, or the patches of a transformer."""
    if isinstance(denoiser, DiT):
        return denoiser.config.patch_size
    return 2 ** (len(denoiser.config.block_out_channels) - 1)


def use_fast_attention(denoiser: nn.Module) -> None:
    """Use unfused attention in a U-Net on the CPU: the fused kernel is slow at short lengths, mostly in backward."""
    if fastest_device() == "cpu" and isinstance(denoiser, UNet2DConditionModel):
        denoiser.set_attn_processor(AttnProcessor())
