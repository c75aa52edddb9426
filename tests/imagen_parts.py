"""Tiny real components of Imagen with random weights, shared by the tests."""

from __future__ import annotations

import torch
from diffusion_parts import LENGTH, TEXT_WIDTH, clip, clip_tokenizer, t5

from t2i.data.toybox_v1 import Toybox
from t2i.diffusion.efficient_unet import EfficientUNet
from t2i.diffusion.objective import DiffusionObjective, Prediction
from t2i.diffusion.schedule import NoiseSchedule
from t2i.pipelines import ImagenPipeline
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


def pipeline(sr: int = 1, prediction_type: Prediction = "v_prediction", text: str = "t5") -> ImagenPipeline:
    """A base model of 8×8 pixels, with super-resolution to 16×16, and with `sr` 2 to 32×32."""
    if text == "t5":
        tokenizer = train_t5_tokenizer(Toybox(num=200).captions(200), 400, LENGTH)
        encoder = t5(tokenizer)
    else:
        tokenizer = clip_tokenizer()
        encoder = clip(tokenizer)
    stages = {}
    for i, (small, large) in enumerate([(BASE, LARGE), (LARGE, 2 * LARGE)][:sr]):
        names = f"sr_unet{'_2' * i}", f"sr_scheduler{'_2' * i}"
        stages |= dict(zip(names, (unet(small, large), sampler(prediction_type)), strict=True))
    pipe = ImagenPipeline(encoder, tokenizer, unet(), sampler(prediction_type), **stages)
    pipe.set_progress_bar_config(disable=True)
    return pipe
