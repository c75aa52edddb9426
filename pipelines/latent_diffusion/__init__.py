"""Latent diffusion: text to image, image to image, inpainting, super-resolution and label maps to images."""

from t2i.pipelines.latent_diffusion.conditioned import LatentDiffusionLayoutPipeline, LatentDiffusionUpscalePipeline
from t2i.pipelines.latent_diffusion.editing import LatentDiffusionImg2ImgPipeline, LatentDiffusionInpaintPipeline
from t2i.pipelines.latent_diffusion.pipeline import LatentDiffusionPipeline, LatentDiffusionPipelineOutput

__all__ = [
    "LatentDiffusionImg2ImgPipeline",
    "LatentDiffusionInpaintPipeline",
    "LatentDiffusionLayoutPipeline",
    "LatentDiffusionPipeline",
    "LatentDiffusionPipelineOutput",
    "LatentDiffusionUpscalePipeline",
]
