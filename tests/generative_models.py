"""Tiny models of every family, and images for them."""

from __future__ import annotations

import torch
from torch import Tensor

from t2i.data.splits import open_splits
from t2i.models.adversarial.gan import GAN
from t2i.models.autoregressive.gated_pixelcnn import GatedPixelCNN
from t2i.models.autoregressive.pixelcnn import PixelCNN
from t2i.models.autoregressive.pixelcnn_pp import PixelCNNpp
from t2i.models.autoregressive.pixelrnn import PixelRNN
from t2i.models.base import GenerativeModel, from_levels
from t2i.models.diffusion.ddpm import DDPM
from t2i.models.diffusion.score_sde import ScoreSDE
from t2i.models.flows.glow import Glow
from t2i.models.flows.nice import NICE
from t2i.models.flows.realnvp import RealNVP
from t2i.models.latent_variable.autoencoder import Autoencoder
from t2i.models.latent_variable.hierarchical_vae import HierarchicalVAE
from t2i.models.latent_variable.vae import VAE
from t2i.models.linear.linear_mixture import LinearMixture

VAE_SIZES = {"image_size": 8, "widths": (8, 16)}
PIXEL_SIZES = {"image_size": 8, "width": 12}
MAKERS = {
    "pca": lambda: LinearMixture(8, 1, 17, rank=6),
    "gmm": lambda: LinearMixture(8, 1, 17, rank=6, components=3),
    "gmm-conditional": lambda: LinearMixture(8, 3, 17, num_classes=10, rank=6),
    "autoencoder": lambda: Autoencoder(**VAE_SIZES, levels=17, latent_dim=4),
    "vae": lambda: VAE(**VAE_SIZES, latent_dim=3),
    "vae-conditional": lambda: VAE(**VAE_SIZES, latent_dim=3, num_classes=10),
    "vae-gaussian": lambda: VAE(**VAE_SIZES, latent_dim=3, levels=17, pixels="gaussian"),
    "vae-logistic": lambda: VAE(**VAE_SIZES, latent_dim=3, levels=17, pixels="logistic"),
    "vae-weighted": lambda: VAE(**VAE_SIZES, latent_dim=3, train_samples=3),
    "hvae": lambda: HierarchicalVAE(**VAE_SIZES, groups=(1, 2), latent_channels=2),
    "hvae-conditional": lambda: HierarchicalVAE(
        **VAE_SIZES, groups=(1, 1), latent_channels=2, levels=17, pixels="logistic", num_classes=10
    ),
    "pixelrnn-row": lambda: PixelRNN(**PIXEL_SIZES, blocks=2, first_kernel=5, num_classes=10),
    "pixelrnn-diagonal": lambda: PixelRNN(**PIXEL_SIZES, levels=17, kind="diagonal", blocks=2, first_kernel=5),
    "pixelcnn": lambda: PixelCNN(**PIXEL_SIZES, blocks=2, first_kernel=5),
    "gated-pixelcnn": lambda: GatedPixelCNN(**PIXEL_SIZES, layers=2, num_classes=10, first_kernel=5),
    "gated-pixelcnn-colour": lambda: GatedPixelCNN(**PIXEL_SIZES, channels=3, levels=17, layers=1, first_kernel=5),
    "pixelcnn++": lambda: PixelCNNpp(
        **PIXEL_SIZES, channels=1, levels=17, num_classes=10, resolutions=2, blocks=1, mixtures=3
    ),
    "nice": lambda: NICE(8, 1, 17, width=32, hidden=2),
    "realnvp": lambda: RealNVP(8, 1, 17, scales=1, couplings=2, width=8, blocks=1),
    "glow": lambda: Glow(8, 1, 17, scales=2, steps=2, width=16, alpha=0.0),
    "gan": lambda: GAN(8, 1, 17, latent_dim=8, width=8),
    "gan-wasserstein": lambda: GAN(8, 3, 17, latent_dim=8, width=8, loss_kind="wasserstein", gradient_penalty=10.0),
    "gan-conditional": lambda: GAN(
        8, 1, 2, num_classes=10, latent_dim=8, width=8, loss_kind="hinge", spectral_norm=True
    ),
    "ddpm": lambda: DDPM(8, 1, 17, widths=(8, 16), num_train_timesteps=10, beta_schedule="squaredcos_cap_v2"),
    "score-sde": lambda: ScoreSDE(8, 1, 17, num_classes=10, widths=(8, 16), steps=5, ode_steps=3),
    "glow-conditional": lambda: Glow(8, 3, 17, num_classes=10, scales=2, steps=1, width=16, alpha=0.05),
}


def digits(levels: int, n: int = 16, channels: int = 1) -> tuple[Tensor, Tensor]:
    """The first n digits with this number of levels (n, C, 8, 8), and their labels (n,)"""
    train = open_splits("digits").train
    items = [train[i] for i in range(n)]
    image = torch.stack([torch.from_numpy(item["image"][:, :, 0]) for item in items])[:, None] / 255
    k = (image * (levels - 1)).round()
    return from_levels(k, levels).repeat(1, channels, 1, 1), torch.tensor([item["label"] for item in items])


def pictures(model: GenerativeModel, n: int = 16) -> tuple[Tensor, Tensor | None]:
    """Digits in the model's format and size, and labels if it is class-conditional."""
    images, y = digits(model.levels, n, model.shape[0])
    return images[:, :, : model.shape[1], : model.shape[2]], y if model.conditional else None


def stirred(model: GenerativeModel, std: float = 0.1) -> GenerativeModel:
    """Perturb the initialisation, at which zero-initialised layers hide the effect of others."""
    for parameter in model.parameters():
        parameter.data += std * torch.randn_like(parameter)
    return model


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]
