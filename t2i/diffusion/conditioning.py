"""The conditioning of a denoiser: text states, and spatial conditions concatenated to the latents.

Shapes: B batch · L text positions · D width of the text states · C, h, w latent · K condition channels
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2i.notes import with_article
from t2i.text.encoders import ClipTextEncoder, TextEncoder, encoder_class


@dataclass(frozen=True)
class Conditioning:
    """What a denoiser is conditioned on.

    Args:
        states: text states (B, L, D).
        mask: (B, L), true where there is text; None for encoders whose padding is not masked.
        grid: (B, K, h, w) for denoisers with condition channels: see grid_conditions.py.
    """

    states: Tensor
    mask: Tensor | None = None
    grid: Tensor | None = None

    def __getitem__(self, rows: Tensor) -> Conditioning:
        return Conditioning(*(None if part is None else part[rows] for part in (self.states, self.mask, self.grid)))

    def to(self, like: Tensor) -> Conditioning:
        """Moved to the device of `like`, states and grid also to its dtype."""
        mask, grid = self.mask, self.grid
        mask, grid = None if mask is None else mask.to(like.device), None if grid is None else grid.to(like)
        return Conditioning(self.states.to(like), mask, grid)

    @staticmethod
    def stack(first: Conditioning, second: Conditioning) -> Conditioning:
        """(B, L, D) twice -> (2B, L, D); both have a grid or neither."""
        states = torch.cat([first.states, second.states])
        grid = None if first.grid is None else torch.cat([first.grid, second.grid])
        if first.mask is None and second.mask is None:
            return Conditioning(states, None, grid)
        whole = [
            torch.ones_like(t.states[..., 0], dtype=torch.bool) if t.mask is None else t.mask for t in (first, second)
        ]
        return Conditioning(states, torch.cat(whole), grid)


def concat_grid(x: Tensor, grid: Tensor | None) -> Tensor:
    """The input of a denoiser: latents (B, C, h, w), concatenated with the grid (B, K, h, w) if there is one."""
    return x if grid is None else torch.cat([x, grid.to(x.dtype)], 1)


def encoder_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, clip_skip: int | None = None) -> TextEncoder:
    """Wrap a loaded text encoder in the interface `TextEncoder`.

    Args:
        clip_skip: for CLIP only, see `ClipTextEncoder`.

    Raises ValueError for a model that is none of CLIP, T5 and BERT's kind, and for `clip_skip` without CLIP.
    """
    kind = encoder_class(model.config.model_type)
    if kind is None:
        found = with_article(type(model).__name__)
        raise ValueError(f"a text encoder is a CLIPTextModel, a T5EncoderModel or a BertModel, not {found}")
    if clip_skip is not None and kind is not ClipTextEncoder:
        found = with_article(type(model).__name__)
        raise ValueError(f"clip_skip is for a CLIP text encoder, and this pipeline has {found}")
    options = {} if clip_skip is None else {"clip_skip": clip_skip}
    return kind("the text encoder", model, tokenizer, **options)


def masks_padding(encoder: TextEncoder) -> bool:
    """Whether a denoiser masks the states of padding: not those of CLIP, which Stable Diffusion attends to."""
    return not isinstance(encoder, ClipTextEncoder)
