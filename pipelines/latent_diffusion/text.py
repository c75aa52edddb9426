"""What a latent-diffusion pipeline is told in words, or in the states of a text.

Shapes: L text positions · D width of the text states
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from diffusers import SchedulerMixin
from diffusers.utils import scale_lora_layers, unscale_lora_layers
from torch import Tensor

from t2i.checks import check_prompts
from t2i.diffusion.conditioning import Text, encoder_of, masks_padding
from t2i.diffusion.guidance import Guidance
from t2i.text.bpe import warn_of_unknown_words

logger = logging.getLogger(__name__)
Prompts = str | Sequence[str]


class TextInputs:
    """What a pipeline with `tokenizer`, `text_encoder` and `unet` has of it."""

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
        """The states of prompts, to be changed or kept, and handed to a call in place of the prompts.

        Args:
            device: of what is returned, the pipeline's own by default.
            num_images_per_prompt: the states of each prompt so many times, one after the other.
            prompt_embeds, negative_prompt_embeds: states in place of the prompts, as of a call.
            lora_scale: of a LoRA of the text encoder.
            clip_skip: as of a call; the negative prompts have the last layer's states, as in diffusers.

        Returns:
            `prompt_embeds` and `negative_prompt_embeds`, each (prompts, L, D), the latter None without guidance: what
            diffusers' StableDiffusionPipeline returns. For encoders whose padding says nothing (T5) follow, as in
            HunyuanDiTPipeline, `prompt_attention_mask` and `negative_prompt_attention_mask` (prompts, L), true where
            there is text. Raises ValueError as a call does.
        """
        text, against = self._text(prompt, prompt_embeds, None, lora_scale, clip_skip), None
        if do_classifier_free_guidance:
            against = self._text_against(negative_prompt, text, negative_prompt_embeds, None, lora_scale)
        found = [text.states, against and against.states]
        if text.mask is not None:
            found += [text.mask, against and against.mask]
        rows = [None if part is None else part.repeat_interleave(num_images_per_prompt, 0) for part in found]
        return tuple(part if part is None or device is None else part.to(device) for part in rows)

    @staticmethod
    def _count_prompts(prompt: Prompts | None, states: Tensor | None = None) -> int:
        """How many prompts, or rows of states, there are. Raises ValueError unless there is one of the two."""
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
    ) -> Text:
        """The prompts' states, or those given. Raises ValueError unless there is one of the two."""
        self._count_prompts(prompt, states)
        if states is not None:
            return self._given_text("prompt", states, mask)
        if mask is not None:
            raise ValueError("prompt_attention_mask belongs to prompt_embeds: a prompt has its own")
        prompts = check_prompts("prompt", prompt)
        self._check_encoder()
        warn_of_unknown_words(self.tokenizer, prompts)
        return self._encode(prompts, lora_scale, clip_skip)

    def _text_against(
        self,
        negative: Prompts | None,
        text: Text,
        states: Tensor | None = None,
        mask: Tensor | None = None,
        lora_scale: float | None = None,
    ) -> Text:
        """What guidance leads away from, with as many rows as `text`, and its grid: the empty prompt by default."""
        n = len(text.states)
        if states is not None:
            if negative is not None:
                raise ValueError("give either negative_prompt or negative_prompt_embeds")
            if states.shape != text.states.shape:
                raise ValueError(
                    f"prompt_embeds and negative_prompt_embeds must have one shape, not {tuple(text.states.shape)} and "
                    f"{tuple(states.shape)}"
                )
            return replace(self._given_text("negative_prompt", states, mask), grid=text.grid)
        if mask is not None:
            raise ValueError("negative_prompt_attention_mask belongs to negative_prompt_embeds")
        negatives = check_prompts("negative_prompt", negative or "")
        self._check_encoder()
        warn_of_unknown_words(self.tokenizer, negatives)
        negatives = negatives * n if isinstance(negative or "", str) else negatives
        if len(negatives) != n:
            raise ValueError(f"{n} prompts need as many negative prompts, not {len(negatives)}")
        return replace(self._encode(negatives, lora_scale), grid=text.grid)

    def _check_encoder(self) -> None:
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError(
                "this pipeline has no text encoder with a tokenizer: give prompt_embeds, and with guidance "
                "negative_prompt_embeds"
            )

    def _given_text(self, name: str, states: Tensor, mask: Tensor | None) -> Text:
        wide = getattr(self.unet, "config", {}).get("cross_attention_dim")
        if states.ndim != 3 or (isinstance(wide, int) and states.shape[2] != wide):
            raise ValueError(f"{name}_embeds must have the shape (prompts, L, {wide}), not {tuple(states.shape)}")
        if mask is not None and mask.shape != states.shape[:2]:
            raise ValueError(
                f"{name}_attention_mask must have the shape {tuple(states.shape[:2])} of its states, not "
                f"{tuple(mask.shape)}"
            )
        device = self._execution_device
        return Text(states.to(device, self._text_dtype), None if mask is None else mask.to(device, torch.bool))

    def _encode(self, prompts: list[str], lora_scale: float | None = None, clip_skip: int | None = None) -> Text:
        encoder = encoder_of(self.text_encoder, self.tokenizer, clip_skip)
        distinct = list(dict.fromkeys(prompts))
        if lora_scale is not None:
            scale_lora_layers(self.text_encoder, lora_scale)
        try:
            out = encoder.encode(distinct)
        finally:
            if lora_scale is not None:
                unscale_lora_layers(self.text_encoder, lora_scale)
        text = Text(out.states.to(self._text_dtype), out.mask if masks_padding(encoder) else None)
        return text[torch.tensor([distinct.index(prompt) for prompt in prompts])]

    @property
    def _text_dtype(self) -> torch.dtype:
        """What the denoiser takes, where there is one."""
        return self.text_encoder.dtype if self.unet is None else self.unet.dtype


def warn_without_effect(guidance: Guidance, negative, sampler: SchedulerMixin, eta: float) -> None:
    """Log a warning for each argument of a call that changes nothing there."""
    if not guidance.guided:
        without = {"negative_prompt": negative is not None, "guidance_rescale": guidance.rescale > 0}
        for name in (name for name, given in without.items() if given):
            logger.warning(
                "%s has no effect at a guidance_scale of %g: give one above 1, or leave it out", name, guidance.scale
            )
    if eta > 0 and "eta" not in inspect.signature(sampler.step).parameters:
        logger.warning("eta has no effect on %s: take scheduler='ddim', or leave it out", type(sampler).__name__)
