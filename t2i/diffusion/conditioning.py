"""What a denoiser is told of the prompt.

Shapes: B batch · L text positions · D width of the text states
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2i.text.encoders import ClipTextEncoder, T5TextEncoder, TextEncoder


@dataclass(frozen=True)
class Text:
    """States (B, L, D) and, for encoders whose padding says nothing, a mask (B, L) true where there is text."""

    states: Tensor
    mask: Tensor | None = None

    def __getitem__(self, rows: Tensor) -> Text:
        return Text(self.states[rows], None if self.mask is None else self.mask[rows])

    @staticmethod
    def stack(first: Text, second: Text) -> Text:
        """(B, L, D) twice -> (2B, L, D)"""
        masks = [t.mask for t in (first, second)]
        if all(m is None for m in masks):
            return Text(torch.cat([first.states, second.states]))
        whole = [
            torch.ones_like(t.states[..., 0], dtype=torch.bool) if t.mask is None else t.mask for t in (first, second)
        ]
        return Text(torch.cat([first.states, second.states]), torch.cat(whole))


def encoder_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> TextEncoder:
    """The face of a text encoder that is there already. Raises ValueError for what is neither CLIP nor T5."""
    kind = {"clip_text_model": ClipTextEncoder, "t5": T5TextEncoder}.get(model.config.model_type)
    if kind is None:
        raise ValueError(f"a text encoder is a CLIPTextModel or a T5EncoderModel, not a {type(model).__name__}")
    return kind("the text encoder", model, tokenizer)


def masks_padding(encoder: TextEncoder) -> bool:
    """Whether a denoiser leaves out the states of padding: not of CLIP's, to which Stable Diffusion attends."""
    return not isinstance(encoder, ClipTextEncoder)
