"""Stable Diffusion's safety checker."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from t2i.images import to_pil


def blacken_flagged(
    images: Tensor, checker: PreTrainedModel, feature_extractor, device: torch.device
) -> tuple[Tensor, list[bool]]:
    """Images (n, 3, H, W) in [-1, 1] -> the same with flagged ones black, and which are flagged."""
    clip_input = feature_extractor(to_pil(images), return_tensors="pt").pixel_values
    arrays = list((images.float() / 2 + 0.5).permute(0, 2, 3, 1).cpu().numpy())
    _, flagged = checker(images=arrays, clip_input=clip_input.to(device, checker.dtype))
    black = torch.tensor(flagged, device=images.device).view(-1, 1, 1, 1)
    return images.masked_fill(black, -1), [bool(f) for f in flagged]
