"""Imagen: diffusion in pixels on a frozen text encoder, and super-resolution."""

from t2i.pipelines.imagen.pipeline import ImagenPipeline, ImagenPipelineOutput

__all__ = ["ImagenPipeline", "ImagenPipelineOutput"]
