"""t2i: a text-to-image laboratory.

The user-facing names are imported on first use, so that `import t2i` costs milliseconds.
"""

from importlib import import_module
from importlib.metadata import version as _version

__version__ = _version("t2i")

_HOMES = {
    "AutoPipeline": "t2i.pipelines.auto",
    "DallePipeline": "t2i.pipelines.dalle",
    "LatentDiffusionPipeline": "t2i.pipelines.latent_diffusion",
    "LatentDiffusionImg2ImgPipeline": "t2i.pipelines.latent_editing",
    "LatentDiffusionInpaintPipeline": "t2i.pipelines.latent_editing",
    "LatentDiffusionUpscalePipeline": "t2i.pipelines.latent_conditioned",
    "LatentDiffusionLayoutPipeline": "t2i.pipelines.latent_conditioned",
    "VQVAE": "t2i.tokenizers.vqvae",
    "TextImageTransformer": "t2i.prior.transformer",
    "Scene": "t2i.data.toybox",
    "Toybox": "t2i.data.toybox",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 't2i' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
