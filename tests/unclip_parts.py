"""Tiny real components of unCLIP with random weights, shared by the tests."""

from __future__ import annotations

from pathlib import Path

import diffusion_parts as parts
import torch
from diffusers import DDIMScheduler
from torch.nn.functional import normalize
from transformers import CLIPImageProcessor, CLIPModel

from t2i.diffusion.schedule import NoiseSchedule
from t2i.pipelines import UnCLIPPipeline
from t2i.text.clip import make_clip
from t2i.unclip.autoregressive_prior import AutoregressivePrior
from t2i.unclip.base import EmbeddingPrior
from t2i.unclip.clip import ClipText
from t2i.unclip.decoder import ImageProjection, with_embedding
from t2i.unclip.diffusion_prior import DiffusionPrior

DIM, WIDTH, LENGTH = 16, 32, parts.LENGTH
SIZES = {"width": 32, "layers": 2, "heads": 2}


def clip(dim: int = DIM) -> CLIPModel:
    """Of images of 64 × 64."""
    torch.manual_seed(5)
    text = {"text_width": WIDTH, "text_layers": 2, "text_heads": 2}
    image = {"image_width": 32, "image_layers": 2, "image_heads": 2}
    return make_clip(parts.clip_tokenizer(), 64, **text, **image, dim=dim).eval()


def image_processor() -> CLIPImageProcessor:
    sides = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    return CLIPImageProcessor(**sides, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def save_clip(folder: Path) -> str:
    for part in (clip(), parts.clip_tokenizer(), image_processor()):
        part.save_pretrained(folder)
    return str(folder)


def embeddings(num: int, seed: int = 0) -> torch.Tensor:
    """Of length 1, around a common mean, with unequal variances: (num, DIM)"""
    torch.manual_seed(seed)
    return normalize(torch.randn(num, DIM) * torch.linspace(1, 0.2, DIM) + 0.5, dim=1)


def text(rows: int, seed: int = 0) -> ClipText:
    torch.manual_seed(seed)
    mask = torch.arange(LENGTH) < torch.randint(2, LENGTH, (rows, 1))
    return ClipText(torch.randn(rows, LENGTH, WIDTH), normalize(torch.randn(rows, DIM), dim=1), mask)


def prior(kind: str) -> EmbeddingPrior:
    """ "diffusion" or "autoregressive", away from the initialisation, at which the text has hardly an effect."""
    torch.manual_seed(6)
    if kind == "diffusion":
        made = DiffusionPrior(DIM, WIDTH, LENGTH, **SIZES)
    else:
        made = AutoregressivePrior(DIM, WIDTH, LENGTH, num_components=8, num_buckets=32, **SIZES)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    made.fit(embeddings(200))
    return made.eval()


def pipeline(kind: str | None = "diffusion", captions: bool = False) -> UnCLIPPipeline:
    """With a prior of this kind or none, and weights of the embedding away from zero."""
    tokenizer = parts.clip_tokenizer()
    unet, projection = with_embedding(parts.unet(), DIM), ImageProjection(DIM, WIDTH, LENGTH)
    torch.manual_seed(7)
    for layer in (projection.tokens, unet.class_embedding.linear_2):
        torch.nn.init.normal_(layer.weight, std=0.3)
    torch.nn.init.normal_(projection.no_caption)
    projection.statistics.fit(embeddings(200))
    scheduler = DDIMScheduler(**NoiseSchedule().scheduler_config("v_prediction"), clip_sample=False)
    reads = {"caption_encoder": parts.clip(tokenizer), "caption_tokenizer": tokenizer} if captions else {}
    decoder = unet.eval(), projection.eval(), parts.autoencoder(), scheduler
    pipe = UnCLIPPipeline(clip(), tokenizer, image_processor(), *decoder, kind and prior(kind), **reads)
    pipe.set_progress_bar_config(disable=True)
    return pipe
