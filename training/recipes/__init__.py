"""The recipes: a name for each thing that can be trained.

A recipe is a function `preset -> config`; its docstring gives the command, the cost and the score it reached.
"""

from __future__ import annotations

from collections.abc import Callable

from t2i.training.recipes.characters import characters
from t2i.training.recipes.clip import clip_toybox
from t2i.training.recipes.conditioned import layout_toybox, upscale_toybox
from t2i.training.recipes.cyclegan import cyclegan
from t2i.training.recipes.diffusion_blocks import ddpm, score_sde
from t2i.training.recipes.flows import glow, nice, realnvp
from t2i.training.recipes.gans import gan, sngan, wgan_gp
from t2i.training.recipes.kl import kl_toybox
from t2i.training.recipes.lcm import lcm
from t2i.training.recipes.ldm import ldm_toybox
from t2i.training.recipes.linear import gmm, pca
from t2i.training.recipes.lora import lora
from t2i.training.recipes.multimodal import multimodal_vae
from t2i.training.recipes.pixelcnns import gated_pixelcnn, pixelcnn, pixelcnn_pp, pixelrnn
from t2i.training.recipes.prior import prior_toybox
from t2i.training.recipes.reader import reader_toybox
from t2i.training.recipes.t5 import t5_toybox
from t2i.training.recipes.vaes import autoencoder, hvae, vae
from t2i.training.recipes.vqvae import vqvae_toybox

PRESETS = ("base", "tiny")
RECIPES: dict[str, Callable] = {
    "clip-toybox": clip_toybox,
    "t5-toybox": t5_toybox,
    "kl-toybox": kl_toybox,
    "ldm-toybox": ldm_toybox,
    "lora": lora,
    "lcm": lcm,
    "upscale-toybox": upscale_toybox,
    "layout-toybox": layout_toybox,
    "vqvae-toybox": vqvae_toybox,
    "prior-toybox": prior_toybox,
    "reader-toybox": reader_toybox,
    "characters": characters,
    "pca": pca,
    "gmm": gmm,
    "autoencoder": autoencoder,
    "vae": vae,
    "hvae": hvae,
    "multimodal-vae": multimodal_vae,
    "pixelrnn": pixelrnn,
    "pixelcnn": pixelcnn,
    "gated-pixelcnn": gated_pixelcnn,
    "pixelcnn-pp": pixelcnn_pp,
    "nice": nice,
    "realnvp": realnvp,
    "glow": glow,
    "ddpm": ddpm,
    "score-sde": score_sde,
    "gan": gan,
    "wgan-gp": wgan_gp,
    "sngan": sngan,
    "cyclegan": cyclegan,
}
