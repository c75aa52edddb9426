"""Prompt → image. The names are imported on first use, so that a command line can refuse bad input without torch."""

from importlib import import_module

_HOMES = {
    "AutoPipeline": "t2i.pipelines.auto",
    "embedded": "t2i.pipelines.auto",
    "DallePipeline": "t2i.pipelines.dalle",
    "DallePipelineOutput": "t2i.pipelines.dalle",
    "LatentDiffusionPipeline": "t2i.pipelines.latent_diffusion",
    "LatentDiffusionPipelineOutput": "t2i.pipelines.latent_diffusion",
    "LatentDiffusionImg2ImgPipeline": "t2i.pipelines.latent_editing",
    "LatentDiffusionInpaintPipeline": "t2i.pipelines.latent_editing",
    "LatentDiffusionUpscalePipeline": "t2i.pipelines.latent_conditioned",
    "LatentDiffusionLayoutPipeline": "t2i.pipelines.latent_conditioned",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 't2i.pipelines' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
