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
        prompt: Prompts,
        do_classifier_free_guidance: bool = True,
        negative_prompt: Prompts | None = None,
        num_images_per_prompt: int = 1,
        device: torch.device | str | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """The states of prompts, to be changed or kept, and handed to a call in place of the prompts.

        Args:
            num_images_per_prompt: the states of each prompt so many times, one after the other.
            device: of what is returned, the pipeline's own by default.

        Returns:
            `prompt_embeds` (prompts, L, D) and `prompt_attention_mask` (prompts, L), true where there is text, None for
            encoders whose padding counts (CLIP); then both of the negative prompts, or twice None without guidance. As
            diffusers' PixArt pipelines do. Raises ValueError as a call does.
        """
        texts = [text := self._text(prompt)]
        if do_classifier_free_guidance:
            texts.append(self._text_against(negative_prompt, text))
        found: list[Tensor | None] = []
        for each in texts:
            for part in (each.states, each.mask):
                rows = None if part is None else part.repeat_interleave(num_images_per_prompt, 0)
                found.append(rows if rows is None or device is None else rows.to(device))
        return tuple(found + [None] * (4 - len(found)))

    def _text(self, prompt: Prompts | None, states: Tensor | None = None, mask: Tensor | None = None) -> Text:
        """The prompts' states, or those given. Raises ValueError unless there is one of the two."""
        if (prompt is None) == (states is None):
            raise ValueError("give either prompt or prompt_embeds")
        if isinstance(states, Text):  # of `interpolate`
            return states
        if states is not None:
            return self._given_text("prompt", states, mask)
        if mask is not None:
            raise ValueError("prompt_attention_mask belongs to prompt_embeds: a prompt has its own")
        prompts = check_prompts("prompt", prompt)
        warn_of_unknown_words(self.tokenizer, prompts)
        return self._encode(prompts)

    def _text_against(
        self, negative: Prompts | None, text: Text, states: Tensor | None = None, mask: Tensor | None = None
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
        warn_of_unknown_words(self.tokenizer, negatives)
        negatives = negatives * n if isinstance(negative or "", str) else negatives
        if len(negatives) != n:
            raise ValueError(f"{n} prompts need as many negative prompts, not {len(negatives)}")
        return replace(self._encode(negatives), grid=text.grid)

    def _given_text(self, name: str, states: Tensor, mask: Tensor | None) -> Text:
        wide = self.unet.config.cross_attention_dim
        if states.ndim != 3 or (isinstance(wide, int) and states.shape[2] != wide):
            raise ValueError(f"{name}_embeds must have the shape (prompts, L, {wide}), not {tuple(states.shape)}")
        if mask is not None and mask.shape != states.shape[:2]:
            raise ValueError(
                f"{name}_attention_mask must have the shape {tuple(states.shape[:2])} of its states, not "
                f"{tuple(mask.shape)}"
            )
        device = self._execution_device
        return Text(states.to(device, self.unet.dtype), None if mask is None else mask.to(device, torch.bool))

    def _encode(self, prompts: list[str]) -> Text:
        encoder = encoder_of(self.text_encoder, self.tokenizer)
        distinct = list(dict.fromkeys(prompts))
        out = encoder.encode(distinct)
        text = Text(out.states.to(self.unet.dtype), out.mask if masks_padding(encoder) else None)
        return text[torch.tensor([distinct.index(prompt) for prompt in prompts])]


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
