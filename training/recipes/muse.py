"""Stage 2 of Muse: the bidirectional transformer over text and masked image tokens. Stage 1 is DALL·E's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t2i.pipelines.muse import MusePipeline
from t2i.prior.masked import MaskedTransformer, copy_from_causal, random_mask
from t2i.prior.transformer import TextImageTransformer
from t2i.training.held_out import BATCH
from t2i.training.model_options import ModelOptions, model_options
from t2i.training.recipes.dalle.prior import TEXT_LENGTH, PreparePair, PriorRecipe, PriorTask, prior_loop
from t2i.training.recipes.toybox import TOYBOX, TOYBOX_PROMPTS
from t2i.weights import digest

MASK_RATIOS = (0.2, 0.4, 0.6, 0.8, 1.0)  # of the held-out loss

masked_options = partial(model_options, MaskedTransformer, exclude=("grid_size", "attention_backend"))


@dataclass(frozen=True)
class MuseRecipe(PriorRecipe):
    """Options of `t2i train muse-toybox`."""

    model: ModelOptions = field(default_factory=masked_options)

    def task(self) -> MuseTask:
        return MuseTask(self)


def muse_toybox(preset: str = "base") -> MuseRecipe:
    """A transformer with 3.8 M parameters that predicts masked ones of 256 image tokens from the others and the text.

    base: `t2i train muse-toybox --init-from runs/prior-toybox/latest --mixed-precision bf16`, after prior-toybox
    tiny: `t2i train muse-toybox --preset tiny`, a minute on two cores, after the tiny vqvae-toybox
    """
    if preset == "tiny":
        model, loop = masked_options(width=128, layers=3, heads=4), prior_loop("muse", tiny=True)
        return MuseRecipe("runs/tiny-vqvae/latest", text_vocab_size=768, model=model, loop=loop)
    model = masked_options(width=208, heads=4, text_length=TEXT_LENGTH)
    return MuseRecipe(data=TOYBOX, model=model, loop=prior_loop("muse"), validation_prompts=TOYBOX_PROMPTS)


class MuseTask(PriorTask):
    """Predicts masked image tokens; the frozen image tokenizer encodes each batch of images."""

    def __init__(self, recipe: MuseRecipe):
        super().__init__(recipe)
        self.prepare = PrepareMasked(self.prepare, self.model.image_length)

    def loss(
        self, text: Tensor, masked: Tensor, images: Tensor | None = None, codes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Takes the output of PrepareMasked."""
        return self.model.loss(text, self.codes_of(images, codes), masked)

    def copy_weights(self, prior: TextImageTransformer | MaskedTransformer, name: str) -> str:
        if isinstance(prior, MaskedTransformer):
            return super().copy_weights(prior, name)
        copy_from_causal(prior, self.model)
        return digest(prior)

    def errors(self, codes: Tensor) -> tuple[list[float], str, Callable[[Tensor], Tensor]]:
        return list(MASK_RATIOS), "mask_ratio", partial(errors_by_mask_ratio, self.model, codes)

    def pipeline(self) -> MusePipeline:
        return MusePipeline(self.tokenizer, self.model, self.image_tokenizer)


def errors_by_mask_ratio(model: MaskedTransformer, codes: Tensor, text: Tensor) -> Tensor:
    """Codes (N, M) of images given texts (N, T) -> mean nats/token of the masked ones for each of MASK_RATIOS, (K, N).

    The masks depend on the place of an image alone: with other texts they are the same.
    """
    rng, by_ratio = torch.Generator().manual_seed(0), []
    for ratio in MASK_RATIOS:
        order = torch.rand(codes.shape, generator=rng).argsort(1).to(codes.device)
        masked = order < max(1, round(ratio * codes.shape[1]))  # a random permutation: as many in each image
        errors = []
        for t, c, m in zip(text.split(BATCH), codes.split(BATCH), masked.split(BATCH), strict=True):
            logits = model(t, torch.where(m, model.mask_code, c)).transpose(1, 2).float()
            per_code = F.cross_entropy(logits, c, reduction="none")
            errors.append((per_code * m).sum(1) / m.sum(1))
        by_ratio.append(torch.cat(errors).cpu())
    return torch.stack(by_ratio)


@dataclass(frozen=True)
class PrepareMasked:
    """Prepares an image, its caption and a random mask of its codes."""

    pair: PreparePair
    num_codes: int

    def __call__(self, item: dict, rng: np.random.Generator) -> dict:
        """-> text, ids (T,); masked, bool (N,); codes (N,), or, if not cached, images, uint8 (S, S, 3)"""
        return self.pair(item, rng) | {"masked": random_mask(self.num_codes, rng)}
