"""DALL·E: image tokens by an autoregressive prior over text and image tokens."""

from t2i.pipelines.dalle.pipeline import DalleCreationOutput, DallePipeline, DallePipelineOutput

__all__ = ["DalleCreationOutput", "DallePipeline", "DallePipelineOutput"]
