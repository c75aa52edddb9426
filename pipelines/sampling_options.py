"""The sampling options of all pipelines, declared once: the commands, evaluation and benchmarks inherit from these."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args, get_type_hints

from tyro.conf import arg

from t2i.checks import UsageError, check_options


@dataclass(frozen=True)
class DiffusionOptions:
    """Options of diffusion pipelines; None leaves the choice to the pipeline."""

    guidance_scale: float | None = None
    """Strength of classifier-free guidance: higher follows the prompt more closely; by default the pipeline's own."""
    num_inference_steps: int | None = None
    """Steps of a diffusion pipeline or of parallel decoding (Muse); by default the pipeline's own."""
    scheduler: str | None = None
    """Sampler of a diffusion pipeline: 'ddim', 'dpm++', 'euler', …; by default the pipeline's own."""

    def sampling_options(self) -> dict[str, Any]:
        """The options that are set, as keyword arguments of a pipeline. Raises UsageError for values out of range."""
        values = {name: getattr(self, name, None) for name in SAMPLING_OPTIONS}
        check_options(values, flags=True)
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class SamplingOptions(DiffusionOptions):
    """Options of diffusion pipelines and of autoregressive ones."""

    temperature: float | None = None
    """Temperature of each image token (DALL·E, Muse): lower is less diverse; by default the pipeline's own."""
    top_k: int | None = None
    """Sample each image token from the k most probable ones (DALL·E, Muse); by default the pipeline's own."""
    top_p: float | None = None
    """Sample each image token from the smallest set whose probability reaches p (DALL·E, Muse); by default from all."""
    num_candidates: Annotated[int | None, arg(aliases=["--best-of"])] = None
    """Generate this many candidates for each image and keep the one with the highest score; by default 1."""
    reranker: str | None = None
    """What scores the candidates: 'likelihood' (the default of DALL·E), or a CLIP: a folder, a Hub id,
    open_clip:ARCH/PRETRAINED."""
    schedule: Literal["cosine", "halton"] | None = None
    """Image tokens that a step of parallel decoding keeps (Muse): the most certain, or evenly spread ones; by default
    the pipeline's own."""
    guidance_schedule: Literal["constant", "linear"] | None = None
    """Guidance scale over the steps of parallel decoding (Muse); by default the pipeline's own."""
    choice_temperature: float | None = None
    """Noise in the choice of the tokens that are kept with --schedule cosine (Muse); by default the pipeline's own."""
    thresholding: Literal["dynamic", "static", "none"] | None = None
    """How predicted images are kept in their range at each step (Imagen); by default dynamic."""
    percentile: float | None = None
    """Percentile of dynamic thresholding (Imagen), as a fraction; by default 0.995."""
    augmentation_level: float | None = None
    """Noise level of the low-resolution images, from 0 to 1 (Imagen's super-resolution); by default 0.1."""
    prior_guidance_scale: float | None = None
    """Strength of classifier-free guidance of the prior over image embeddings (DALL·E 2); by default the pipeline's
    own."""
    num_prior_steps: int | None = None
    """Steps of a diffusion prior over image embeddings (DALL·E 2); by default the pipeline's own."""

    def check_reranker(self) -> None:
        """Raise UsageError for a reranker that has no effect."""
        if self.reranker is not None and self.num_candidates in (None, 1):
            raise UsageError("--reranker chooses among candidates: give --num-candidates 2 or more, or leave it out")


SAMPLING_OPTIONS = tuple(field.name for field in fields(SamplingOptions))
NUMERIC_OPTIONS: dict[str, type] = {  # int or float: what `t2i report sweep` can vary
    name: kind for name, hint in get_type_hints(SamplingOptions).items() if (kind := get_args(hint)[0]) in (int, float)
}
