"""What a latent-diffusion pipeline is made of, and how it is opened, saved and made from others."""

from __future__ import annotations

import inspect
import json
import logging
import sys
from typing import ClassVar, Self

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from transformers import CLIPTextModel, CLIPTextModelWithProjection, PreTrainedModel, PreTrainedTokenizerBase

from t2i.diffusion.dit import DiT
from t2i.diffusion.schedulers import of_flow
from t2i.tokenizers.kl import KLTokenizer, stride_of

logger = logging.getLogger(__name__)
# Of every cast diffusers says that some modules should be kept in float32, even where it then lists none.
logging.getLogger("diffusers.models.modeling_utils").addFilter(lambda said: "float32: []" not in said.getMessage())


class LatentDiffusionParts(StableDiffusionLoraLoaderMixin, StableDiffusionMixin, DiffusionPipeline):
    """The components of LatentDiffusionPipeline, which see for the arguments."""

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _optional_components: ClassVar[list[str]] = ["safety_checker", "feature_extractor", "image_encoder"]
    _callback_tensor_inputs: tuple[str, ...] = ("latents", "prompt_embeds", "negative_prompt_embeds")

    def __init__(
        self,
        vae: AutoencoderKL | None,
        text_encoder: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
        unet: UNet2DConditionModel | DiT | None,
        scheduler: SchedulerMixin,
        safety_checker: PreTrainedModel | None = None,
        feature_extractor=None,
        image_encoder: PreTrainedModel | None = None,
        requires_safety_checker: bool = False,
    ):
        super().__init__()
        _register_with_diffusers()
        if unet is not None and getattr(unet.config, "time_cond_proj_dim", None) is not None:
            raise ValueError(
                "the denoiser takes the guidance scale as an input (time_cond_proj_dim), which only diffusers' own "
                "pipelines give it: open its folder with AutoPipeline, or make a diffusers.StableDiffusionPipeline"
            )
        if vae is not None:
            _check_scaling(vae)
        if unet is not None and vae is not None:
            self._check_channels(unet.config.in_channels, vae)
        if image_encoder is not None:
            logger.info("the image_encoder is kept, but only diffusers' own pipelines use it, for an IP-Adapter")
        if vae is not None:
            vae = vae.to(memory_format=torch.channels_last)  # faster on a CPU, never slower on a GPU; not kept in files
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,  # in its own layout: with 16 images at once, the other is slower on a CPU
            scheduler=scheduler,
            safety_checker=safety_checker,
            feature_extractor=feature_extractor,
            image_encoder=image_encoder,
        )
        self.register_to_config(requires_safety_checker=requires_safety_checker)
        if self._has_stable_diffusion_parts:  # diffusers mends some configs of what it opens: mended here too
            parts = vae, text_encoder, tokenizer, unet, scheduler, None, None
            StableDiffusionPipeline(*parts, requires_safety_checker=False)
        self.max_batch_bytes: int | None = None
        self._interrupt = False
        self._guidance_scale, self._num_timesteps = 1.0, 0

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs) -> Self:
        """This pipeline with another one's parts: the same weights in memory, in the precision they have.

        Args:
            pipeline: any of latent diffusion, or diffusers' Stable Diffusion 1.x or 2.x.
            kwargs: parts to take instead, and `dtype` (or `torch_dtype`) to cast all of them, the other pipeline's too.

        Raises ValueError for a pipeline with parts that this one has no use for, or without those that it needs.
        """
        dtype = [kwargs.pop(name, None) for name in ("dtype", "torch_dtype")]
        takes, options = cls._get_signature_keys(cls)
        if odd := [name for name, part in pipeline.components.items() if part is not None and name not in takes]:
            raise ValueError(f"a {cls.__name__} has no use for a {type(pipeline).__name__}'s {odd[0]}")
        needed = [n for n, p in inspect.signature(cls).parameters.items() if p.default is p.empty]
        if missing := [n for n in needed if n not in pipeline.components and n not in kwargs]:
            raise ValueError(f"a {cls.__name__} needs a {missing[0]}, which a {type(pipeline).__name__} does not have")
        chosen = {name: value for name, value in pipeline.config.items() if name in options}
        made = cls(**{**pipeline.components, **chosen, **kwargs})
        # diffusers' own from_pipe casts always, and by default the weights of both to float32
        return made.to(dtype=dtype[0] or dtype[1]) if any(dtype) else made

    @property
    def interrupt(self) -> bool:
        """Set `pipe._interrupt = True` in a callback to stop: latents stay as noisy as they are."""
        return self._interrupt

    @property
    def guidance_scale(self) -> float:
        """Of the call; a callback may set `pipe._guidance_scale` for the steps that follow."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Passes of the denoiser that the call takes for each batch."""
        return self._num_timesteps

    @property
    def image_size(self) -> int:
        """Side of the pictures that the denoiser was trained on. Raises ValueError where they are no squares."""
        height, width = self._trained_size
        if height != width:
            raise ValueError(f"the denoiser was trained on pictures of {height}×{width}: give the size")
        return height

    @property
    def _trained_size(self) -> tuple[int, int]:
        """Height and width of the pictures that the denoiser was trained on."""
        size = self.unet.config.sample_size
        sides = size if isinstance(size, (list, tuple)) else (size, size)
        if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
            raise ValueError(f"the denoiser's config.json says sample_size {size!r}, which is no size of a latent")
        h, w = sides
        return h * stride_of(self.vae), w * stride_of(self.vae)

    @property
    def image_tokenizer(self) -> KLTokenizer:
        """The autoencoder as an image tokenizer: encode, decode, reconstruct."""
        return KLTokenizer(self.vae)

    @property
    def _has_stable_diffusion_parts(self) -> bool:
        """Whether diffusers' Stable Diffusion pipelines generate the same with these parts."""
        clip = isinstance(self.text_encoder, CLIPTextModel | CLIPTextModelWithProjection | None)
        sampler = self.scheduler is not None and not of_flow(self.scheduler.config)
        return clip and isinstance(self.unet, UNet2DConditionModel) and sampler

    @property
    def image_processor(self) -> VaeImageProcessor:
        """diffusers' own: between images and tensors (n, 3, H, W) in [-1, 1]."""
        channels = self.vae.config.latent_channels
        return VaeImageProcessor(vae_scale_factor=stride_of(self.vae), vae_latent_channels=channels)

    def __getattr__(self, name: str):
        if name in ("load_ip_adapter", "load_textual_inversion"):
            raise AttributeError(
                f"a {type(self).__name__} has no {name}: diffusers.StableDiffusionPipeline.from_pipe(pipe) does"
            )
        return super().__getattr__(name)

    def to_json_string(self) -> str:
        """What model_index.json holds: Stable Diffusion's name where it is one, so that all of diffusers opens it, and
        `_made_by`, by which AutoPipeline knows it from what diffusers saved."""
        said = json.loads(super().to_json_string())
        if type(self).__name__ == "LatentDiffusionPipeline" and self._has_stable_diffusion_parts:
            said |= {"_class_name": "StableDiffusionPipeline", "_made_by": "t2i"}
        return json.dumps(said, indent=2, sort_keys=True) + "\n"

    def _check_channels(self, takes: int, vae: AutoencoderKL) -> None:
        """Raise ValueError unless a denoiser of so many channels denoises this autoencoder's latents alone."""
        latent = vae.config.latent_channels
        if takes == 2 * latent + 1:
            raise ValueError(
                f"the denoiser takes {takes} channels, as those for inpainting alone do (latent, mask, masked image): "
                "open its folder with AutoPipeline, or make a diffusers.StableDiffusionInpaintPipeline"
            )
        if takes != latent:
            raise ValueError(
                f"the denoiser takes {takes} channels, the autoencoder makes {latent}: they were not trained together, "
                "or for another pipeline than this one"
            )

    def _check_parts(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) is None:
                raise ValueError(f"this pipeline has no {name}: open or make it with one")


def _check_scaling(vae: AutoencoderKL) -> None:
    factor = getattr(vae.config, "scaling_factor", None)
    if not isinstance(factor, (int, float)) or not 0 < factor < float("inf"):
        raise ValueError(
            f"the autoencoder's config.json says scaling_factor {factor!r}, which must be a number above 0"
        )


def _register_with_diffusers() -> None:
    """Let `from_pipe` of diffusers' AutoPipelineForText2Image, …ForImage2Image and …ForInpainting find ours.

    Only where they are imported: that imports all pipelines of diffusers, which takes a while.
    """
    auto = sys.modules.get("diffusers.pipelines.auto_pipeline")
    if auto is None or "t2i" in auto.AUTO_TEXT2IMAGE_PIPELINES_MAPPING:
        return
    from t2i.pipelines import latent_diffusion  # which imports this module

    auto.AUTO_TEXT2IMAGE_PIPELINES_MAPPING["t2i"] = latent_diffusion.LatentDiffusionPipeline
    auto.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING["t2i"] = latent_diffusion.LatentDiffusionImg2ImgPipeline
    auto.AUTO_INPAINT_PIPELINES_MAPPING["t2i"] = latent_diffusion.LatentDiffusionInpaintPipeline
