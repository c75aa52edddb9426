from .data.toybox import Scene as Scene
from .data.toybox import Toybox as Toybox
from .pipelines.dalle import DallePipeline as DallePipeline
from .pipelines.latent_diffusion import LatentDiffusionImg2ImgPipeline as LatentDiffusionImg2ImgPipeline
from .pipelines.latent_diffusion import LatentDiffusionInpaintPipeline as LatentDiffusionInpaintPipeline
from .pipelines.latent_diffusion import LatentDiffusionLayoutPipeline as LatentDiffusionLayoutPipeline
from .pipelines.latent_diffusion import LatentDiffusionPipeline as LatentDiffusionPipeline
from .pipelines.latent_diffusion import LatentDiffusionUpscalePipeline as LatentDiffusionUpscalePipeline
from .pipelines.loading.auto import AutoPipeline as AutoPipeline
from .pipelines.muse import MusePipeline as MusePipeline
from .pipelines.unclip import UnCLIPPipeline as UnCLIPPipeline
from .prior.masked import MaskedTransformer as MaskedTransformer
from .prior.transformer import TextImageTransformer as TextImageTransformer
from .tokenizers.vqvae import VQVAE as VQVAE

__version__: str
