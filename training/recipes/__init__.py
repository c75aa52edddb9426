"""The recipes by name, for `t2i train`.

A recipe is a function `preset -> config`, and the config creates a task. The function's docstring states the command
and its running time. A recipe's module is imported only when called, so that listing recipes does not load torch.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name


@dataclass(frozen=True)
class Recipe:
    """A recipe, referenced as "module:function" within this package."""

    where: str

    def __call__(self, preset: str = "base"):
        """Create the config. Raises ValueError as the recipe does."""
        return resolve_name(f"{__name__}.{self.where}")(preset)

    def about(self) -> str:
        """The function's docstring, read without importing the module."""
        module, name = self.where.split(":")
        spec = find_spec(f"{__name__}.{module}")
        source = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
        functions = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name)
        return next((ast.get_docstring(node) or "" for node in functions), "")


PRESETS = ("base", "tiny")
RECIPES: dict[str, Recipe] = {  # by system, in the order of its stages
    "vqvae-toybox": Recipe("dalle.tokenizers:vqvae_toybox"),
    "fsq-toybox": Recipe("dalle.tokenizers:fsq_toybox"),
    "dvae-toybox": Recipe("dalle.tokenizers:dvae_toybox"),
    "vqgan-toybox": Recipe("dalle.tokenizers:vqgan_toybox"),
    "prior-toybox": Recipe("dalle.prior:prior_toybox"),
    "muse-toybox": Recipe("muse:muse_toybox"),
    "kl-toybox": Recipe("ldm.kl:kl_toybox"),
    "clip-toybox": Recipe("text.clip:clip_toybox"),
    "t5-toybox": Recipe("text.t5:t5_toybox"),
    "ldm-toybox": Recipe("ldm.denoiser:ldm_toybox"),
    "unclip-decoder": Recipe("unclip.decoder:unclip_decoder"),
    "unclip-prior": Recipe("unclip.prior:unclip_prior"),
    "unclip-ar-prior": Recipe("unclip.prior:unclip_ar_prior"),
    "lora": Recipe("ldm.lora:lora"),
    "lcm": Recipe("ldm.lcm:lcm"),
    "upscale-toybox": Recipe("ldm.conditioned:upscale_toybox"),
    "layout-toybox": Recipe("ldm.conditioned:layout_toybox"),
    "imagen-base": Recipe("imagen.base:imagen_base"),
    "imagen-sr": Recipe("imagen.super_resolution:imagen_sr"),
    "toybox-v1-classifier": Recipe("toybox_v1_classifier:toybox_v1_classifier"),
    "toybox-classifier": Recipe("toybox_classifier:toybox_classifier"),
    "characters": Recipe("unconditional.characters:characters"),
    "pca": Recipe("unconditional.linear:pca"),
    "gmm": Recipe("unconditional.linear:gmm"),
    "autoencoder": Recipe("unconditional.latent_variable:autoencoder"),
    "vae": Recipe("unconditional.latent_variable:vae"),
    "hvae": Recipe("unconditional.latent_variable:hvae"),
    "multimodal-vae": Recipe("unconditional.multimodal:multimodal_vae"),
    "pixelrnn": Recipe("unconditional.autoregressive:pixelrnn"),
    "pixelcnn": Recipe("unconditional.autoregressive:pixelcnn"),
    "gated-pixelcnn": Recipe("unconditional.autoregressive:gated_pixelcnn"),
    "pixelcnn-pp": Recipe("unconditional.autoregressive:pixelcnn_pp"),
    "nice": Recipe("unconditional.flows:nice"),
    "realnvp": Recipe("unconditional.flows:realnvp"),
    "glow": Recipe("unconditional.flows:glow"),
    "ddpm": Recipe("unconditional.diffusion:ddpm"),
    "score-sde": Recipe("unconditional.diffusion:score_sde"),
    "gan": Recipe("unconditional.adversarial:gan"),
    "wgan-gp": Recipe("unconditional.adversarial:wgan_gp"),
    "sngan": Recipe("unconditional.adversarial:sngan"),
    "cyclegan": Recipe("unconditional.cyclegan:cyclegan"),
}
