"""Prompt → picture by diffusion in an autoencoder's latents (Rombach et al. 2022, arXiv 2112.10752).

The components are those of diffusers' StableDiffusionPipeline, under its names: what this pipeline saves opens there,
and a pipeline of Stable Diffusion 1.x or 2.x comes here by `from_pipe`.

Shapes: n images · R images of a batch · C, h, w latent · L text positions · D width of the text states · H, W picture
K channels beside the latent's, where the denoiser takes any: see conditioned.py
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import SchedulerMixin, UNet2DConditionModel
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from t2i.checks import check_options, check_whole
from t2i.diffusion.attention import constants_kept
from t2i.diffusion.conditioning import Text, beside
from t2i.diffusion.guidance import Guidance, thresholded
from t2i.diffusion.schedulers import count_steps, make_scheduler, set_timesteps
from t2i.images import OUTPUT_TYPES, as_output
from t2i.pipelines.generators import Generators, for_steps, one_each
from t2i.pipelines.latent_diffusion.batches import batch_bytes, decoding_batches, denoising_batches
from t2i.pipelines.latent_diffusion.components import LatentDiffusionParts
from t2i.pipelines.latent_diffusion.interpolation import Interpolation
from t2i.pipelines.latent_diffusion.safety import blackened
from t2i.pipelines.latent_diffusion.start import FromNoise
from t2i.pipelines.latent_diffusion.text import TextInputs, warn_without_effect
from t2i.tokenizers.kl import stride_of


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


class LatentDiffusionPipeline(Interpolation, TextInputs, LatentDiffusionParts):
    """Args:
    vae: between pixels and latents, with the latents' scaling_factor.
    text_encoder, tokenizer: CLIP's, or T5's.
    unet: the denoiser; a DiT does as well.
    scheduler: the sampler, and with it what the denoiser says.
    safety_checker, feature_extractor: of Stable Diffusion; pictures that the checker objects to come out black.
    image_encoder: of Stable Diffusion's IP-Adapter. It is kept, and saved; only diffusers' own pipelines use it.

    Any of the first four may be None: `encode_prompt` takes a text encoder and its tokenizer alone, and a call with
    `prompt_embeds` takes all others. A call that lacks one raises ValueError.

    `max_batch_bytes`, about so much may the activations of a batch take: more images than fit are made in several
    batches. By default 1 GiB, and on CUDA half of the memory that is free.

    A pipeline serves one thread at a time; others made by `from_pipe` share its weights. For what this class does not
    have, such as an IP-Adapter or textual inversion, `diffusers.StableDiffusionPipeline.from_pipe(pipe)` gives
    diffusers' own, and `LatentDiffusionPipeline.from_pipe` goes back.
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 20,
        timesteps: Sequence[int] | None = None,
        sigmas: Sequence[float] | None = None,
        guidance_scale: float = 2.0,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        guidance_rescale: float = 0.0,
        clip_skip: int | None = None,
        callback_on_step_end: Callable[[LatentDiffusionPipeline, int, Tensor, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        scheduler: str | None = None,
        dynamic_threshold: float | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        *,
        start: FromNoise | None = None,
        grid: Tensor | None = None,
    ) -> LatentDiffusionPipelineOutput | tuple:
        """Generate `num_images_per_prompt` images of each prompt, those of the first prompt first.

        Args:
            prompt: one or more prompts; or none, and `prompt_embeds`.
            height, width: in pixels; what the denoiser was trained on by default.
            num_inference_steps: of the sampler.
            timesteps, sigmas: those of the steps, for samplers that take them, in place of `num_inference_steps`.
            guidance_scale: up to 1 the model is followed, at half the cost; more follows the prompt more closely. 2 is
                best for toybox/ldm; the custom for Stable Diffusion is 7.5.
            negative_prompt: what guidance leads away from; nothing in particular by default.
            eta: of DDIM: 0 adds no noise, 1 as much as DDPM.
            generator: one for each image, which then depends on nothing else; or one for the noise from which all
                start, which then seeds what makes each image's noise at later steps, where the sampler adds any.
            latents: the noise to start from, (n, C, h, w), in place of the generator's.
            prompt_embeds, negative_prompt_embeds: states of the text, (prompts, L, D), in place of the prompts, and
                prompt_attention_mask, negative_prompt_attention_mask: (prompts, L), as `encode_prompt` makes them.
            cross_attention_kwargs: of the U-Net's attention processors; "scale" is a LoRA's.
            guidance_rescale: from 0 to 1, against the harsh contrast of strong guidance.
            clip_skip: take the prompt's states of so many layers before CLIP's last.
            callback_on_step_end: called as f(pipe, step, timestep, tensors) after each step, with the rows of the batch
                that is being generated; "latents" and "prompt_embeds" that it returns replace those there are.
                Diffusers' own callbacks do as well.
            callback_on_step_end_tensor_inputs: which it gets: "latents" (R, C, h, w), "prompt_embeds" (R, L, D), or
                with guidance (2R, L, D), the negative ones first, and these as "negative_prompt_embeds".
            scheduler: another sampler by name, for this call: see `t2i.diffusion.schedulers`.
            dynamic_threshold: no |x_0| of the latents stays much beyond it; another remedy for strong guidance.
            start: what sampling starts from, noise by default; see start.py.
            grid: (prompts, K, h, w), what denoisers of further channels are conditioned on; see conditioned.py.

        Raises ValueError, with the remedy, for arguments that ask for what cannot be, and FloatingPointError where the
        latents are not finite.
        """
        start, own = start or FromNoise(), self.scheduler
        tell = getattr(callback_on_step_end, "tensor_inputs", callback_on_step_end_tensor_inputs)
        self._check_parts("unet", "vae", "scheduler")
        by_count = timesteps is None and sigmas is None
        check_whole("num_inference_steps", num_inference_steps if by_count else 1)
        check_options({"num_images_per_prompt": num_images_per_prompt, "eta": eta})
        self._check_inputs(output_type, tell, cross_attention_kwargs)
        device = self._execution_device  # looked up once: each time walks the modules of all components
        new_sampler = partial(self._sampler, own, scheduler, num_inference_steps, timesteps, sigmas, device)
        first_sampler = new_sampler()
        if not by_count:
            num_inference_steps = count_steps(first_sampler)
        guidance = Guidance(guidance_scale, guidance_rescale, dynamic_threshold)
        lora_scale = (cross_attention_kwargs or {}).get("scale")
        text, against = self._text(prompt, prompt_embeds, prompt_attention_mask, lora_scale, clip_skip), None
        text = replace(text, grid=grid)
        if guidance.guided:
            given = negative_prompt_embeds, negative_prompt_attention_mask, lora_scale
            against = self._text_against(negative_prompt, text, *given)
        count = len(text.states) * num_images_per_prompt
        generators = one_each(generator, count)
        shape = (count, *self._latent_shape(height, width))
        latents = self._noise(shape, generator, latents, device)  # (n, C, h, w)
        generators = for_steps(generator, generators)
        self._interrupt = False

        negative = negative_prompt or negative_prompt_embeds
        warn_without_effect(guidance, negative, first_sampler, eta)
        steps = start.steps(num_inference_steps)
        most = batch_bytes(device) if self.max_batch_bytes is None else self.max_batch_bytes
        batches = list(denoising_batches(self.unet, latents, guidance.guided, most))
        with constants_kept(self.unet), self._restored_sampler(), self.progress_bar(total=steps * len(batches)) as bar:
            for rows in batches:
                sampler = self.scheduler = new_sampler() if rows.start else first_sampler
                how = _step_options(sampler, eta=eta, generator=generators and generators[rows])
                times = start.times(sampler, num_inference_steps)
                x = start.begin(sampler, times, latents[rows], rows)  # (R, C, h, w)
                asked = torch.arange(count)[rows] // num_images_per_prompt  # whose prompt each row has
                given = text[asked] if against is None else Text.stack(against[asked], text[asked])
                led, self._guidance_scale, self._num_timesteps = guidance, guidance_scale, len(times)
                for i, t in enumerate(times):
                    said = self._predict(sampler, x, t, given, led, cross_attention_kwargs)  # (R, C, h, w)
                    x = sampler.step(said, t, x, **how, return_dict=False)[0]
                    x = start.blend(sampler, x, times[i + 1 : i + 2], latents[rows], rows)
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
        images, unsafe = self._finish(latents, start, output_type, most)
        self.maybe_free_model_hooks()
        if not return_dict:
            return images, unsafe
        return LatentDiffusionPipelineOutput(images=images, nsfw_content_detected=unsafe)

    # --- input ------------------------------------------------------------------------------------------------------

    def _check_inputs(self, output_type: str, inputs: Sequence[str], cross_attention_kwargs: dict | None) -> None:
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"unknown output_type {output_type!r}: choose one of {', '.join(OUTPUT_TYPES)}")
        if unknown := set(inputs) - set(self._callback_tensor_inputs):
            raise ValueError(f"no tensor {unknown.pop()!r} for callbacks: there are {self._callback_tensor_inputs}")
        if cross_attention_kwargs and not isinstance(self.unet, UNet2DConditionModel):
            raise ValueError(
                f"cross_attention_kwargs are for a U-Net, and this pipeline has a {type(self.unet).__name__}"
            )
        if getattr(self.unet.config, "encoder_hid_dim_type", None) == "ip_image_proj":
            raise ValueError(
                "the U-Net has an IP-Adapter, which takes an image: call "
                "diffusers.StableDiffusionPipeline.from_pipe(pipe) instead"
            )

    def _latent_shape(self, height: int | None, width: int | None) -> tuple[int, int, int]:
        """(C, h, w) of an image; raises ValueError for sides that the autoencoder's stride does not divide."""
        stride = stride_of(self.vae)
        trained = self._trained_size
        sides = [trained[i] if side is None else side for i, side in enumerate((height, width))]
        for name, side in zip(("height", "width"), sides, strict=True):
            check_whole(name, side, least=0)
        if any(side < 1 or side % stride for side in sides):
            raise ValueError(f"height and width must be multiples of {stride}, not {sides[0]}×{sides[1]}")
        return self.vae.config.latent_channels, sides[0] // stride, sides[1] // stride

    def _noise(
        self, shape: tuple[int, ...], generator: Generators, given: Tensor | None, device: torch.device
    ) -> Tensor:
        """The latents to start from, (n, C, h, w): each image's from its own generator, or all from the only one."""
        if given is None:
            generator = list(generator) if isinstance(generator, tuple) else generator  # diffusers takes lists
            return randn_tensor(shape, generator=generator, device=device, dtype=self.unet.dtype)
        if given.shape != shape:
            raise ValueError(f"latents must have the shape {shape}, not {tuple(given.shape)}")
        return given.to(device, self.unet.dtype, copy=True)

    # --- sampling ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _restored_sampler(self) -> Iterator[None]:
        """The pipeline's sampler is in its place again afterwards: callbacks find there the one at work."""
        own = self.scheduler
        try:
            yield
        finally:
            self.scheduler = own

    def _sampler(
        self,
        own: SchedulerMixin,
        name: str | None,
        steps: int,
        timesteps: Sequence[int] | None,
        sigmas: Sequence[float] | None,
        device: torch.device,
    ) -> SchedulerMixin:
        """A sampler of its own for each batch, since it remembers where it is."""
        sampler = make_scheduler(name, own.config) if name else copy.deepcopy(own)
        set_timesteps(sampler, steps, device, timesteps, sigmas)
        return sampler

    def _predict(
        self,
        sampler: SchedulerMixin,
        x: Tensor,
        t: Tensor,
        text: Text,
        guidance: Guidance,
        cross_attention_kwargs: dict[str, Any] | None,
    ) -> Tensor:
        """What the denoiser says of x (R, C, h, w), led towards the prompt."""
        seen = sampler.scale_model_input(x, t) if hasattr(sampler, "scale_model_input") else x
        # With guidance both halves, without and with the prompt, run as one batch.
        both = torch.cat([seen, seen]) if guidance.guided else seen  # (2R, C, h, w)
        both = beside(both, text.grid)  # (2R, C + K, h, w)
        how = {"cross_attention_kwargs": cross_attention_kwargs} if cross_attention_kwargs else {}
        said = self.unet(both, t, encoder_hidden_states=text.states, encoder_attention_mask=text.mask, **how).sample
        if guidance.guided:
            unconditional, conditional = said.chunk(2)
            said = guidance(conditional, unconditional)
        if guidance.threshold is not None:
            said = thresholded(self.scheduler.config, said, seen, t, guidance.threshold)
        return said

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

    def _finish(
        self, latents: Tensor, start: FromNoise, output_type: str, most: int
    ) -> tuple[list[Image.Image] | np.ndarray | Tensor, list[bool] | None]:
        """What a call returns of latents (n, C, h, w), decoded under `most` bytes at once."""
        if output_type == "latent":
            return latents, None
        tokenizer = self.image_tokenizer
        images = [tokenizer.decode(part) for part in decoding_batches(self.vae, latents, most)]
        images, unsafe = start.paste(torch.cat(images)), None  # (n, 3, H, W) in [-1, 1]
        if self.safety_checker is not None:
            images, unsafe = blackened(images, self.safety_checker, self.feature_extractor, latents.device)
        return as_output(images, output_type), unsafe


def _step_options(sampler: SchedulerMixin, **options) -> dict:
    """Those of the options that this sampler's step takes."""
    takes = inspect.signature(sampler.step).parameters
    return {name: value for name, value in options.items() if name in takes}
