"""Pipelines for a task (text to image, image to image, inpainting), of t2i and of diffusers, called in one way."""

from __future__ import annotations

import inspect
import warnings
from typing import Literal

import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Tensor

from t2i.checks import UsageError
from t2i.diffusion.schedulers import make_scheduler, of_flow
from t2i.images import check_finite
from t2i.notes import with_article
from t2i.pipelines.dalle import DallePipeline
from t2i.pipelines.imagen import ImagenPipeline
from t2i.pipelines.latent_diffusion import (
    LatentDiffusionImg2ImgPipeline,
    LatentDiffusionInpaintPipeline,
    LatentDiffusionPipeline,
)
from t2i.pipelines.latent_diffusion.inputs import read_images, read_masks
from t2i.pipelines.muse import MusePipeline
from t2i.pipelines.unclip import UnCLIPPipeline

Task = Literal["text", "image", "inpainting"]
COMMANDS = {"text": "generate", "image": "edit", "inpainting": "inpaint"}
T2I_CLASSES = {
    "text": LatentDiffusionPipeline,
    "image": LatentDiffusionImg2ImgPipeline,
    "inpainting": LatentDiffusionInpaintPipeline,
}


def for_task(pipe: DiffusionPipeline, task: Task, name: str) -> DiffusionPipeline:
    """A pipeline with the same components for another task.

    Args:
        name: what was opened, for messages.

    Raises UsageError where there is none.
    """
    if isinstance(pipe, LatentDiffusionPipeline):
        return pipe if type(pipe) is T2I_CLASSES[task] else T2I_CLASSES[task].from_pipe(pipe)
    if isinstance(pipe, DallePipeline | ImagenPipeline) and task == "text":
        return pipe
    if isinstance(pipe, MusePipeline) and task != "image":
        return pipe
    if isinstance(pipe, UnCLIPPipeline) and task == "text":
        return pipe
    auto = _diffusers_auto_pipeline()
    loaders = {
        "text": auto.AutoPipelineForText2Image,
        "image": auto.AutoPipelineForImage2Image,
        "inpainting": auto.AutoPipelineForInpainting,
    }
    try:
        converted = pipe if task == "text" and not _takes_image(pipe) else loaders[task].from_pipe(pipe)
    except ValueError as error:
        raise UsageError(
            f"{name} holds {with_article(type(pipe).__name__)}, which does not {COMMANDS[task]}: give a latent "
            "diffusion pipeline with --pipeline, such as toybox/ldm"
        ) from error
    converted.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    if task != "inpainting" and _is_inpainting_model(converted):
        raise UsageError(f"{name} is for inpainting alone: t2i inpaint IMAGE MASK --pipeline {name}")
    return converted


def finite_images(pipe: DiffusionPipeline, *args, **options) -> list[Image.Image]:
    """The images of a call. Raises FloatingPointError where they are not finite: diffusers' own pipelines would return
    black ones.
    """
    if type(pipe).__module__.startswith("t2i."):
        return pipe(*args, **options).images
    arrays = pipe(*args, **options, output_type="np").images
    check_finite(torch.from_numpy(arrays))
    return VaeImageProcessor.numpy_to_pil(arrays)


def edit_image(pipe: DiffusionPipeline, image: Image.Image, strength: float, options: dict) -> list[Image.Image]:
    """Image to image, with the other options of a call. Raises ValueError as LatentDiffusionImg2ImgPipeline does."""
    if not isinstance(pipe, LatentDiffusionPipeline):
        _check_inputs(pipe, image, strength, options)
    return finite_images(pipe, image=image, strength=strength, **options)


def inpaint_image(
    pipe: DiffusionPipeline, image: Image.Image, mask: Image.Image, strength: float, options: dict
) -> list[Image.Image]:
    """The same inside the mask; outside of it the image stays as it is, bit for bit."""
    if isinstance(pipe, LatentDiffusionPipeline):
        return finite_images(pipe, image=image, mask_image=mask, strength=strength, **options)
    if isinstance(pipe, MusePipeline):
        if strength != 1:
            raise UsageError("a MusePipeline generates all that is under the mask anew: leave --strength out")
        return finite_images(pipe, image=image, mask_image=mask, **options)
    pixels = _check_inputs(pipe, image, strength, options)
    repaint = Image.fromarray(read_masks(mask, 1, pixels.shape[2:])[0, 0].numpy())
    size = {"height": image.height, "width": image.width}
    images = finite_images(pipe, image=image, mask_image=repaint.convert("L"), strength=strength, **size, **options)
    return [Image.composite(generated, image, repaint) for generated in images]


def use_scheduler(pipe: DiffusionPipeline, scheduler: str, name: str) -> None:
    """Give one of diffusers' pipelines another sampler by name. Raises UsageError where it takes none of ours."""
    config = getattr(getattr(pipe, "scheduler", None), "config", None)
    if config is None or of_flow(config):
        raise UsageError(
            f"{name} takes no --scheduler: {with_article(type(pipe).__name__)} samples with its own scheduler"
        )
    pipe.scheduler = make_scheduler(scheduler, config)


def _takes_image(pipe: DiffusionPipeline) -> bool:
    """Whether generation starts from an image."""
    auto = _diffusers_auto_pipeline()
    editing = {*auto.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING.values(), *auto.AUTO_INPAINT_PIPELINES_MAPPING.values()}
    return type(pipe) in editing - {*auto.AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()}


def _diffusers_auto_pipeline():
    """diffusers' module, which imports all of its pipelines: only for those that are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, about code of one of these pipelines
        from diffusers.pipelines import auto_pipeline
    return auto_pipeline


def _is_inpainting_model(pipe: DiffusionPipeline) -> bool:
    """Whether the denoiser takes the mask and the masked image as further channels."""
    unet, vae = getattr(pipe, "unet", None), getattr(pipe, "vae", None)
    if unet is None or vae is None or isinstance(pipe, LatentDiffusionPipeline):
        return False
    return unet.config.in_channels == 2 * vae.config.latent_channels + 1


def _check_inputs(pipe: DiffusionPipeline, image: Image.Image, strength: float, options: dict) -> Tensor:
    """The image, (1, 3, H, W). Raises ValueError for sides and strengths at which diffusers' own pipelines fail."""
    default = inspect.signature(pipe.__call__).parameters["num_inference_steps"].default
    steps = options.get("num_inference_steps") or default
    if int(strength * steps) < 1:
        raise ValueError(f"strength {strength} with {steps} steps runs no step: give a greater strength or more steps")
    return read_images(image, getattr(pipe, "vae_scale_factor", 8))
