"""What the pipelines that generate image codes share.

Shapes: B prompts · T text length · R rows of a batch · N = s² codes · S image side
"""

from __future__ import annotations

import logging
from typing import ClassVar

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from t2i.checks import check_prompts, shortened
from t2i.images import OUTPUT_TYPES
from t2i.nn.linear import use_int8
from t2i.notes import are, count
from t2i.pipelines.reranking import SCORED, Scorer, score_images
from t2i.prior.masked import MaskedTransformer
from t2i.prior.transformer import TextImageTransformer
from t2i.text.bpe import MAX_WARNINGS, encode, warn_of_unknown_words
from t2i.tokenizers.base import ImageTokenizer

logger = logging.getLogger(__name__)


class CodePipeline(DiffusionPipeline):
    """A text tokenizer, a prior over image codes, and an image tokenizer; subclasses sample the codes.

    `max_batch_bytes` limits the memory of a batch, approximately: more images than fit are generated in several.
    """

    max_batch_bytes: int

    _callback_tensor_inputs: tuple[str, ...] = ("codes", "logits")
    # Offloading moves a model for its `forward`, and here other methods are called: both models, which are small, stay.
    model_cpu_offload_seq = ""
    _exclude_from_cpu_offload: ClassVar[list[str]] = ["prior", "image_tokenizer"]

    def _set_components(
        self,
        tokenizer: PreTrainedTokenizerFast,
        prior: TextImageTransformer | MaskedTransformer,
        image_tokenizer: ImageTokenizer,
    ) -> None:
        """Raise ValueError for components that were not trained together."""
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
        self._interrupt = False  # under diffusers' name, for callbacks

    @property
    def interrupt(self) -> bool:
        """Whether the call is to stop: set `pipe._interrupt = True` in a callback. Codes not yet sampled become 0."""
        return self._interrupt

    def use_int8(self, use: bool = True) -> None:
        """Let the prior compute with weights of 8 bits on a CPU, in much less time for few images, or no longer.

        Images of a seed differ, as with any change of precision. Raises ValueError unless the prior is on a CPU.
        """
        use_int8(self.prior, use)

    @property
    def uses_int8(self) -> bool:
        """Whether the prior computes with weights of 8 bits."""
        return any(getattr(module, "int8", None) is not None for module in self.prior.modules())

    @property
    def image_size(self) -> int:
        """S"""
        return self.prior.config.grid_size * self.image_tokenizer.stride

    def _encode(self, prompts: list[str]) -> Tensor:
        """Token ids (B, T); logs a warning for unknown words and for prompts that were truncated."""
        encoded = encode(self.tokenizer, prompts, self.prior.config.text_length)
        warn_of_unknown_words(self.tokenizer, prompts)
        too_long = [(prompt, end) for prompt, end in zip(prompts, encoded.dropped, strict=True) if end]
        for prompt, dropped in too_long[:MAX_WARNINGS]:
            texts = shortened(prompt, 100), shortened(dropped, 100)
            logger.warning("the prompt %s is too long; its end was dropped: %s", *texts)
        if more := too_long[MAX_WARNINGS:]:
            logger.warning("%s %s too long; their ends were dropped", count(more, "more prompt"), are(more))
        return encoded.ids.to(self.device)

    def _row_batches(self, rows: int, guided: bool) -> list[slice]:
        """Slices of the rows, each with at most `max_batch_bytes`."""
        size = max(1, self.max_batch_bytes // (self._row_bytes() * (2 if guided else 1)))
        return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]

    def _row_bytes(self) -> int:
        """The memory that most limits how many rows fit, of one row without guidance."""
        raise NotImplementedError

    def _decode_codes(self, codes: Tensor, pixels: Tensor | None = None, repaint: Tensor | None = None) -> Tensor:
        """Codes (R, N) or (R, s, s) -> images (R, 3, S, S) in [-1, 1].

        With pixels (R, 3, S, S) and which to repaint (bool, R, 1, S, S), the others are those.
        """
        side = self.prior.config.grid_size
        images = torch.cat([self.image_tokenizer.decode(part.view(-1, side, side)) for part in codes.split(SCORED)])
        return images if pixels is None or repaint is None else torch.where(repaint, images.float(), pixels)

    def _image_scores(
        self,
        scorer: Scorer,
        prompts: list[str],
        codes: Tensor,
        pixels: Tensor | None = None,
        repaint: Tensor | None = None,
    ) -> Tensor:
        """R prompts, codes (R, N) -> the scores of the images that `_decode_codes` gives, (R,)"""
        scores = []
        for start in range(0, len(codes), SCORED):
            rows = slice(start, start + SCORED)
            given = (None, None) if pixels is None or repaint is None else (pixels[rows], repaint[rows])
            scores.append(score_images(scorer, prompts[rows], self._decode_codes(codes[rows], *given)))
        return torch.cat(scores)


def check_inputs(prompt, negative_prompt, height, width, size: int, output_type) -> tuple[list[str], list[str]]:
    """The prompts, and as many negative prompts. Raises ValueError for invalid ones, and for another size or type."""
    prompts = check_prompts("prompt", prompt)
    negatives = check_prompts("negative_prompt", negative_prompt or "")
    negatives = negatives * len(prompts) if isinstance(negative_prompt or "", str) else negatives
    if len(negatives) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts need as many negative prompts, not {len(negatives)}")
    if (height or size, width or size) != (size, size):
        raise ValueError(f"this pipeline generates images of {size}×{size}, not {height}×{width}: leave both out")
    check_output_type(output_type)
    return prompts, negatives


def check_output_type(output_type: str) -> None:
    """Raise ValueError for an unknown one."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"unknown output_type {output_type!r}: choose one of {', '.join(OUTPUT_TYPES)}")
