"""The pipeline for what a command does: from text, from an image, or inpainting; ours, or diffusers' of that kind."""

from __future__ import annotations

import inspect
import warnings
from typing import Literal

from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from t2i.checks import UsageError
from t2i.diffusion.schedulers import make_scheduler, of_flow
from t2i.pipelines.commands.generate import finite_images
from t2i.pipelines.dalle import DallePipeline
from t2i.pipelines.latent_diffusion import (
    LatentDiffusionImg2ImgPipeline,
    LatentDiffusionInpaintPipeline,
    LatentDiffusionPipeline,
)
from t2i.pipelines.latent_diffusion.inputs import read_masks, read_pictures

Task = Literal["text", "image", "inpainting"]
COMMANDS = {"text": "generate", "image": "edit", "inpainting": "inpaint"}
OURS = {
    "text": LatentDiffusionPipeline,
    "image": LatentDiffusionImg2ImgPipeline,
    "inpainting": LatentDiffusionInpaintPipeline,
}


def for_task(pipe: DiffusionPipeline, task: Task, name: str) -> DiffusionPipeline:
    """A pipeline of the same parts for another task; `name` is what was opened, for messages.

    Raises UsageError where there is none.
    """
    if isinstance(pipe, LatentDiffusionPipeline):
        return pipe if type(pipe) is OURS[task] else OURS[task].from_pipe(pipe)
    if isinstance(pipe, DallePipeline) and task == "text":
        return pipe
    auto = _diffusers_tasks()
    loaders = {
        "text": auto.AutoPipelineForText2Image,
        "image": auto.AutoPipelineForImage2Image,
        "inpainting": auto.AutoPipelineForInpainting,
    }
    try:
        found = pipe if task == "text" and not _edits(pipe) else loaders[task].from_pipe(pipe)
    except ValueError as error:
        raise UsageError(
            f"{name} holds a {type(pipe).__name__}, which does not {COMMANDS[task]}: give a --pipeline of latent "
            "diffusion, as toybox/ldm is"
        ) from error
    found.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    if task != "inpainting" and _inpaints_only(found):
        raise UsageError(f"{name} is for inpainting alone: t2i inpaint IMAGE MASK --pipeline {name}")
    return found


def edit(pipe: DiffusionPipeline, image: Image.Image, strength: float, how: dict) -> list[Image.Image]:
    """Images from an image by one of diffusers' pipelines; `how` are its other options. Raises ValueError as ours."""
    _check(pipe, image, strength, how)
    return finite_images(pipe, image=image, strength=strength, **how)


def inpaint(
    pipe: DiffusionPipeline, image: Image.Image, mask: Image.Image, strength: float, how: dict
) -> list[Image.Image]:
    """The same inside of a mask; outside of it the image stays as it is, bit for bit, as with ours."""
    pixels = _check(pipe, image, strength, how)
    white = Image.fromarray(read_masks(mask, 1, pixels.shape[2:])[0, 0].numpy())
    size = {"height": image.height, "width": image.width}
    images = finite_images(pipe, image=image, mask_image=white.convert("L"), strength=strength, **size, **how)
    return [Image.composite(made, image, white) for made in images]


def use_scheduler(pipe: DiffusionPipeline, scheduler: str, name: str) -> None:
    """Give one of diffusers' pipelines another sampler by name. Raises UsageError for one that takes none of ours."""
    config = getattr(getattr(pipe, "scheduler", None), "config", None)
    if config is None or of_flow(config):
        raise UsageError(f"{name} takes no --scheduler: a {type(pipe).__name__} has its own way of sampling")
    pipe.scheduler = make_scheduler(scheduler, config)


def _edits(pipe: DiffusionPipeline) -> bool:
    """Whether it starts from an image."""
    auto = _diffusers_tasks()
    editing = {*auto.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING.values(), *auto.AUTO_INPAINT_PIPELINES_MAPPING.values()}
    return type(pipe) in editing - {*auto.AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()}


def _diffusers_tasks():
    """diffusers' `auto_pipeline`, which imports all of its pipelines: only for those that are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, at code of one of these pipelines
        from diffusers.pipelines import auto_pipeline
    return auto_pipeline


def _inpaints_only(pipe: DiffusionPipeline) -> bool:
    """Whether the denoiser takes the mask and the masked image beside the latents."""
    unet, vae = getattr(pipe, "unet", None), getattr(pipe, "vae", None)
    if unet is None or vae is None or isinstance(pipe, LatentDiffusionPipeline):
        return False
    return unet.config.in_channels == 2 * vae.config.latent_channels + 1


def _check(pipe: DiffusionPipeline, image: Image.Image, strength: float, how: dict) -> Tensor:
    """The image as `read_pictures` gives it; raises ValueError for sides and strengths that diffusers fails at."""
    steps = how.get("num_inference_steps") or inspect.signature(pipe.__call__).parameters["num_inference_steps"].default
    if int(strength * steps) < 1:
        raise ValueError(
            f"strength {strength} of {steps} steps is not one whole step: give a greater strength or more steps"
        )
    return read_pictures(image, getattr(pipe, "vae_scale_factor", 8))
