"""A variational autoencoder of images and captions, with shared and private latents.

Shared latents z and private ones w_i, w_t (Hsu and Glass 2018, arXiv 1805.11264):

    p(x, t) = ∫ p(z) p(w_i) p(w_t) p(x | z, w_i) p(t | z, w_t),    all priors N(0, 1).

The posterior of z is the product of the prior and an expert for each given modality (Wu and Goodman 2018, MVAE,
arXiv 1802.05335, §2.1), so that one model handles images, captions, and both.
Shapes: B batch · C channels · S image side · T text length · V vocabulary · Z shared, W private latent dimensions
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from t2i.models.autoregressive.characters import counted
from t2i.models.base import Generators, check_images, normal
from t2i.models.latent_variable.multimodal_networks import ImageDecoder, ImageEncoder, TextDecoder, TextEncoder
from t2i.models.latent_variable.vae import check_widths, gaussian, gaussian_kl
from t2i.models.pixel_likelihoods import log_prob, mode, outputs_of, sample_pixels

Objective = Literal["mopoe", "mvae"]
Gaussian = tuple[Tensor, Tensor]  # mean and log σ, (B, Z) each


class MultimodalVAE(ModelMixin, ConfigMixin):
    """An encoder and a decoder for each modality, with a shared latent space.

    Captions are token ids (B, T), padded with 0. The first 0 is the end and counts in the likelihood, everything after
    it is ignored; a caption of T tokens needs no end. Images are as in `GenerativeModel`.

    Args:
        vocab_size: Size of the vocabulary with the padding token, V.
        text_length: Maximum length of a caption in tokens, T; longer captions are truncated.
        image_size, channels, levels: Properties of the images; pixels are Bernoulli for two levels, otherwise
            discretised logistic.
        widths: Channels of each level of the image networks, from fine to coarse; each level after the first halves the
            resolution.
        blocks: Residual blocks per level.
        shared_dim: Latent variables shared by the two modalities, Z.
        image_dim: Latent variables of the image alone.
        text_dim: Latent variables of the caption alone, w_t.
        text_width: Hidden units of the text networks (GRUs).
        text_weight: Weight of the caption's likelihood, ln p(t | z, w_t), in the loss, relative to the pixels' (MVAE's
            λ), and of the KL divergence of w_t, which would otherwise be the cheaper way to encode the caption.
        word_dropout: Fraction of the previous tokens hidden from the text decoder in training, so that it relies on the
            latents (Bowman et al. 2016, arXiv 1511.06349).
        objective: Bounds trained besides the joint one: 'mvae' (each modality given itself; Wu and Goodman, § 2.2) or
            'mopoe' (both modalities given either; Sutter et al. 2021, arXiv 2105.02470, § 3; the caption given the
            image has w_t from its prior, so that what they share is encoded in z).

    Raises ValueError for sizes that do not fit together.
    """

    @register_to_config
    def __init__(
        self,
        vocab_size: int,
        text_length: int = 12,
        image_size: int = 32,
        channels: int = 3,
        levels: int = 256,
        widths: tuple[int, ...] = (32, 64, 64),
        blocks: int = 1,
        shared_dim: int = 16,
        image_dim: int = 32,
        text_dim: int = 4,
        text_width: int = 128,
        text_weight: float = 50.0,
        word_dropout: float = 0.2,
        objective: Objective = "mopoe",
    ):
        super().__init__()
        check_widths(image_size, widths)
        sizes = {"text_length": text_length, "shared_dim": shared_dim, "image_dim": image_dim, "text_dim": text_dim}
        if vocab_size < 2 or min(sizes.values()) < 1 or channels not in (1, 3) or not 2 <= levels <= 256:
            raise ValueError(
                "vocab_size must be at least 2, channels 1 or 3, levels from 2 to 256 and all lengths and dimensions "
                f"at least 1, not {vocab_size=}, {channels=}, {levels=}, {sizes}"
            )
        if not text_weight > 0 or not 0 <= word_dropout < 1 or objective not in ("mopoe", "mvae"):
            raise ValueError(
                "text_weight must be above 0, word_dropout in [0, 1) and objective 'mopoe' or 'mvae', not "
                f"{text_weight=}, {word_dropout=}, {objective=}"
            )
        self.shape, self.levels = (channels, image_size, image_size), levels
        self.pixels = "bernoulli" if levels == 2 else "logistic"
        self.image_encoder = ImageEncoder(image_size, channels, widths, blocks, 2 * (shared_dim + image_dim))
        self.image_decoder = ImageDecoder(
            image_size, outputs_of(self.pixels) * channels, widths, blocks, shared_dim + image_dim
        )
        self.text_encoder = TextEncoder(vocab_size, text_width, 2 * (shared_dim + text_dim))
        self.text_decoder = TextDecoder(vocab_size, text_width, shared_dim + text_dim, word_dropout)

    # --- posteriors -------------------------------------------------------------------------------------------------

    def experts(self, images: Tensor | None, text: Tensor | None) -> list[tuple[Gaussian, Gaussian]]:
        """For each given modality: its expert on z (not multiplied with the prior), and the posterior of its w."""
        shared, found = self.config.shared_dim, []
        if images is not None:
            check_images(images, self.shape)
            found.append(_two_gaussians(self.image_encoder(images.to(self.dtype)), shared))
        if text is not None:
            self._check_text(text)
            found.append(_two_gaussians(self.text_encoder(text), shared))
        return found

    def posterior(self, images: Tensor | None = None, text: Tensor | None = None) -> Gaussian:
        """q(z | given modalities): images (B, C, S, S), text (B, T), or both -> mean and log σ (B, Z) each

        Raises ValueError for neither, and for images and text of the wrong shape or range.
        """
        if images is None and text is None:
            raise ValueError("a posterior needs images, text, or both")
        return product_of_experts([z for z, _ in self.experts(images, text)])

    # --- training and scores ----------------------------------------------------------------------------------------

    def loss(self, images: Tensor, text: Tensor) -> dict[str, Tensor]:
        """Images (B, C, S, S), text (B, T) -> scalars: `loss`, nats per image dimension; `nats` per pair; components:

        `image`, `text`: nats of each modality given z from both; `kl_image`, `kl_text`, `kl_shared`: KL divergences.
        """
        (zi, wi), (zt, wt) = self.experts(images, text)
        image_pair, text_pair = (images, wi), (text, wt)
        mopoe = self.config.objective == "mopoe"
        without_text = (text, tuple(torch.zeros_like(part) for part in wt))  # w_t from the prior, as in generation
        parts = self._terms([zi, zt], image_pair, text_pair)
        bounds = [
            parts,
            self._terms([zi], image_pair, without_text if mopoe else None),
            self._terms([zt], image_pair if mopoe else None, text_pair),
        ]
        weight = self.config.text_weight
        total = sum(b["image"] + b["kl_image"] + b["kl_shared"] + weight * (b["text"] + b["kl_text"]) for b in bounds)
        parts = {name: part.detach() for name, part in parts.items()}
        return {"loss": total / (3 * math.prod(self.shape)), "nats": sum(parts.values()), **parts}

    def _terms(
        self,
        experts: list[Gaussian],
        image_pair: tuple[Tensor, Gaussian] | None,
        text_pair: tuple[Tensor, Gaussian] | None,
    ) -> dict[str, Tensor]:
        """The terms of the bound with z from these experts, for the modalities given with their posteriors of w."""
        q = product_of_experts(experts)
        z = _draw(q, None)
        terms = dict.fromkeys(("image", "text", "kl_image", "kl_text"), torch.zeros((), device=z.device))
        terms["kl_shared"] = _kl(q).mean()
        if image_pair is not None:
            images, w = image_pair
            terms["image"] = -self._image_nats(images, z, _draw(w, None)).mean()
            terms["kl_image"] = _kl(w).mean()
        if text_pair is not None:
            text, w = text_pair
            terms["text"] = -self._text_nats(text, z, _draw(w, None)).mean()
            terms["kl_text"] = _kl(w).mean()
        return terms

    def elbo(self, images: Tensor, text: Tensor, generator: Generators = None, samples: int = 1) -> Tensor:
        """A lower bound of ln p(x, t): images (B, C, S, S), text (B, T) -> nats (B,)

        With one sample, the KL is analytic; with K, the bound is importance-weighted (Burda et al. 2016, eq. 8).
        """
        (zi, wi), (zt, wt) = self.experts(images, text)
        qs = [product_of_experts([zi, zt]), wi, wt]
        sizes = [mean.shape[1] for mean, _ in qs]
        noise = normal((len(images), samples, sum(sizes)), generator, images.device, self.dtype)
        weights = []
        for k in range(samples):
            latents = [
                mean + log_std.exp() * e for (mean, log_std), e in zip(qs, noise[:, k].split(sizes, 1), strict=True)
            ]
            z, w_image, w_text = latents
            nats = self._image_nats(images, z, w_image) + self._text_nats(text, z, w_text)
            if samples == 1:
                return nats - sum(_kl(q) for q in qs)
            zero = torch.zeros((), device=z.device, dtype=z.dtype)
            ratios = [gaussian(x, zero, zero) - gaussian(x, *q) for x, q in zip(latents, qs, strict=True)]
            weights.append(nats + torch.cat(ratios, dim=1).sum(1))
        return torch.stack(weights).logsumexp(0) - math.log(samples)

    def _image_nats(self, images: Tensor, z: Tensor, w: Tensor) -> Tensor:
        return log_prob(self.pixels, self.image_decoder(torch.cat([z, w], 1)).float(), images, self.levels)

    def _text_nats(self, text: Tensor, z: Tensor, w: Tensor) -> Tensor:
        """ln p(t | z, w_t) up to the end: (B,)"""
        logits = self.text_decoder(torch.cat([z, w], 1), text).float()  # (B, T, V)
        nats = -F.cross_entropy(logits.transpose(1, 2), text, reduction="none")
        return (nats * counted(text)).sum(1)

    # --- sampling ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample_both(self, n: int, generator: Generators = None) -> tuple[Tensor, Tensor]:
        """Generate n pairs: images (n, C, S, S) of L levels, captions (n, T).

        Given n generators, the i-th pair depends only on the i-th generator; likewise in the two methods below.
        """
        z = self._private(n, self.config.shared_dim, generator)
        wi, wt = (self._private(n, dim, generator) for dim in (self.config.image_dim, self.config.text_dim))
        images = sample_pixels(self.pixels, self.image_decoder(torch.cat([z, wi], 1)), self.levels, generator)
        return images, self.text_decoder.write(torch.cat([z, wt], 1), self.config.text_length, generator)

    @torch.no_grad()
    def image_given_text(self, text: Tensor, generator: Generators = None) -> Tensor:
        """Captions (B, T) -> mean images (B, C, S, S) in [-1, 1], with z from q(z | t) and w_i from the prior"""
        z = _draw(self.posterior(text=text), generator)
        w = self._private(len(text), self.config.image_dim, generator)
        return mode(self.pixels, self.image_decoder(torch.cat([z, w], 1)))

    @torch.no_grad()
    def text_given_image(self, images: Tensor, generator: Generators = None) -> Tensor:
        """Images (B, C, S, S) -> captions (B, T), decoded greedily, with z from q(z | x) and w_t from the prior"""
        z = _draw(self.posterior(images), generator)
        w = self._private(len(images), self.config.text_dim, generator)
        return self.text_decoder.write(torch.cat([z, w], 1), self.config.text_length, greedy=True)

    def _private(self, n: int, dim: int, generator: Generators) -> Tensor:
        return normal((n, dim), generator, self.device, self.dtype)

    def _check_text(self, text: Tensor) -> None:
        vocabulary, length = self.config.vocab_size, self.config.text_length
        if text.ndim != 2 or text.shape[1] != length or text.is_floating_point():
            raise ValueError(f"captions must be integers (B, {length}), not {text.dtype} {tuple(text.shape)}")
        if len(text) and not 0 <= text.min() <= text.max() < vocabulary:
            raise ValueError(f"tokens must lie in [0, {vocabulary}), not [{int(text.min())}, {int(text.max())}]")


def product_of_experts(experts: Sequence[Gaussian]) -> Gaussian:
    """The normalised product of N(0, 1) and Gaussians (MVAE, §2.1): pairs of mean and log σ (B, Z) -> one pair

    Precisions add up, and weight the mean of the means.
    """
    precisions = [(-2 * log_std).exp() for _, log_std in experts]
    total = 1 + sum(precisions)
    mean = sum(p * mean for p, (mean, _) in zip(precisions, experts, strict=True)) / total
    return mean, -0.5 * total.log()


def _two_gaussians(outputs: Tensor, shared: int) -> tuple[Gaussian, Gaussian]:
    """(B, 2 (Z + W)) -> the expert on z, the posterior of w"""
    mean, log_std = (outputs.float() if torch.is_autocast_enabled(outputs.device.type) else outputs).chunk(2, dim=1)
    log_std = log_std.clamp(-7, 4)
    return (mean[:, :shared], log_std[:, :shared]), (mean[:, shared:], log_std[:, shared:])


def _draw(q: Gaussian, generator: Generators) -> Tensor:
    mean, log_std = q
    return mean + log_std.exp() * normal(mean.shape, generator, mean.device, mean.dtype)


def _kl(q: Gaussian) -> Tensor:
    """KL(q ‖ N(0, 1)): (B,)"""
    zero = torch.zeros_like(q[0])
    return gaussian_kl(*q, zero, zero).sum(1)
