"""Latent consistency distillation: fine-tunes latent diffusion to sample in few steps (t2i/diffusion/consistency)."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import nn

from t2i.checks import check_whole
from t2i.diffusion.conditioning import Conditioning, encoder_of, masks_padding
from t2i.diffusion.consistency import ConsistencyObjective
from t2i.diffusion.schedule import NoiseSchedule
from t2i.diffusion.schedulers import of_flow
from t2i.pipelines.latent_diffusion import LatentDiffusionPipeline
from t2i.training.config import FineTuningDataConfig, LoopConfig
from t2i.training.recipes.ldm.base import use_fast_attention
from t2i.training.recipes.ldm.fine_tuning import FineTuningTask, open_unet_pipeline
from t2i.training.recipes.toybox import TOYBOX_V1_PROMPTS


@dataclass(frozen=True)
class LCMRecipe:
    """Options of `t2i train lcm`."""

    pipeline: str = "toybox/ldm"
    """Teacher pipeline: a folder or a model on the Hub, either latent diffusion or Stable Diffusion 1.x or 2.x."""
    guidance_scale: float = 2.0
    """Guidance scale of the teacher. The student needs no guidance: generate with --guidance-scale 1."""
    teacher_steps: int = 50
    """Number of steps of the teacher's ODE solver from noise to image."""
    cache: str | None = None
    """Folder for cached latents of the images; default: next to the run, with a name derived from data and autoencoder.
    'none' computes them in every step."""
    cached_images: int = 30_000
    """Maximum number of images to cache, and then to train on."""
    validation_prompts: tuple[str, ...] = ()
    """Prompts of the images generated at each checkpoint; without any, the first captions of the data."""
    data: FineTuningDataConfig = field(default_factory=FineTuningDataConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_whole("cached_images", self.cached_images)

    def task(self) -> LCMTask:
        return LCMTask(self)


def lcm(preset: str = "base") -> LCMRecipe:
    """Latent consistency model: a denoiser that samples in four steps without guidance; its teacher takes twenty.

    `t2i generate "a red apple" --pipeline runs/lcm/latest --num-inference-steps 4 --guidance-scale 1`; diffusers'
    StableDiffusionPipeline opens the folder too. --image-size 0 uses the pipeline's image size.

    base: `t2i train lcm --mixed-precision bf16`, half an hour on two cores, from toybox/ldm
    tiny: `t2i train lcm --preset tiny`, a minute on two cores, after the tiny ldm-toybox
    """
    if preset == "tiny":
        steps = {"max_train_steps": 50, "checkpointing_steps": 25, "lr_warmup_steps": 5}
        loop = LoopConfig("runs/tiny-lcm", train_batch_size=16, optimizer="muon", learning_rate=5e-4, **steps)
        return LCMRecipe("runs/tiny-ldm/latest", cache="none", loop=loop)
    steps = {"max_train_steps": 1_000, "checkpointing_steps": 250, "lr_warmup_steps": 30}
    loop = LoopConfig("runs/lcm", train_batch_size=64, optimizer="muon", learning_rate=5e-4, **steps)
    return LCMRecipe(validation_prompts=TOYBOX_V1_PROMPTS, loop=loop)


class LCMTask(FineTuningTask):
    """Trains the pipeline's denoiser as the student; a copy of it is the teacher."""

    SAMPLING: ClassVar[dict[str, int | float]] = {"num_inference_steps": 4, "guidance_scale": 1.0}

    def __init__(self, recipe: LCMRecipe):
        pipe = open_unet_pipeline(recipe.pipeline, "consistency distillation")
        config = pipe.scheduler.config
        if of_flow(config):
            raise ValueError(
                f"{recipe.pipeline} is a flow-matching pipeline, which cannot be distilled: give a teacher with a "
                "noise schedule"
            )
        use_fast_attention(pipe.unet)
        encoder = encoder_of(pipe.text_encoder, pipe.tokenizer)
        null = encoder.null()
        objective = ConsistencyObjective(
            NoiseSchedule.of(config),
            config["prediction_type"],
            copy.deepcopy(pipe.unet).eval().requires_grad_(False),
            Conditioning(null.states, null.mask if masks_padding(encoder) else None),
            recipe.guidance_scale,
            recipe.teacher_steps,
        )
        super().__init__(recipe.data, recipe.loop, pipe, objective)
        self.validation_prompts = recipe.validation_prompts
        # Data workers, each with a copy of `prepare`, sample timesteps and noise, which does not involve the teacher.
        sampling = replace(objective, teacher=nn.Identity(), null=Conditioning(torch.empty(0)))
        self.prepare = replace(self.prepare, objective=sampling)
        if recipe.cache != "none":
            self.cache_latents(recipe.cache, recipe.cached_images)
        self.model = pipe.unet.requires_grad_(True)

    def pipeline(self) -> LatentDiffusionPipeline:
        """The student, with the LCM sampler."""
        self.pipe.scheduler = self.objective.scheduler()
        return super().pipeline()
