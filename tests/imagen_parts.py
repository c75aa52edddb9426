"""Tiny real components of Imagen with random weights, shared by the tests."""

from __future__ import annotations

import torch
from diffusion_parts import TEXT_WIDTH, clip, clip_tokenizer, t5

from t2i.diffusion.efficient_unet import EfficientUNet
from t2i.diffusion.objective import DiffusionObjective, Prediction
from t2i.diffusion.schedule import NoiseSchedule
from t2i.text.t5 import train_t5_tokenizer

SIZES = {
    "block_out_channels": (8, 16),
    "layers_per_block": (1, 2),
    "cross_attention": (False, True),
    "self_attention": (False, True),
    "head_width": 8,
    "norm_groups": 4,
}
BASE, LARGE = 8, 16  # sides
COSINE = NoiseSchedule(beta_schedule="squaredcos_cap_v2")


def unet(low_resolution: int | None = None, size: int = BASE) -> EfficientUNet:
    """Without zero-initialised layers, so that every part has an effect."""
    torch.manual_seed(5)
    model = EfficientUNet(size, TEXT_WIDTH, low_resolution, **SIZES)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model.eval()


def sampler(prediction_type: Prediction = "v_prediction"):
    return DiffusionObjective(COSINE, prediction_type).scheduler()
