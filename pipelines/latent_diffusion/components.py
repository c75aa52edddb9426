"""The components of the latent diffusion pipelines: checked, saved, shared between pipelines; and prompts encoded.

Shapes: L text positions · D width of the text states
"""

from __future__ import annotations

import inspect
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Self

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.utils import scale_lora_layers, unscale_lora_layers
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, PreTrainedModel, PreTrainedTokenizerBase

from t2i.checks import check_prompts
from t2i.diffusion.conditioning import Conditioning, encoder_of, masks_padding
from t2i.diffusion.dit import DiT
from t2i.diffusion.schedulers import of_flow
from t2i.text.bpe import warn_of_unknown_words
from t2i.tokenizers.kl import KLTokenizer, make_fast, stride_of

logger = logging.getLogger(__name__)
# At every cast diffusers warns that some modules should be kept in float32, even where it then lists none.
logging.getLogger("diffusers.models.modeling_utils").addFilter(lambda line: "float32: []" not in line.getMessage())
Prompts = str | Sequence[str]


class LatentDiffusionComponents(StableDiffusionLoraLoaderMixin, StableDiffusionMixin, DiffusionPipeline):
    """Base class of the latent diffusion pipelines; see LatentDiffusionPipeline for the arguments."""

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
            vae = make_fast(vae)
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,  # not channels_last, which is slower on CPUs in batches of 16
            scheduler=scheduler,
            safety_checker=safety_checker,
            feature_extractor=feature_extractor,
            image_encoder=image_encoder,
        )
        self.register_to_config(requires_safety_checker=requires_safety_checker)
        if self._is_stable_diffusion:  # its constructor corrects outdated configs, which are shared: here too
            components = vae, text_encoder, tokenizer, unet, scheduler, None, None
            StableDiffusionPipeline(*components, requires_safety_checker=False)
        self.max_batch_bytes: int | None = None
        # State of the call in progress, under diffusers' names: callbacks read and set it.
        self._interrupt = False
        self._guidance_scale, self._num_timesteps = 1.0, 0

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs) -> Self:
        """This pipeline with another one's components: the same weights in memory, in the precision they have.

        Args:
            pipeline: any latent diffusion pipeline, or diffusers' Stable Diffusion 1.x or 2.x.
            kwargs: components to take instead, and `dtype` (or `torch_dtype`) to cast all of them, those of the other
                pipeline included.

        Raises ValueError for a pipeline with components that this one does not take, or without those that it needs.
        """
        dtype = [kwargs.pop(name, None) for name in ("dtype", "torch_dtype")]
        takes, options = cls._get_signature_keys(cls)
        unknown = [name for name, part in pipeline.components.items() if part is not None and name not in takes]
        if unknown:
            raise ValueError(f"a {cls.__name__} does not take a {type(pipeline).__name__}'s {unknown[0]}")
        needed = [n for n, p in inspect.signature(cls).parameters.items() if p.default is p.empty]
        if missing := [n for n in needed if n not in pipeline.components and n not in kwargs]:
            raise ValueError(f"a {cls.__name__} needs a {missing[0]}, which a {type(pipeline).__name__} does not have")
        config = {name: value for name, value in pipeline.config.items() if name in options}
        converted = cls(**{**pipeline.components, **config, **kwargs})
        # diffusers' from_pipe always casts the weights of both pipelines, by default to float32
        return converted.to(dtype=dtype[0] or dtype[1]) if any(dtype) else converted

    @property
    def interrupt(self) -> bool:
        """Whether the call is to stop; callbacks may set `pipe._interrupt`. Latents stay as noisy as they are."""
        return self._interrupt

    @property
    def guidance_scale(self) -> float:
        """Of the call in progress; a callback may set `pipe._guidance_scale` for the following steps."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Denoiser evaluations of the call in progress, per batch."""
        return self._num_timesteps

    @property
    def image_size(self) -> int:
        """Side of the images the denoiser was trained on. Raises ValueError where they are not square."""
        height, width = self._trained_size
        if height != width:
            raise ValueError(f"the denoiser was trained on images of {height}×{width}: give the size")
        return height

    @property
    def _trained_size(self) -> tuple[int, int]:
        """Height and width of the images the denoiser was trained on."""
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
    def _is_stable_diffusion(self) -> bool:
        """Whether diffusers' StableDiffusionPipeline generates the same with these components."""
        clip = isinstance(self.text_encoder, CLIPTextModel | CLIPTextModelWithProjection | None)
        sampler = self.scheduler is not None and not of_flow(self.scheduler.config)
        return clip and isinstance(self.unet, UNet2DConditionModel) and sampler

    @property
    def image_processor(self) -> VaeImageProcessor:
        """As in diffusers: converts between images and tensors (n, 3, H, W) in [-1, 1]."""
        channels = self.vae.config.latent_channels
        return VaeImageProcessor(vae_scale_factor=stride_of(self.vae), vae_latent_channels=channels)

    def __getattr__(self, name: str):
        if name in ("load_ip_adapter", "load_textual_inversion"):
            raise AttributeError(
                f"a {type(self).__name__} has no {name}: diffusers.StableDiffusionPipeline.from_pipe(pipe) does"
            )
        return super().__getattr__(name)

    def to_json_string(self) -> str:
        """The content of model_index.json. Where diffusers can run the pipeline, it names StableDiffusionPipeline, and
        `_made_by` tells AutoPipeline that it is t2i's.
        """
        index = json.loads(super().to_json_string())
        if type(self).__name__ == "LatentDiffusionPipeline" and self._is_stable_diffusion:
            index |= {"_class_name": "StableDiffusionPipeline", "_made_by": "t2i"}
        return json.dumps(index, indent=2, sort_keys=True) + "\n"

    def _check_channels(self, in_channels: int, vae: AutoencoderKL) -> None:
        """Raise ValueError unless a denoiser of so many input channels takes this autoencoder's latents alone."""
        latent_channels = vae.config.latent_channels
        if in_channels == 2 * latent_channels + 1:
            raise ValueError(
                f"the denoiser takes {in_channels} channels, as those for inpainting alone do (latent, mask, masked "
                "image): open its folder with AutoPipeline, or make a diffusers.StableDiffusionInpaintPipeline"
            )
        if in_channels != latent_channels:
            raise ValueError(
                f"the denoiser takes {in_channels} channels, the autoencoder makes {latent_channels}: they were not "
                "trained together, or belong to another pipeline class"
            )

    def _check_components(self, *names: str) -> None:
        """Raise ValueError where one of the components is None."""
        for name in names:
            if getattr(self, name) is None:
                raise ValueError(f"this pipeline has no {name}: create or open it with one")

    # --- prompts ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_prompt(
        self,
        prompt: Prompts | None,
        device: torch.device | str | None = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: Prompts | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        lora_scale: float | None = None,
        clip_skip: int | None = None,
    ) -> tuple[Tensor | None, ...]:
        """Text states of prompts, which a call takes in place of the prompts.

        Args:
            device: of the returned tensors; by default the pipeline's own.
            num_images_per_prompt: how often the states of each prompt are repeated, one after the other.
            prompt_embeds, negative_prompt_embeds: states in place of the prompts, as in a call.
            lora_scale: weight of a LoRA of the text encoder.
            clip_skip: as in a call; negative prompts have the last layer's states, as in diffusers.

        Returns:
            `prompt_embeds` and `negative_prompt_embeds`, each (prompts, L, D), the latter None without guidance, as in
            diffusers' StableDiffusionPipeline. Encoders whose padding is masked (T5) add, as in HunyuanDiTPipeline,
            `prompt_attention_mask` and `negative_prompt_attention_mask` (prompts, L), true where there is text. Raises
            ValueError as a call does.
        """
        text, negative = self._text(prompt, prompt_embeds, None, lora_scale, clip_skip), None
        if do_classifier_free_guidance:
            negative = self._negative_text(negative_prompt, text, negative_prompt_embeds, None, lora_scale)
        tensors = [text.states, negative and negative.states]
        if text.mask is not None:
            tensors += [text.mask, negative and negative.mask]
        repeated = [t if t is None else t.repeat_interleave(num_images_per_prompt, 0) for t in tensors]
        return tuple(t if t is None or device is None else t.to(device) for t in repeated)

    @staticmethod
    def _count_prompts(prompt: Prompts | None, states: Tensor | None = None) -> int:
        """The number of prompts or of rows of states. Raises ValueError unless exactly one of the two is given."""
        if (prompt is None) == (states is None):
            raise ValueError("give either prompt or prompt_embeds")
        return len(check_prompts("prompt", prompt)) if states is None else len(states)

    def _text(
        self,
        prompt: Prompts | None,
        states: Tensor | None = None,
        mask: Tensor | None = None,
        lora_scale: float | None = None,
        clip_skip: int | None = None,
    ) -> Conditioning:
        """The states of the prompts, or the given ones. Raises ValueError unless exactly one of the two is given."""
        self._count_prompts(prompt, states)
        if states is not None:
            return self._given_text("prompt", states, mask)
        if mask is not None:
            raise ValueError("prompt_attention_mask belongs to prompt_embeds: a prompt has its own")
        prompts = check_prompts("prompt", prompt)
        self._check_encoder()
        warn_of_unknown_words(self.tokenizer, prompts)
        return self._encode(prompts, lora_scale, clip_skip)

    def _negative_text(
        self,
        prompt: Prompts | None,
        text: Conditioning,
        states: Tensor | None = None,
        mask: Tensor | None = None,
        lora_scale: float | None = None,
    ) -> Conditioning:
        """The negative prompts, by default empty ones: as many rows as `text` has, with its grid."""
        n = len(text.states)
        if states is not None:
            if prompt is not None:
                raise ValueError("give either negative_prompt or negative_prompt_embeds")
            if states.shape != text.states.shape:
                raise ValueError(
                    f"prompt_embeds and negative_prompt_embeds must have one shape, not {tuple(text.states.shape)} and "
                    f"{tuple(states.shape)}"
                )
            return replace(self._given_text("negative_prompt", states, mask), grid=text.grid)
        if mask is not None:
            raise ValueError("negative_prompt_attention_mask belongs to negative_prompt_embeds")
        prompts = check_prompts("negative_prompt", prompt or "")
        self._check_encoder()
        warn_of_unknown_words(self.tokenizer, prompts)
        prompts = prompts * n if isinstance(prompt or "", str) else prompts
        if len(prompts) != n:
            raise ValueError(f"{n} prompts need as many negative prompts, not {len(prompts)}")
        return replace(self._encode(prompts, lora_scale), grid=text.grid)

    def _check_encoder(self) -> None:
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError(
                "this pipeline has no text encoder with a tokenizer: give prompt_embeds, and with guidance "
                "negative_prompt_embeds"
            )

    def _given_text(self, name: str, states: Tensor, mask: Tensor | None) -> Conditioning:
        D = getattr(self.unet, "config", {}).get("cross_attention_dim")
        if states.ndim != 3 or (isinstance(D, int) and states.shape[2] != D):
            raise ValueError(f"{name}_embeds must have the shape (prompts, L, {D}), not {tuple(states.shape)}")
        if mask is not None and mask.shape != states.shape[:2]:
            raise ValueError(
                f"{name}_attention_mask must have the shape {tuple(states.shape[:2])} of its states, not "
                f"{tuple(mask.shape)}"
            )
        device = self._execution_device
        return Conditioning(states.to(device, self._text_dtype), None if mask is None else mask.to(device, torch.bool))

    def _encode(
        self, prompts: list[str], lora_scale: float | None = None, clip_skip: int | None = None
    ) -> Conditioning:
        encoder = encoder_of(self.text_encoder, self.tokenizer, clip_skip)
        distinct = list(dict.fromkeys(prompts))
        if lora_scale is not None:
            scale_lora_layers(self.text_encoder, lora_scale)
        try:
            out = encoder.encode(distinct)
        finally:
            if lora_scale is not None:
                unscale_lora_layers(self.text_encoder, lora_scale)
        text = Conditioning(out.states.to(self._text_dtype), out.mask if masks_padding(encoder) else None)
        return text[torch.tensor([distinct.index(prompt) for prompt in prompts])]

    @property
    def _text_dtype(self) -> torch.dtype:
        """The denoiser's, where there is one."""
        return self.text_encoder.dtype if self.unet is None else self.unet.dtype


def _check_scaling(vae: AutoencoderKL) -> None:
    factor = getattr(vae.config, "scaling_factor", None)
    if not isinstance(factor, (int, float)) or not 0 < factor < float("inf"):
        raise ValueError(
            f"the autoencoder's config.json says scaling_factor {factor!r}, which must be a number above 0"
        )


def _register_with_diffusers() -> None:
    """Let `from_pipe` of diffusers' AutoPipelineForText2Image, …ForImage2Image and …ForInpainting find ours.

    Only where that module is loaded: it imports all pipelines of diffusers, which takes a while.
    """
    auto = sys.modules.get("diffusers.pipelines.auto_pipeline")
    if auto is None or "t2i" in auto.AUTO_TEXT2IMAGE_PIPELINES_MAPPING:
        return
    from t2i.pipelines import latent_diffusion  # which imports this module

    auto.AUTO_TEXT2IMAGE_PIPELINES_MAPPING["t2i"] = latent_diffusion.LatentDiffusionPipeline
    auto.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING["t2i"] = latent_diffusion.LatentDiffusionImg2ImgPipeline
    auto.AUTO_INPAINT_PIPELINES_MAPPING["t2i"] = latent_diffusion.LatentDiffusionInpaintPipeline
