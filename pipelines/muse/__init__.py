"""Muse: image tokens decoded in parallel by a bidirectional transformer."""

from t2i.pipelines.muse.pipeline import MusePipeline, MusePipelineOutput

__all__ = ["MusePipeline", "MusePipelineOutput"]
