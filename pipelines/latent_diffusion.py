"""Prompt → picture by diffusion in an autoencoder's latents (Rombach et al. 2022, arXiv 2112.10752).

The components are those of diffusers' StableDiffusionPipeline, under its names: what this pipeline saves opens there,
and a folder of Stable Diffusion 1.x or 2.x opens here.

Shapes: n images · R images of a batch · C, h, w latent · L text positions · D width of the text states · H, W picture
K channels beside the latent's, where the denoiser takes any: see latent_conditioned.py
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, SchedulerMixin, UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, PreTrainedModel, PreTrainedTokenizerBase

from t2i.checks import check_options, check_whole
from t2i.diffusion.attention import constants_kept
from t2i.diffusion.conditioning import Text, beside
from t2i.diffusion.dit import DiT
from t2i.diffusion.guidance import Guidance, thresholded
from t2i.diffusion.schedulers import make_scheduler, of_flow, set_timesteps
from t2i.images import OUTPUT_TYPES, as_output, to_pil
from t2i.pipelines.generators import for_steps, one_each
from t2i.pipelines.latent_interpolation import Interpolation
from t2i.pipelines.latent_start import FromNoise
from t2i.pipelines.latent_text import TextInputs, warn_without_effect
from t2i.tokenizers.kl import KLTokenizer, stride_of

DEFAULT_BATCH_BYTES = 2**30


@dataclass
class LatentDiffusionPipelineOutput(BaseOutput):
    """
    Args:
        images: by `output_type`, a list of PIL images, an array (n, H, W, 3) or a tensor (n, 3, H, W) in [0, 1], or
            for "latent" the scaled latents (n, C, h, w).
        nsfw_content_detected: for each image, where the pipeline has a safety checker; it then is black.
    """

    images: list[Image.Image] | np.ndarray | Tensor
    nsfw_content_detected: list[bool] | None = None


class LatentDiffusionPipeline(
    Interpolation, TextInputs, StableDiffusionLoraLoaderMixin, StableDiffusionMixin, DiffusionPipeline
):
    """Args:
    vae: between pixels and latents, with the latents' scaling_factor.
    text_encoder, tokenizer: CLIP's, or T5's.
    unet: the denoiser; a DiT does as well.
    scheduler: the sampler, and with it what the denoiser says.
    safety_checker, feature_extractor: of Stable Diffusion; pictures that the checker objects to come out black.

    `max_batch_bytes`, about so much may the activations of a batch take: more images than fit are made in several
    batches. By default 1 GiB, and on CUDA half of the memory that is free.

    A pipeline serves one thread at a time; others made by `from_pipe` share its weights.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _optional_components: ClassVar[list[str]] = ["safety_checker", "feature_extractor"]
    _callback_tensor_inputs: tuple[str, ...] = ("latents", "prompt_embeds", "negative_prompt_embeds")

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        unet: UNet2DConditionModel | DiT,
        scheduler: SchedulerMixin,
        safety_checker: PreTrainedModel | None = None,
        feature_extractor=None,
        requires_safety_checker: bool = False,
    ):
        super().__init__()
        self._check_channels(unet.config.in_channels, vae)
        if getattr(unet.config, "time_cond_proj_dim", None) is not None:
            raise ValueError("this denoiser takes the guidance scale as an input: diffusers' own pipelines can do that")
        self.register_modules(
            vae=vae.to(memory_format=torch.channels_last),  # faster on a CPU, never slower on a GPU; not kept in files
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,  # in its own layout: with 16 images at once, the other is slower on a CPU
            scheduler=scheduler,
            safety_checker=safety_checker,
            feature_extractor=feature_extractor,
        )
        self.register_to_config(requires_safety_checker=requires_safety_checker)
        self.max_batch_bytes: int | None = None
        self._interrupt = False
        self._guidance_scale, self._num_timesteps = 1.0, 0
        self._start = FromNoise()  # or from a picture: see latent_editing.py

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
        """Side of the pictures that the denoiser was trained on."""
        return self.unet.config.sample_size * stride_of(self.vae)

    @property
    def image_tokenizer(self) -> KLTokenizer:
        """The autoencoder as an image tokenizer: encode, decode, reconstruct."""
        return KLTokenizer(self.vae)

    def to_json_string(self) -> str:
        """What model_index.json holds: Stable Diffusion's name where it is one, so that all of diffusers opens it."""
        said = json.loads(super().to_json_string())
        clip = isinstance(self.text_encoder, CLIPTextModel | CLIPTextModelWithProjection)
        denoises = isinstance(self.unet, UNet2DConditionModel) and not of_flow(self.scheduler.config)
        if type(self) is LatentDiffusionPipeline and clip and denoises:
            said |= {"_class_name": "StableDiffusionPipeline", "_made_by": "t2i"}
        return json.dumps(said, indent=2, sort_keys=True) + "\n"

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 20,
        guidance_scale: float = 2.0,
        scheduler: str | None = None,
        eta: float = 0.0,
        guidance_rescale: float = 0.0,
        dynamic_threshold: float | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[LatentDiffusionPipeline, int, Tensor, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> LatentDiffusionPipelineOutput | tuple:
        """Draw `num_images_per_prompt` pictures of each prompt, those of the first prompt first.

        Args:
            prompt: one or more prompts; or none, and `prompt_embeds`.
            negative_prompt: what guidance leads away from; nothing in particular by default.
            height, width: in pixels; what the denoiser was trained on by default.
            num_inference_steps: of the sampler.
            guidance_scale: up to 1 the model is followed, at half the cost; more follows the prompt more closely. 2 is
                best for toybox/ldm; the custom for Stable Diffusion is 7.5.
            scheduler: another sampler by name, for this call: see `t2i.diffusion.schedulers`.
            eta: of DDIM: 0 adds no noise, 1 as much as DDPM.
            guidance_rescale: from 0 to 1, against the harsh contrast of strong guidance.
            dynamic_threshold: no |x_0| of the latents stays much beyond it; another remedy for strong guidance.
            generator: one for each image, which then depends on nothing else; or one that draws where all start, and
                from which is seeded what draws each image's noise at later steps, where the sampler adds any.
            latents: the noise to start from, (n, C, h, w), in place of what the generator would draw.
            prompt_embeds, negative_prompt_embeds: states of the text, (prompts, L, D), in place of the prompts, and
                prompt_attention_mask, negative_prompt_attention_mask: (prompts, L), as `encode_prompt` makes them.
            callback_on_step_end: called as f(pipe, step, timestep, tensors) after each step, with the rows of the batch
                that is being drawn; "latents" and "prompt_embeds" that it returns replace those there are. Diffusers'
                own callbacks do as well.
            callback_on_step_end_tensor_inputs: which it gets: "latents" (R, C, h, w), "prompt_embeds" (R, L, D), or
                with guidance (2R, L, D), the negative ones first, and these as "negative_prompt_embeds".

        Raises ValueError, with the remedy, for arguments that ask for what cannot be, and FloatingPointError where the
        latents are not finite.
        """
        tell = getattr(callback_on_step_end, "tensor_inputs", callback_on_step_end_tensor_inputs)
        check_whole("num_inference_steps", num_inference_steps)
        check_options({"num_images_per_prompt": num_images_per_prompt, "eta": eta})
        self._check_inputs(output_type, tell)
        guidance = Guidance(guidance_scale, guidance_rescale, dynamic_threshold)
        text, against = self._text(prompt, prompt_embeds, prompt_attention_mask), None
        if guidance.guided:
            given = negative_prompt_embeds, negative_prompt_attention_mask
            against = self._text_against(negative_prompt, text, *given)
        count = len(text.states) * num_images_per_prompt
        generators = one_each(generator, count)
        latents = self._noise((count, *self._latent_shape(height, width)), generators, latents)  # (n, C, h, w)
        generators = for_steps(generator, generators)
        self._interrupt = False

        steps = self._start.steps(num_inference_steps)
        batches = list(self._row_batches(latents, guidance))
        sampler = self._sampler(self.scheduler, scheduler, num_inference_steps)
        negative = negative_prompt or negative_prompt_embeds
        warn_without_effect(guidance, negative, sampler, eta)
        with (
            constants_kept(self.unet),
            self._own_sampler() as own,
            self.progress_bar(total=steps * len(batches)) as bar,
        ):
            for rows in batches:
                sampler = self.scheduler = self._sampler(own, scheduler, num_inference_steps)
                how = _step_options(sampler, eta=eta, generator=generators and generators[rows])
                times = self._start.times(sampler, num_inference_steps)
                x = self._start.begin(sampler, times, latents[rows], rows)  # (R, C, h, w)
                asked = torch.arange(count)[rows] // num_images_per_prompt  # whose prompt each row has
                given = text[asked] if against is None else Text.stack(against[asked], text[asked])
                led, self._guidance_scale, self._num_timesteps = guidance, guidance_scale, len(times)
                for i, t in enumerate(times):
                    said = self._predict(sampler, x, t, given, led)  # (R, C, h, w)
                    x = sampler.step(said, t, x, **how, return_dict=False)[0]
                    x = self._start.blend(sampler, x, times[i + 1 : i + 2], latents[rows], rows)
                    if callback_on_step_end is not None:
                        x, given = self._call_back(callback_on_step_end, tell, i, t, x, given)
                        led = replace(guidance, scale=self._guidance_scale)
                    if (i + 1) % sampler.order == 0 or i + 1 == len(times):
                        bar.update()
                    if self._interrupt:
                        break
                latents[rows] = x
                if self._interrupt:
                    break

        if not latents.isfinite().all():
            raise FloatingPointError(
                f"the latents are not finite after {num_inference_steps} steps in {latents.dtype}: lower the "
                "guidance_scale, or open the pipeline in float32; or else the denoiser's weights are damaged"
            )
        images, unsafe = self._finish(latents, output_type)
        self.maybe_free_model_hooks()
        if not return_dict:
            return images, unsafe
        return LatentDiffusionPipelineOutput(images=images, nsfw_content_detected=unsafe)

    # --- input ------------------------------------------------------------------------------------------------------

    def _check_channels(self, takes: int, vae: AutoencoderKL) -> None:
        """Raise ValueError unless a denoiser of so many channels draws this autoencoder's latents from words alone."""
        if takes != vae.config.latent_channels:
            raise ValueError(
                f"the denoiser takes {takes} channels, the autoencoder makes {vae.config.latent_channels}: they were "
                "not trained together, or for another pipeline than this one"
            )

    def _check_inputs(self, output_type: str, inputs: Sequence[str]) -> None:
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"unknown output_type {output_type!r}: choose one of {', '.join(OUTPUT_TYPES)}")
        if unknown := set(inputs) - set(self._callback_tensor_inputs):
            raise ValueError(f"no tensor {unknown.pop()!r} for callbacks: there are {self._callback_tensor_inputs}")

    def _latent_shape(self, height: int | None, width: int | None) -> tuple[int, int, int]:
        """(C, h, w) of a picture; raises ValueError for sides that the autoencoder's stride does not divide."""
        stride = stride_of(self.vae)
        sides = tuple(self.image_size if side is None else side for side in (height, width))
        for name, side in zip(("height", "width"), sides, strict=True):
            check_whole(name, side, least=0)
        if any(side < 1 or side % stride for side in sides):
            raise ValueError(f"height and width must be multiples of {stride}, not {sides[0]}×{sides[1]}")
        return self.vae.config.latent_channels, sides[0] // stride, sides[1] // stride

    def _noise(self, shape: tuple[int, ...], generators: list[torch.Generator] | None, given: Tensor | None) -> Tensor:
        """The latents to start from, (n, C, h, w): each image's drawn with its own generator."""
        if given is None:
            return randn_tensor(shape, generator=generators, device=self._execution_device, dtype=self.unet.dtype)
        if given.shape != shape:
            raise ValueError(f"latents must have the shape {shape}, not {tuple(given.shape)}")
        return given.to(self._execution_device, self.unet.dtype, copy=True)

    # --- sampling ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _own_sampler(self) -> Iterator[SchedulerMixin]:
        """The pipeline's sampler, which is in its place again afterwards: callbacks find there the one at work."""
        own = self.scheduler
        try:
            yield own
        finally:
            self.scheduler = own

    def _sampler(self, own: SchedulerMixin, name: str | None, steps: int) -> SchedulerMixin:
        """A sampler of its own for each batch, since it remembers where it is."""
        sampler = make_scheduler(name, own.config) if name else copy.deepcopy(own)
        set_timesteps(sampler, steps, self._execution_device)
        return sampler

    def _predict(self, sampler: SchedulerMixin, x: Tensor, t: Tensor, text: Text, guidance: Guidance) -> Tensor:
        """What the denoiser says of x (R, C, h, w), led towards the prompt."""
        seen = sampler.scale_model_input(x, t) if hasattr(sampler, "scale_model_input") else x
        # With guidance both halves, without and with the prompt, run as one batch.
        both = torch.cat([seen, seen]) if guidance.guided else seen  # (2R, C, h, w)
        both = beside(both, text.grid)  # (2R, C + K, h, w)
        said = self.unet(both, t, encoder_hidden_states=text.states, encoder_attention_mask=text.mask).sample
        if guidance.guided:
            unconditional, conditional = said.chunk(2)
            said = guidance(conditional, unconditional)
        if guidance.threshold is not None:
            said = thresholded(self.scheduler.config, said, seen, t, guidance.threshold)
        return said

    def _row_batches(self, latents: Tensor, guidance: Guidance) -> Iterator[slice]:
        """The rows in as many slices as keep each one's activations under `max_batch_bytes`, by a rough count."""
        rows, _, h, w = latents.shape
        config = self.unet.config
        widths = [config.width] if isinstance(self.unet, DiT) else config.block_out_channels
        largest = max(width >> (2 * level) for level, width in enumerate(widths)) * h * w  # each level halves the sides
        a_row = 64 * largest * latents.dtype.itemsize * (2 if guidance.guided else 1)
        size = max(1, self._batch_bytes(latents.device) // a_row)
        return (slice(start, min(start + size, rows)) for start in range(0, rows, size))

    def _batch_bytes(self, device: torch.device) -> int:
        if self.max_batch_bytes is not None:
            return self.max_batch_bytes
        if device.type != "cuda":
            return DEFAULT_BATCH_BYTES
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for use again
        return (torch.cuda.mem_get_info(device)[0] + kept) // 2

    def _call_back(
        self, callback: Callable, names: Sequence[str], step: int, t: Tensor, x: Tensor, text: Text
    ) -> tuple[Tensor, Text]:
        """Tell of a step; the latents (R, C, h, w) and the text that the next one goes on with."""
        against = text.states[: len(x)] if self.do_classifier_free_guidance else None
        tensors = {"latents": x, "prompt_embeds": text.states, "negative_prompt_embeds": against}
        said = callback(self, step, t, {name: tensors[name] for name in names}) or {}
        guided = self.do_classifier_free_guidance  # the callback may have ended it
        states, rows = said.get("prompt_embeds", text.states), len(x) * (2 if guided else 1)
        if states is text.states and len(states) == rows:
            return said.get("latents", x), text  # the same tensor, whose keys and values are known
        if len(states) != rows or rows > len(text.states):
            raise ValueError(
                f"a callback left {len(states)} rows of prompt_embeds for {len(x)} latents and a guidance_scale of "
                f"{self._guidance_scale}: there must be {rows}, and guidance can end but not begin on the way"
            )
        kept = text[torch.arange(len(text.states))[-rows:]]
        return said.get("latents", x), replace(kept, states=states.to(text.states))

    # --- output -----------------------------------------------------------------------------------------------------

    def _finish(self, latents: Tensor, output_type: str) -> tuple[list[Image.Image] | np.ndarray | Tensor, list | None]:
        if output_type == "latent":
            return latents, None
        stride = stride_of(self.vae)
        a_row = 8 * self.vae.config.block_out_channels[0] * latents[0, 0].numel() * stride**2 * latents.dtype.itemsize
        parts = latents.split(max(1, self._batch_bytes(latents.device) // a_row))
        tokenizer = self.image_tokenizer
        images = self._start.paste(torch.cat([tokenizer.decode(part) for part in parts]))  # (n, 3, H, W) in [-1, 1]
        images, unsafe = self._checked(images)
        return as_output(images, output_type), unsafe

    def _checked(self, images: Tensor) -> tuple[Tensor, list[bool] | None]:
        """Blacken what the safety checker objects to, if there is one: (n, 3, H, W) in [-1, 1] -> the same."""
        if self.safety_checker is None:
            return images, None
        seen = self.feature_extractor(to_pil(images), return_tensors="pt").pixel_values
        arrays = list((images.float() / 2 + 0.5).permute(0, 2, 3, 1).cpu().numpy())
        _, unsafe = self.safety_checker(
            images=arrays, clip_input=seen.to(self._execution_device, self.safety_checker.dtype)
        )
        black = torch.tensor(unsafe, device=images.device).view(-1, 1, 1, 1)
        return images.masked_fill(black, -1), [bool(u) for u in unsafe]


def _step_options(sampler: SchedulerMixin, **options) -> dict:
    """Those of the options that this sampler's step takes."""
    takes = inspect.signature(sampler.step).parameters
    return {name: value for name, value in options.items() if name in takes}
