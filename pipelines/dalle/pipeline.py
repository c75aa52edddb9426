"""Text to image by an autoregressive prior over image tokens: DALL·E (Ramesh et al. 2021, arXiv 2102.12092).

Shapes: n images · c candidates per image · R = n·c rows · T text length · N = s² codes · K codebook size · S image side
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from t2i.checks import check_prompts, check_real, check_whole, shortened
from t2i.diffusion.guidance import guide
from t2i.images import OUTPUT_TYPES, as_output
from t2i.pipelines.generators import Generators, one_each, seeded_from
from t2i.prior.sampling import check_sampling, sample_tokens, shortlist
from t2i.prior.transformer import TextImageTransformer
from t2i.text.bpe import encode, warn_of_unknown_words
from t2i.tokenizers.base import ImageTokenizer

logger = logging.getLogger(__name__)


@dataclass
class DallePipelineOutput(BaseOutput):
    """
    Args:
        images: by `output_type`, a list of PIL images, an array (n, S, S, 3) or a tensor (n, 3, S, S) in [0, 1], or
            for "latent" the codes (n, s, s).
        tokens: the codes (n, s, s) of the images.
        scores: (n,), log p(codes | prompt) − log p(codes | no prompt) in nats: how well the prompt explains the image.
    """

    images: list[Image.Image] | np.ndarray | Tensor
    tokens: Tensor
    scores: Tensor


class DallePipeline(DiffusionPipeline):
    """Args:
    tokenizer: the text tokenizer.
    prior: the transformer over text tokens and image codes.
    image_tokenizer: between pixels and codes, such as a VQ-VAE.

    Raises ValueError for components that were not trained together.
    """

    _callback_tensor_inputs: tuple[str, ...] = ("codes", "logits")
    # Offloading moves a model for its `forward`, and here other methods are called: both models, which are small, stay.
    model_cpu_offload_seq = ""
    _exclude_from_cpu_offload: ClassVar[list[str]] = ["prior", "image_tokenizer"]

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, prior: TextImageTransformer, image_tokenizer: ImageTokenizer
    ):
        super().__init__()
        if prior.config.image_vocab_size != image_tokenizer.codebook_size:
            raise ValueError(
                f"the prior has {prior.config.image_vocab_size} image tokens, the image tokenizer has "
                f"{image_tokenizer.codebook_size}: they were not trained together"
            )
        if prior.config.text_vocab_size != len(tokenizer):
            raise ValueError(
                f"the prior has {prior.config.text_vocab_size} text tokens, the tokenizer has {len(tokenizer)}: "
                "they were not trained together"
            )
        self.register_modules(tokenizer=tokenizer, prior=prior, image_tokenizer=image_tokenizer)
        self.max_cache_bytes = 512 * 2**20  # more images than fit are generated in several batches
        self._interrupt = False  # under diffusers' name, for callbacks

    @property
    def interrupt(self) -> bool:
        """Whether the call is to stop: set `pipe._interrupt = True` in a callback. Codes not yet sampled stay 0."""
        return self._interrupt

    @property
    def image_size(self) -> int:
        """S"""
        return self.prior.config.grid_size * self.image_tokenizer.stride

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float = 2.0,
        temperature: float = 0.85,
        top_k: int | None = 64,
        top_p: float | None = None,
        num_candidates: int = 1,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[DallePipeline, int, int, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("codes",),
    ) -> DallePipelineOutput | tuple:
        """Generate `num_images_per_prompt` images of each prompt, those of the first prompt first.

        Args:
            prompt: one or more prompts.
            negative_prompt: prompts to steer away from; by default the empty prompt.
            height, width: in pixels; only the size the prior was trained on, the default, is valid.
            guidance_scale: scale of classifier-free guidance; 1 is none, higher follows the prompt more closely.
            temperature, top_k, top_p: sampling options of each token, applied after guidance.
            num_candidates: candidates per image, of which the one with the highest score is kept (see the output).
            generator: one per image, which then depends on no other; or one, which seeds one per image.
            callback_on_step_end: called as f(pipe, step, step, tensors) after each code with the rows of the current
                batch; "codes" that it returns replace the sampled ones.
            callback_on_step_end_tensor_inputs: the tensors it gets: "codes" (rows, N), "logits" (rows, K) after
                guidance.

        Raises ValueError, with the remedy, for invalid arguments, and FloatingPointError for probabilities that are
        not finite.
        """
        prompts, negatives = self._check_inputs(prompt, negative_prompt, height, width, output_type)
        check_sampling(temperature, top_k, top_p)
        check_real("guidance_scale", guidance_scale)
        check_whole("num_images_per_prompt", num_images_per_prompt)
        check_whole("num_candidates", num_candidates)
        if negative_prompt and guidance_scale == 1:
            logger.warning("negative_prompt has no effect at a guidance_scale of 1: give another, or leave it out")
        if unknown := set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs):
            raise ValueError(f"no tensor {unknown.pop()!r} for callbacks: there are {self._callback_tensor_inputs}")
        self._interrupt = False
        count = len(prompts) * num_images_per_prompt
        generators = _generators(generator, count, num_candidates)
        repeats = num_images_per_prompt * num_candidates
        text = self._encode(prompts).repeat_interleave(repeats, 0)  # (R, T)
        negative_text = self._encode(negatives).repeat_interleave(repeats, 0)

        guided = guidance_scale != 1
        N = self.prior.image_length
        batches = list(self._row_batches(len(text), guided))
        codes = torch.zeros(len(text), N, dtype=torch.long, device=self.device)
        with self.progress_bar(total=N * len(batches)) as bar:
            for rows in batches:
                sampled = codes[rows]  # a view
                batch_generators = generators[rows] if generators else None
                # With guidance both halves, with and without the prompt, run as one batch.
                halves = torch.cat([text[rows], negative_text[rows]]) if guided else text[rows]
                cache = self.prior.new_cache(len(halves))
                logits = self.prior.prefill(halves, cache)  # (2R, K)
                for i in range(N):
                    if guided:
                        logits = guide(*logits.chunk(2), guidance_scale)  # (R, K)
                    sampled[:, i] = sample_tokens(*shortlist(logits, temperature, top_k, top_p), batch_generators)
                    if callback_on_step_end is not None:
                        tensors = {"codes": sampled, "logits": logits}
                        tensors = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                        changed = callback_on_step_end(self, i, i, tensors) or {}
                        if "codes" in changed:
                            sampled.copy_(changed["codes"])
                    bar.update()
                    if self._interrupt or i == N - 1:
                        break
                    last = sampled[:, i]
                    logits = self.prior.step(torch.cat([last, last]) if guided else last, i, cache)
                if self._interrupt:
                    break

        scores = self._score(text, codes)  # (R,)
        if not scores.isfinite().all():
            raise FloatingPointError(
                f"the prior's probabilities are not finite in {self.prior.dtype}: its weights are damaged, or float16 "
                "is too narrow for them: open the pipeline in float32, or train or copy its weights again"
            )
        best = scores.view(count, num_candidates).argmax(1)
        kept = torch.arange(count, device=best.device) * num_candidates + best
        side = self.prior.config.grid_size
        codes, scores = codes[kept].view(count, side, side), scores[kept]
        images = self._decode(codes, output_type)
        if not return_dict:
            return images, codes, scores
        return DallePipelineOutput(images=images, tokens=codes, scores=scores)

    def _check_inputs(self, prompt, negative_prompt, height, width, output_type) -> tuple[list[str], list[str]]:
        prompts = check_prompts("prompt", prompt)
        negatives = check_prompts("negative_prompt", negative_prompt or "")
        negatives = negatives * len(prompts) if isinstance(negative_prompt or "", str) else negatives
        if len(negatives) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts need as many negative prompts, not {len(negatives)}")
        size = self.image_size
        if (height or size, width or size) != (size, size):
            raise ValueError(f"this pipeline generates images of {size}×{size}, not {height}×{width}: leave both out")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"unknown output_type {output_type!r}: choose one of {', '.join(OUTPUT_TYPES)}")
        return prompts, negatives

    def _encode(self, prompts: list[str]) -> Tensor:
        encoded = encode(self.tokenizer, prompts, self.prior.config.text_length)
        warn_of_unknown_words(self.tokenizer, prompts)
        for prompt, dropped in zip(prompts, encoded.dropped, strict=True):
            if dropped:
                texts = shortened(prompt, 100), shortened(dropped, 100)
                logger.warning("the prompt %s is too long; its end was dropped: %s", *texts)
        return encoded.ids.to(self.device)

    def _row_batches(self, rows: int, guided: bool) -> Iterator[slice]:
        """Slices of the rows, each with a key-value cache of at most `max_cache_bytes`."""
        c = self.prior.config
        positions = c.text_length + self.prior.image_length
        row_bytes = 2 * c.layers * c.width * positions * self.prior.dtype.itemsize * (2 if guided else 1)
        size = max(1, self.max_cache_bytes // row_bytes)
        return (slice(start, min(start + size, rows)) for start in range(0, rows, size))

    def _score(self, text: Tensor, codes: Tensor) -> Tensor:
        """(R, T), (R, N) -> log p(codes | text) − log p(codes | no text), (R,)"""
        parts = []
        for t, c in zip(text.split(64), codes.split(64), strict=True):
            empty = torch.zeros_like(t)  # all padding
            parts.append(self.prior.log_likelihood(t, c) - self.prior.log_likelihood(empty, c))
        return torch.cat(parts)

    def _decode(self, codes: Tensor, output_type: str) -> list[Image.Image] | np.ndarray | Tensor:
        if output_type == "latent":
            return codes
        images = torch.cat([self.image_tokenizer.decode(part) for part in codes.split(64)])  # (n, 3, S, S)
        return as_output(images, output_type)


def _generators(generator: Generators, count: int, candidates: int) -> list[torch.Generator] | None:
    """One per candidate, seeded from its image's; a single generator seeds one per image."""
    if isinstance(generator, torch.Generator):
        generator = seeded_from(generator, count)
    generators = one_each(generator, count)
    if generators is None or candidates == 1:
        return generators
    return [candidate for g in generators for candidate in seeded_from(g, candidates)]
