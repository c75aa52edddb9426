"""Prompt → picture by an autoregressive prior over image codes: DALL·E (Ramesh et al. 2021, arXiv 2102.12092).

Shapes: n images · c candidates an image · R = n·c rows · T text length · N = s² codes · K codebook size · S image side
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
from t2i.pipelines.generators import one_each, seeded_from
from t2i.prior.sampling import check_sampling, draw, shortlist
from t2i.prior.transformer import TextImageTransformer
from t2i.text.bpe import encode, warn_of_unknown_words
from t2i.tokenizers.vqvae import VQVAE

logger = logging.getLogger(__name__)


@dataclass
class DallePipelineOutput(BaseOutput):
    """
    Args:
        images: by `output_type`, a list of PIL images, an array (n, S, S, 3) or a tensor (n, 3, S, S) in [0, 1], or
            for "latent" the codes (n, s, s).
        tokens: the codes (n, s, s) of the images.
        scores: (n,), log p(codes | prompt) − log p(codes | no prompt) in nats: how far the prompt explains the picture.
    """

    images: list[Image.Image] | np.ndarray | Tensor
    tokens: Tensor
    scores: Tensor


class DallePipeline(DiffusionPipeline):
    """Args:
    tokenizer: of the text.
    prior: the transformer over text tokens and image codes.
    image_tokenizer: between codes and pixels.
    """

    _callback_tensor_inputs: tuple[str, ...] = ("codes", "logits")
    # Offloading moves a part for its `forward`, and here other methods are called: both parts, which are small, stay.
    model_cpu_offload_seq = ""
    _exclude_from_cpu_offload: ClassVar[list[str]] = ["prior", "image_tokenizer"]

    def __init__(self, tokenizer: PreTrainedTokenizerFast, prior: TextImageTransformer, image_tokenizer: VQVAE):
        super().__init__()
        if prior.config.image_vocab_size != image_tokenizer.config.codebook_size:
            raise ValueError(
                f"the prior writes {prior.config.image_vocab_size} codes, the image tokenizer reads "
                f"{image_tokenizer.config.codebook_size}: they were not trained together"
            )
        if prior.config.text_vocab_size != len(tokenizer):
            raise ValueError(
                f"the prior reads {prior.config.text_vocab_size} text tokens, the tokenizer writes {len(tokenizer)}: "
                "they were not trained together"
            )
        self.register_modules(tokenizer=tokenizer, prior=prior, image_tokenizer=image_tokenizer)
        self.max_cache_bytes = 512 * 2**20  # more images than fit are made in several batches
        self._interrupt = False

    @property
    def interrupt(self) -> bool:
        """Set `pipe._interrupt = True` in a callback to stop: codes not yet drawn stay 0."""
        return self._interrupt

    @property
    def image_size(self) -> int:
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
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[DallePipeline, int, int, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("codes",),
    ) -> DallePipelineOutput | tuple:
        """Draw `num_images_per_prompt` pictures of each prompt, those of the first prompt first.

        Args:
            prompt: one or more prompts.
            negative_prompt: what guidance leads away from; nothing in particular by default.
            height, width: in pixels; a prior has learned one size, and anything else raises.
            guidance_scale: 1 follows the model, more follows the prompt more closely than the model would.
            temperature, top_k, top_p: of the draw of each code, after guidance.
            num_candidates: draw so many for each image and keep the one with the highest score (see the output).
            generator: one for each image, which then depends on nothing else; or one, from which theirs are seeded.
            callback_on_step_end: called as f(pipe, step, step, tensors) after each code, with the rows of the batch
                that is being drawn; codes that it returns replace those drawn.
            callback_on_step_end_tensor_inputs: which it gets: "codes" (rows, N), "logits" after guidance (rows, K).

        Raises ValueError, with the remedy, for arguments that ask for what cannot be.
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
        generators = _spread(_own_each(generator, count), num_candidates)
        repeats = num_images_per_prompt * num_candidates
        text = self._encode(prompts).repeat_interleave(repeats, 0)  # (R, T)
        against = self._encode(negatives).repeat_interleave(repeats, 0)

        guided = guidance_scale != 1
        N = self.prior.image_length
        batches = list(self._row_batches(len(text), guided))
        codes = torch.zeros(len(text), N, dtype=torch.long, device=self.device)
        with self.progress_bar(total=N * len(batches)) as bar:
            for rows in batches:
                chosen = codes[rows]  # a view: what is drawn into it is in `codes`
                drawers = generators[rows] if generators else None
                # With guidance both halves, with and without the prompt, run as one batch.
                halves = torch.cat([text[rows], against[rows]]) if guided else text[rows]
                cache = self.prior.new_cache(len(halves))
                logits = self.prior.prefill(halves, cache)  # (2R, K)
                for i in range(N):
                    if guided:
                        logits = guide(*logits.chunk(2), guidance_scale)  # (R, K)
                    chosen[:, i] = draw(*shortlist(logits, temperature, top_k, top_p), drawers)
                    if callback_on_step_end is not None:
                        tensors = {"codes": chosen, "logits": logits}
                        asked = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                        answer = callback_on_step_end(self, i, i, asked) or {}
                        if "codes" in answer:
                            chosen.copy_(answer["codes"])
                    bar.update()
                    if self._interrupt or i == N - 1:
                        break
                    drawn = chosen[:, i]
                    logits = self.prior.step(torch.cat([drawn, drawn]) if guided else drawn, i, cache)
                if self._interrupt:
                    break

        scores = self._score(text, codes)  # (R,)
        if not scores.isfinite().all():
            raise FloatingPointError(
                f"the prior's probabilities are not finite in {self.prior.dtype}: its weights are damaged, or float16 "
                "is too narrow for them: open the pipeline in float32, or train or copy its weights again"
            )
        best = scores.view(count, num_candidates).argmax(1)
        keep = torch.arange(count, device=best.device) * num_candidates + best
        side = self.prior.config.grid_size
        codes, scores = codes[keep].view(count, side, side), scores[keep]
        images = self._finish(codes, output_type)
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
            raise ValueError(f"this system draws {size}×{size} pictures, not {height}×{width}: leave both out")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"unknown output_type {output_type!r}: choose one of {', '.join(OUTPUT_TYPES)}")
        return prompts, negatives

    def _encode(self, prompts: list[str]) -> Tensor:
        encoded = encode(self.tokenizer, prompts, self.prior.config.text_length)
        warn_of_unknown_words(self.tokenizer, prompts)
        for prompt, dropped in zip(prompts, encoded.dropped, strict=True):
            if dropped:
                said = shortened(prompt, 100), shortened(dropped, 100)
                logger.warning("the prompt %s is too long; its end was dropped: %s", *said)
        return encoded.ids.to(self.device)

    def _row_batches(self, rows: int, guided: bool) -> Iterator[slice]:
        """The rows in as many slices as keep each one's key-value cache under `max_cache_bytes`."""
        c = self.prior.config
        positions = c.text_length + self.prior.image_length
        a_row = 2 * c.layers * c.width * positions * self.prior.dtype.itemsize * (2 if guided else 1)
        size = max(1, self.max_cache_bytes // a_row)
        return (slice(start, min(start + size, rows)) for start in range(0, rows, size))

    def _score(self, text: Tensor, codes: Tensor) -> Tensor:
        """(R, T), (R, N) -> log p(codes | text) − log p(codes | no text), (R,)"""
        parts = []
        for t, c in zip(text.split(64), codes.split(64), strict=True):
            nothing = torch.zeros_like(t)  # all padding
            parts.append(self.prior.log_likelihood(t, c) - self.prior.log_likelihood(nothing, c))
        return torch.cat(parts)

    def _finish(self, codes: Tensor, output_type: str) -> list[Image.Image] | np.ndarray | Tensor:
        if output_type == "latent":
            return codes
        images = torch.cat([self.image_tokenizer.decode(part) for part in codes.split(64)])  # (n, 3, S, S)
        return as_output(images, output_type)


def _own_each(
    generator: torch.Generator | Sequence[torch.Generator] | None, count: int
) -> list[torch.Generator] | None:
    """A generator for each image: those given, or new ones seeded from the one given."""
    if isinstance(generator, torch.Generator):
        return seeded_from(generator, count)
    return one_each(generator, count)


def _spread(generators: list[torch.Generator] | None, candidates: int) -> list[torch.Generator] | None:
    """A generator for each candidate, seeded from its image's."""
    if generators is None or candidates == 1:
        return generators
    return [g for own in generators for g in seeded_from(own, candidates)]
