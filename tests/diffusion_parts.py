"""Tiny real components of latent diffusion with random weights, shared by the tests."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, SchedulerMixin, UNet2DConditionModel
from transformers import CLIPImageProcessor, CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel

from t2i.data.toybox_v1 import Toybox
from t2i.diffusion.dit import DiT
from t2i.diffusion.schedule import NoiseSchedule
from t2i.pipelines import LatentDiffusionPipeline
from t2i.text.clip import make_clip, train_clip_tokenizer

CHANNELS, TEXT_WIDTH, LENGTH, SIDE = 4, 32, 24, 8


def autoencoder(seed: int = 0, channels: int = CHANNELS) -> AutoencoderKL:
    """Downsampling factor 8; scaling factor 0.5."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        block_out_channels=(8,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=0.5,
        mid_block_add_attention=False,
    )
    return vae.eval()


def clip_tokenizer() -> CLIPTokenizer:
    return train_clip_tokenizer(Toybox(num=200).captions(200), 600, LENGTH)


def clip(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    torch.manual_seed(1)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config).eval()


def save_clip(folder: Path) -> str:
    """A CLIP of texts and images of 16×16 pixels, saved in a folder."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    sizes = {"text_width": 16, "text_layers": 1, "text_heads": 2, "image_width": 16, "image_layers": 1}
    make_clip(tokenizer, 16, **sizes, image_heads=2, dim=8).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    CLIPImageProcessor(**size).save_pretrained(folder)
    return str(folder)


def t5(tokenizer: CLIPTokenizer) -> T5EncoderModel:
    torch.manual_seed(2)
    sizes = {"d_model": TEXT_WIDTH, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}
    return T5EncoderModel(T5Config(vocab_size=len(tokenizer), **sizes)).eval()


def unet(channels: int = CHANNELS) -> UNet2DConditionModel:
    torch.manual_seed(3)
    model = UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(16, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    return model.eval()


def dit() -> DiT:
    """Without zero-initialised layers, so that every part has an effect."""
    torch.manual_seed(4)
    model = DiT(SIDE, CHANNELS, TEXT_WIDTH, patch_size=2, width=32, depth=2, heads=2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def pipeline(scheduler: SchedulerMixin | None = None, denoiser=None, vae=None) -> LatentDiffusionPipeline:
    tokenizer = clip_tokenizer()
    scheduler = scheduler or DDIMScheduler(**NoiseSchedule().scheduler_config("v_prediction"), clip_sample=False)
    parts = (vae or autoencoder(), clip(tokenizer), tokenizer, denoiser or unet(), scheduler)
    pipe = LatentDiffusionPipeline(*parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_stages(folder: Path) -> tuple[str, str]:
    """An autoencoder and a text encoder, each saved in a folder as by the recipes."""
    tokenizer = clip_tokenizer()
    autoencoder().save_pretrained(folder / "kl")
    clip(tokenizer).save_pretrained(folder / "clip")
    tokenizer.save_pretrained(folder / "clip")
    return str(folder / "kl"), str(folder / "clip")
