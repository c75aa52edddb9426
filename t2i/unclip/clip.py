"""What unCLIP reads of a frozen CLIP of transformers: text states, text embeddings and image embeddings.

Embeddings have length 1: CLIP is trained on their direction only.

Shapes: B prompts or images · L text positions · W width of the text states · D width of the embeddings · H, W image
S side of CLIP's images
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel


@dataclass(frozen=True)
class ClipText:
    """Prompts as a prior takes them.

    Args:
        states: (B, L, W), of every token.
        embeds: (B, D), of the whole prompt.
        mask: (B, L), true where there is text.
    """

    states: Tensor
    embeds: Tensor
    mask: Tensor

    def __getitem__(self, rows: Tensor | slice) -> ClipText:
        return ClipText(self.states[rows], self.embeds[rows], self.mask[rows])

    @staticmethod
    def stack(first: ClipText, second: ClipText) -> ClipText:
        """(B, …) and (C, …) -> (B + C, …)"""
        pairs = zip(vars(first).values(), vars(second).values(), strict=True)
        return ClipText(*(torch.cat(pair) for pair in pairs))


@torch.no_grad()
def embed_text(clip: CLIPModel, ids: Tensor, mask: Tensor) -> ClipText:
    """ids and mask (B, L), as CLIP's tokenizer pads them -> B prompts"""
    with torch.autocast(ids.device.type, enabled=False):  # full precision, as in the pipeline
        return project_text(clip, clip.text_model(ids).last_hidden_state, mask)


@torch.no_grad()
def project_text(clip: CLIPModel, states: Tensor, mask: Tensor) -> ClipText:
    """States (B, L, W) and mask (B, L) -> B prompts, whose embeddings are those of the end token."""
    end = mask.long().sum(1) - 1  # (B,)
    pooled = states[torch.arange(len(states), device=states.device), end]  # (B, W)
    return ClipText(states, F.normalize(clip.text_projection(pooled), dim=-1), mask.bool())


@torch.no_grad()
def embed_images(clip: CLIPModel, processor, images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> (B, D). `processor` is the CLIP's image processor."""
    pixels = processor(images=list(images.permute(0, 3, 1, 2)), return_tensors="pt")["pixel_values"]  # (B, 3, S, S)
    with torch.autocast(images.device.type, enabled=False):
        pooled = clip.vision_model(pixels.to(clip.device, clip.dtype)).pooler_output
        return F.normalize(clip.visual_projection(pooled), dim=-1)
