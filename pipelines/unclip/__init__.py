"""DALL·E 2: text to image over CLIP image embeddings, variations, interpolation, and changes of images by texts."""

from t2i.pipelines.unclip.pipeline import UnCLIPPipeline, UnCLIPPipelineOutput

__all__ = ["UnCLIPPipeline", "UnCLIPPipelineOutput"]
