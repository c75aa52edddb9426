"""Fine-tuning of a trained latent diffusion pipeline, shared by LoRA, distillation and additional conditioning."""

from __future__ import annotations

import dataclasses

from diffusers import DiffusionPipeline, UNet2DConditionModel

from t2i.diffusion.conditioning import encoder_of
from t2i.diffusion.consistency import ConsistencyObjective
from t2i.diffusion.objective import DiffusionObjective
from t2i.diffusion.schedule import NoiseSchedule
from t2i.diffusion.schedulers import of_flow
from t2i.pipelines.latent_diffusion import LatentDiffusionPipeline
from t2i.pipelines.loading.auto import AutoPipeline, as_latent_diffusion
from t2i.training.config import FineTuningDataConfig, LoopConfig
from t2i.training.recipes.ldm.base import LatentDiffusionTask
from t2i.weights import digest


class FineTuningTask(LatentDiffusionTask):
    """Fine-tunes part of a trained pipeline; the rest is frozen.

    Args:
        data, loop: the recipe's options.
        pipe: the pipeline.
        objective, caption_dropout, denoiser_stride: see `LatentDiffusionTask`.
    """

    def __init__(
        self,
        data: FineTuningDataConfig,
        loop: LoopConfig,
        pipe: LatentDiffusionPipeline,
        objective: DiffusionObjective | ConsistencyObjective,
        caption_dropout: float = 0.0,
        denoiser_stride: int | None = None,
    ):
        self.pipe = pipe
        encoder = encoder_of(pipe.text_encoder, pipe.tokenizer)
        pipe.vae.eval().requires_grad_(False)
        encoder.model.requires_grad_(False)
        data = dataclasses.replace(data, image_size=data.image_size or pipe.image_size)
        super().__init__(data, loop, encoder, pipe.vae, objective, caption_dropout, denoiser_stride)
        self.fingerprint["denoiser_sha256"] = digest(pipe.unet)

    def pipeline(self) -> LatentDiffusionPipeline:
        return self.pipe.to(self.model.device)


def objective_of(config: dict, min_snr_gamma: float | None) -> DiffusionObjective:
    """The objective a model with this scheduler `config` was trained with. Raises ValueError if it is unknown."""
    if of_flow(config):
        return DiffusionObjective(NoiseSchedule(config["num_train_timesteps"]), "flow")
    return DiffusionObjective(NoiseSchedule.of(config), config["prediction_type"], min_snr_gamma)


def open_unet_pipeline(name: str, method: str) -> LatentDiffusionPipeline:
    """Open a U-Net pipeline for `method`. Raises FileNotFoundError if there is none, ValueError for other pipelines."""
    pipe = as_latent_diffusion(AutoPipeline.from_pretrained(name), name)
    if not is_text_to_image(pipe) or not isinstance(pipe.unet, UNet2DConditionModel):
        kind = type(pipe.unet if is_text_to_image(pipe) else pipe).__name__
        raise ValueError(f"{name} holds a {kind}: {method} needs latent diffusion with a U-Net; give its --pipeline")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def is_text_to_image(pipe: DiffusionPipeline) -> bool:
    """Whether this is a latent diffusion pipeline whose denoiser's only input channels are the latents'."""
    return isinstance(pipe, LatentDiffusionPipeline) and pipe.unet.config.in_channels == pipe.vae.config.latent_channels
