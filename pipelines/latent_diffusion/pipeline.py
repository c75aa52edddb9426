"""Text to image by diffusion in the latent space of an autoencoder (Rombach et al. 2022, arXiv 2112.10752).

The components are those of diffusers' StableDiffusionPipeline, under its names: saved pipelines open there, and
`from_pipe` makes this class from Stable Diffusion 1.x and 2.x.

Shapes: n images · c candidates per image · R rows of a batch · C, h, w latent · L text positions
D width of the text states · H, W image · K further input channels of a conditioned denoiser (conditioned.py)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from diffusers import SchedulerMixin, UNet2DConditionModel
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from t2i.checks import check_options, check_prompts, check_seeds, check_whole
from t2i.diffusion.attention import constants_kept
from t2i.diffusion.conditioning import Conditioning, concat_grid
from t2i.diffusion.guidance import Guidance, Threshold, dynamic_threshold, threshold_prediction
from t2i.diffusion.interpolation import slerp
from t2i.diffusion.schedulers import count_steps, new_sampler, step_options, warn_of_eta
from t2i.images import OUTPUT_TYPES, as_output
from t2i.pipelines.generators import Generators, copied, for_steps, one_each, own_each
from t2i.pipelines.latent_diffusion.batches import batch_bytes, decoding_batches, denoising_batches
from t2i.pipelines.latent_diffusion.components import LatentDiffusionComponents
from t2i.pipelines.latent_diffusion.interpolation import as_pair, lerp_text
from t2i.pipelines.latent_diffusion.safety import blacken_flagged
from t2i.pipelines.latent_diffusion.start import FromNoise
from t2i.pipelines.reranking import (
    Reranker,
    Scorer,
    candidate_generators,
    check_reranker,
    keep_best,
    open_reranker,
    score_images,
)
from t2i.tokenizers.kl import stride_of

logger = logging.getLogger(__name__)


@dataclass
class LatentDiffusionPipelineOutput(BaseOutput):
    """
    Args:
        images: by `output_type`, a list of PIL images, an array (n, H, W, 3) or a tensor (n, 3, H, W) in [0, 1], or
            for "latent" the scaled latents (n, C, h, w).
        nsfw_content_detected: of each image, whether the safety checker flagged (and blackened) it; None without one.
        scores: (n,), of the images, by the reranker; −∞ for images that an interrupted call did not reach; None without
            a reranker.
    """

    images: list[Image.Image] | np.ndarray | Tensor
    nsfw_content_detected: list[bool] | None = None
    scores: Tensor | None = None


class LatentDiffusionPipeline(LatentDiffusionComponents):
    """Args:
    vae: the autoencoder; its config holds the latents' scaling_factor.
    text_encoder, tokenizer: CLIP or T5.
    unet: the denoiser, a U-Net or a DiT.
    scheduler: the sampler; its config holds the denoiser's prediction type.
    safety_checker, feature_extractor: Stable Diffusion's; flagged images are blackened.
    image_encoder: that of Stable Diffusion's IP-Adapter. It is kept and saved, but only diffusers' pipelines use it.

    Any of the first four may be None: `encode_prompt` needs only a text encoder and its tokenizer, and a call with
    `prompt_embeds` only the others. A call that lacks one raises ValueError.

    `max_batch_bytes` limits the memory of a batch's activations, approximately: more images than fit are generated in
    several batches. By default 1 GiB, on CUDA half of the free memory.

    A pipeline serves one thread at a time; others made by `from_pipe` share its weights. For what this class does not
    support, such as IP-Adapter or textual inversion, `diffusers.StableDiffusionPipeline.from_pipe(pipe)` gives
    diffusers' pipeline, and `LatentDiffusionPipeline.from_pipe` converts back.
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
        num_candidates: int = 1,
        reranker: Reranker | None = None,
        *,
        start: FromNoise | None = None,
        grid: Tensor | None = None,
    ) -> LatentDiffusionPipelineOutput | tuple:
        """Generate `num_images_per_prompt` images of each prompt, those of the first prompt first.

        Args:
            prompt: one or more prompts; or None, with `prompt_embeds`.
            height, width: in pixels; by default the size the denoiser was trained on.
            num_inference_steps: number of sampling steps.
            timesteps, sigmas: one for each step, instead of `num_inference_steps`, for samplers that take them.
            guidance_scale: scale of classifier-free guidance. Up to 1 there is none, at half the cost; higher follows
                the prompt more closely. 2 is best for toybox/ldm; 7.5 is usual for Stable Diffusion.
            negative_prompt: prompts to steer away from; by default the empty prompt.
            eta: noise of DDIM sampling: 0 adds none, 1 as much as DDPM.
            generator: one per image, which then depends on no other; or one for the initial noise of all images, which
                then seeds a generator per image for the noise of later steps, where the sampler adds any.
            latents: the initial noise (n, C, h, w), instead of the generator's.
            prompt_embeds, negative_prompt_embeds: text states (prompts, L, D) instead of the prompts, with
                prompt_attention_mask, negative_prompt_attention_mask (prompts, L), as `encode_prompt` returns them.
            cross_attention_kwargs: for the U-Net's attention processors; "scale" is the weight of a LoRA.
            guidance_rescale: from 0 to 1, against the overexposure of strong guidance.
            clip_skip: take the states of the layer this many before CLIP's last.
            callback_on_step_end: called as f(pipe, step, timestep, tensors) after each step with the rows of the
                current batch; "latents" and "prompt_embeds" that it returns replace them. Diffusers' callbacks work.
            callback_on_step_end_tensor_inputs: the tensors it gets: "latents" (R, C, h, w), "prompt_embeds" (R, L, D),
                with guidance (2R, L, D), the negative ones first, and "negative_prompt_embeds" (R, L, D).
            scheduler: another sampler for this call, by its name in `t2i.diffusion.schedulers`.
            dynamic_threshold: bound on |x_0| of the latents, also against the overexposure of strong guidance.
            num_candidates: candidates per image, of which the one with the highest score is kept. Each has a generator
                that is seeded from its image's. Memory does not grow with their number.
            reranker: what scores the candidates: the name of a CLIP, such as "runs/clip-toybox", a folder, a Hub id or
                "open_clip:ARCH/PRETRAINED"; or a function of a list of prompts and a list of PIL images that returns
                one score for each. Several candidates need one. With one, a tuple (`return_dict=False`) ends with the
                scores.
            start: what sampling starts from, by default noise; see start.py.
            grid: (prompts, K, h, w), the condition of denoisers with further input channels; see conditioned.py.

        Raises ValueError, with the remedy, for invalid arguments, and FloatingPointError for latents that are not
        finite.
        """
        start, own_scheduler = start or FromNoise(), self.scheduler
        tensor_names = getattr(callback_on_step_end, "tensor_inputs", callback_on_step_end_tensor_inputs)
        self._check_components("unet", "vae", "scheduler")
        by_count = timesteps is None and sigmas is None
        check_whole("num_inference_steps", num_inference_steps if by_count else 1)
        whole = {"num_images_per_prompt": num_images_per_prompt, "num_candidates": num_candidates}
        check_options({**whole, "eta": eta, "dynamic_threshold": dynamic_threshold})
        self._check_inputs(output_type, tensor_names, cross_attention_kwargs)
        device = self._execution_device  # a walk over all modules: once
        scorer, prompts = self._reranker(reranker, num_candidates, prompt, latents, device)
        make_sampler = partial(new_sampler, own_scheduler, scheduler, num_inference_steps, device, timesteps, sigmas)
        first_sampler = make_sampler()
        if not by_count:
            num_inference_steps = count_steps(first_sampler)
        guidance = Guidance(guidance_scale, guidance_rescale, _threshold(dynamic_threshold))
        lora_scale = (cross_attention_kwargs or {}).get("scale")
        text, negative_text = self._text(prompt, prompt_embeds, prompt_attention_mask, lora_scale, clip_skip), None
        text = replace(text, grid=grid)
        if guidance.guided:
            negative_states = negative_prompt_embeds, negative_prompt_attention_mask
            negative_text = self._negative_text(negative_prompt, text, *negative_states, lora_scale)
        count = len(text.states) * num_images_per_prompt
        shape = (count, *self._latent_shape(height, width))
        best, generators = self._rows(shape, generator, latents, num_candidates, device)
        scores = None if scorer is None else torch.full((count,), -torch.inf)
        self._interrupt = False

        _warn_of_ineffective(guidance, negative_prompt or negative_prompt_embeds, first_sampler, eta)
        steps = start.steps(num_inference_steps)
        max_bytes = batch_bytes(device, self.max_batch_bytes)
        all_rows = torch.empty(count * num_candidates, *shape[1:], dtype=self.unet.dtype, device="meta")
        batches = list(denoising_batches(self.unet, all_rows, guidance.guided, max_bytes))
        with constants_kept(self.unet), self._restored_sampler(), self.progress_bar(total=steps * len(batches)) as bar:
            for rows in batches:
                sampler = self.scheduler = make_sampler() if rows.start else first_sampler
                image_of_row = torch.arange(rows.start, rows.stop) // num_candidates  # (R,)
                own = generators and list(islice(generators, len(image_of_row)))
                options = step_options(sampler, eta, own)
                times = start.times(sampler, num_inference_steps)
                row_shape = (len(image_of_row), *shape[1:])
                noise = best[rows] if num_candidates == 1 else self._noise(row_shape, own, None, device)
                x = start.begin(sampler, times, noise, image_of_row)  # (R, C, h, w)
                prompt_of_row = image_of_row // num_images_per_prompt
                texts = text[prompt_of_row]
                if negative_text is not None:
                    texts = Conditioning.stack(negative_text[prompt_of_row], texts)
                step_guidance, self._guidance_scale, self._num_timesteps = guidance, guidance_scale, len(times)
                for i, t in enumerate(times):
                    predicted = self._predict(
                        sampler, own_scheduler.config, x, t, texts, step_guidance, cross_attention_kwargs
                    )
                    x = sampler.step(predicted, t, x, **options, return_dict=False)[0]  # (R, C, h, w)
                    x = start.blend(sampler, x, times[i + 1 : i + 2], noise, image_of_row)
                    if callback_on_step_end is not None:
                        x, texts = self._call_back(callback_on_step_end, tensor_names, i, t, x, texts)
                        step_guidance = replace(guidance, scale=self._guidance_scale)
                    if (i + 1) % sampler.order == 0 or i + 1 == len(times):
                        bar.update()
                    if self._interrupt:
                        break
                check_latents(x, num_inference_steps)
                if scorer is None:
                    best[rows] = x
                else:
                    row_prompts = [prompts[p] for p in prompt_of_row.tolist()]
                    row_scores = self._score(scorer, row_prompts, x, start, image_of_row, max_bytes)
                    keep_best(image_of_row, x, row_scores, best, scores)
                if self._interrupt:
                    break

        images, flagged = self._decode(best, start, output_type, max_bytes)
        self.maybe_free_model_hooks()
        if not return_dict:
            return (images, flagged) if scores is None else (images, flagged, scores)
        return LatentDiffusionPipelineOutput(images=images, nsfw_content_detected=flagged, scores=scores)

    @torch.no_grad()
    def interpolate(
        self, prompts: str | Sequence[str], seeds: int | Sequence[int] = 0, num: int = 8, **options
    ) -> list | Tensor:
        """Generate `num` images from the first prompt and seed to the second; the ends are what a call generates.

        Text states are interpolated linearly, noise spherically. Noise that the sampler adds in later steps is the
        first seed's for the first half of the images, and the second's for the rest.

        Args:
            prompts: one, or two to interpolate between.
            seeds: one, or two to interpolate between.
            num: number of images, both ends included.
            options: the other options of a call.

        Returns:
            The images, by `output_type`. Raises ValueError for fewer than two images, for other numbers of prompts and
            seeds, and as a call does.
        """
        first, last = as_pair("prompts", prompts, str)
        start, end = as_pair("seeds", seeds, int)
        check_whole("num", num, least=2)
        for seed in (start, end):
            check_seeds("seeds", seed)
        chosen = ("prompt", "prompt_embeds", "generator", "latents", "num_images_per_prompt", "return_dict")
        if given := [name for name in chosen if name in options]:
            raise ValueError(f"interpolate sets {given[0]} itself: give prompts, seeds and num")
        weights = torch.linspace(0, 1, num, dtype=torch.float64)
        shape = (1, *self._latent_shape(options.get("height"), options.get("width")))
        generators = [torch.Generator().manual_seed(s) for s in (start, end)]
        noise = [randn_tensor(shape, generator=g, dtype=self.unet.dtype) for g in generators]
        # In a call too, the sampler continues with the generator after the initial noise.
        generators = [copied(generators[2 * i >= num]) for i in range(num)]
        text = lerp_text(self._text([first, last]), weights)
        return self(
            prompt_embeds=text.states,
            prompt_attention_mask=text.mask,
            latents=torch.cat([slerp(*noise, w) for w in weights.tolist()]),
            generator=generators,
            **options,
        ).images

    # --- input ------------------------------------------------------------------------------------------------------

    def _check_inputs(self, output_type: str, tensor_names: Sequence[str], cross_attention_kwargs: dict | None) -> None:
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"unknown output_type {output_type!r}: choose one of {', '.join(OUTPUT_TYPES)}")
        if unknown := set(tensor_names) - set(self._callback_tensor_inputs):
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

    def _reranker(
        self,
        reranker: Reranker | None,
        num_candidates: int,
        prompt: str | Sequence[str] | None,
        latents: Tensor | None,
        device: torch.device,
    ) -> tuple[Scorer | None, list[str]]:
        """The function that scores candidates, and the prompts that it gets; None and no prompts without a reranker."""
        if num_candidates > 1 and latents is not None:
            raise ValueError("latents are the noise of a single candidate: leave them or num_candidates out")
        check_reranker(reranker, num_candidates, "latent diffusion")
        if reranker is None:
            return None, []
        if prompt is None:
            raise ValueError("a reranker reads the prompt: give it, not prompt_embeds")
        return open_reranker(reranker, device), check_prompts("prompt", prompt)

    def _latent_shape(self, height: int | None, width: int | None) -> tuple[int, int, int]:
        """(C, h, w) of an image. Raises ValueError for sides that the autoencoder's stride does not divide."""
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
        """The initial noise (n, C, h, w): of each image from its own generator, or of all from the only one."""
        if given is None:
            generator = list(generator) if isinstance(generator, tuple) else generator  # diffusers takes lists
            return randn_tensor(shape, generator=generator, device=device, dtype=self.unet.dtype)
        if given.shape != shape:
            raise ValueError(f"latents must have the shape {shape}, not {tuple(given.shape)}")
        return given.to(device, self.unet.dtype, copy=True)

    def _rows(
        self,
        shape: tuple[int, ...],
        generator: Generators,
        latents: Tensor | None,
        num_candidates: int,
        device: torch.device,
    ) -> tuple[Tensor, Iterator[torch.Generator] | None]:
        """Where the images' latents go, `shape` (n, C, h, w), and the generators of all rows.

        Of single candidates, the former holds their initial noise; of several, each row has its own, made when needed.
        """
        if num_candidates > 1:
            each = own_each(generator, shape[0])
            best = torch.zeros(shape, device=device, dtype=self.unet.dtype)
            return best, each and candidate_generators(each, num_candidates)
        each = one_each(generator, shape[0])
        noise = self._noise(shape, generator, latents, device)
        each = for_steps(generator, each)
        return noise, each and iter(each)

    # --- sampling ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _restored_sampler(self) -> Iterator[None]:
        """Restore the pipeline's own sampler: during a call `self.scheduler` is the batch's, for callbacks."""
        scheduler = self.scheduler
        try:
            yield
        finally:
            self.scheduler = scheduler

    def _predict(
        self,
        sampler: SchedulerMixin,
        config: Mapping[str, Any],
        x: Tensor,
        t: Tensor,
        text: Conditioning,
        guidance: Guidance,
        cross_attention_kwargs: dict[str, Any] | None,
    ) -> Tensor:
        """The denoiser's prediction at x (R, C, h, w), guided: the same shape.

        Args:
            config: that of the pipeline's own scheduler, whose schedule the denoiser was trained with: a sampler may
                have a modified one.
        """
        scaled = sampler.scale_model_input(x, t) if hasattr(sampler, "scale_model_input") else x
        # With guidance both halves, without and with the prompt, run as one batch.
        both = torch.cat([scaled, scaled]) if guidance.guided else scaled  # (2R, C, h, w)
        both = concat_grid(both, text.grid)  # (2R, C + K, h, w)
        options = {"cross_attention_kwargs": cross_attention_kwargs} if cross_attention_kwargs else {}
        predicted = self.unet(
            both, t, encoder_hidden_states=text.states, encoder_attention_mask=text.mask, **options
        ).sample
        if guidance.guided:
            unconditional, conditional = predicted.chunk(2)
            predicted = guidance(conditional, unconditional)
        if guidance.threshold is not None:
            predicted = threshold_prediction(config, predicted, scaled, t, guidance.threshold)
        return predicted

    def _call_back(
        self, callback: Callable, names: Sequence[str], step: int, t: Tensor, x: Tensor, text: Conditioning
    ) -> tuple[Tensor, Conditioning]:
        """Call the callback; returns the latents (R, C, h, w) and the text for the next step."""
        negative_states = text.states[: len(x)] if self.do_classifier_free_guidance else None
        tensors = {"latents": x, "prompt_embeds": text.states, "negative_prompt_embeds": negative_states}
        changed = callback(self, step, t, {name: tensors[name] for name in names}) or {}
        guided = self.do_classifier_free_guidance  # the callback may have ended it
        states, rows = changed.get("prompt_embeds", text.states), len(x) * (2 if guided else 1)
        if states is text.states and len(states) == rows:
            return changed.get("latents", x), text  # the same tensor: its keys and values are cached
        if len(states) != rows or rows > len(text.states):
            raise ValueError(
                f"a callback left {len(states)} rows of prompt_embeds for {len(x)} latents and a guidance_scale of "
                f"{self._guidance_scale}: there must be {rows}, and guidance can end but not begin on the way"
            )
        text = text[torch.arange(len(text.states))[-rows:]]
        return changed.get("latents", x), replace(text, states=states.to(text.states))

    # --- output -----------------------------------------------------------------------------------------------------

    def _score(
        self,
        scorer: Scorer,
        prompts: list[str],
        latents: Tensor,
        start: FromNoise,
        images: Tensor,
        max_bytes: int,
    ) -> Tensor:
        """R prompts, latents (R, C, h, w) of the images (R,) -> the scores of the decoded candidates, (R,)"""
        scores, first = [], 0
        for part in decoding_batches(self.vae, latents, max_bytes):
            rows = slice(first, first := first + len(part))
            decoded = start.paste(self.image_tokenizer.decode(part), images[rows])
            scores.append(score_images(scorer, prompts[rows], decoded))
        return torch.cat(scores)

    def _decode(
        self, latents: Tensor, start: FromNoise, output_type: str, max_bytes: int
    ) -> tuple[list[Image.Image] | np.ndarray | Tensor, list[bool] | None]:
        """Latents (n, C, h, w) -> the images by `output_type`, and which the safety checker flagged."""
        if output_type == "latent":
            return latents, None
        tokenizer = self.image_tokenizer
        images = [tokenizer.decode(part) for part in decoding_batches(self.vae, latents, max_bytes)]
        images, flagged = start.paste(torch.cat(images)), None  # (n, 3, H, W) in [-1, 1]
        if self.safety_checker is not None:
            images, flagged = blacken_flagged(images, self.safety_checker, self.feature_extractor, latents.device)
        return as_output(images, output_type), flagged


def _threshold(largest: float | None) -> Threshold | None:
    """Dynamic thresholding with this bound on |x_0|; None without one."""
    return None if largest is None else partial(dynamic_threshold, largest=largest)


def check_latents(latents: Tensor, steps: int) -> None:
    """Raise FloatingPointError for latents that are not finite."""
    if not latents.isfinite().all():
        raise FloatingPointError(
            f"the latents are not finite after {steps} steps in {latents.dtype}: lower the guidance_scale, or open the "
            "pipeline in float32; or else the denoiser's weights are damaged"
        )


def _warn_of_ineffective(guidance: Guidance, negative, sampler: SchedulerMixin, eta: float) -> None:
    """Log a warning for each argument that has no effect in a call."""
    if not guidance.guided:
        needs_guidance = {"negative_prompt": negative is not None, "guidance_rescale": guidance.rescale > 0}
        for name in (name for name, given in needs_guidance.items() if given):
            logger.warning(
                "%s has no effect at a guidance_scale of %g: give one above 1, or leave it out", name, guidance.scale
            )
    warn_of_eta(sampler, eta)
