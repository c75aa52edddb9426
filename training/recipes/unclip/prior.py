"""The priors of DALL·E 2: from captions to the image embeddings of a frozen CLIP (Ramesh et al. 2022, § 2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from t2i.checks import check_fraction, check_whole
from t2i.contact_sheet import contact_sheet
from t2i.diffusion.schedule import NoiseSchedule
from t2i.images import to_pil, to_tensor
from t2i.notes import with_article
from t2i.pipelines.loading.auto import AutoPipeline
from t2i.pipelines.unclip import UnCLIPPipeline
from t2i.text.captions import LOOKED_AT, warn_of_long_captions
from t2i.training.config import DataConfig, LoopConfig
from t2i.training.generative import GenerativeTask
from t2i.training.held_out import bins, errors_by_timestep, printed, scores_of, split_held_out, swap_test
from t2i.training.model_options import ModelOptions, model_options
from t2i.training.recipes.text_conditioned import Tokens
from t2i.training.recipes.toybox import TOYBOX_V1_PROMPTS
from t2i.training.recipes.unclip.base import (
    cached_embeddings,
    images_of_the_same_captions,
    load_clip,
    some_embeddings,
    stacked_images,
)
from t2i.training.task import Evaluation
from t2i.unclip.autoregressive_prior import AutoregressivePrior
from t2i.unclip.base import SampleNoise
from t2i.unclip.clip import ClipText
from t2i.unclip.diffusion_prior import DiffusionPrior
from t2i.weights import digest


@dataclass(frozen=True)
class UnCLIPPriorRecipe:
    """Options of `t2i train unclip-prior`."""

    clip: str = "runs/clip-toybox/latest"
    """The CLIP whose image embeddings are predicted, in transformers' format: a folder, or a model on the Hub."""
    decoder: str | None = None
    """A trained decoder (`t2i train unclip-decoder`): checkpoints are then complete pipelines. Without one they hold
    the prior alone."""
    caption_dropout: float = 0.1
    """Fraction of samples trained without caption, for classifier-free guidance."""
    cache: str | None = None
    """Folder for cached image embeddings; default: next to the run, with a name derived from data and CLIP."""
    cached_images: int = 100_000
    """Number of images to embed, and hence to train on."""
    held_out_images: int = 256
    """Number of held-out images and captions for the scores at each checkpoint."""
    validation_prompts: tuple[str, ...] = ()
    """Prompts of the images generated at each checkpoint; without any, the first captions of the data."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelOptions = field(default_factory=lambda: model_options(DiffusionPrior))
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_fraction("caption_dropout", self.caption_dropout)
        check_whole("cached_images", self.cached_images)
        check_whole("held_out_images", self.held_out_images, least=2)

    def task(self) -> UnCLIPPriorTask:
        return UnCLIPPriorTask(self)


def unclip_prior(preset: str = "base") -> UnCLIPPriorRecipe:
    """DALL·E 2's diffusion prior: a transformer that denoises the CLIP image embedding of a caption.

    At each checkpoint it prints the cosine of predicted and true embeddings beside that of shuffled pairs and of two
    images of one caption, the held-out loss by timestep, and the loss with the captions of others.

    base: `t2i train unclip-prior --decoder runs/unclip-decoder/latest`, after clip-toybox and unclip-decoder
    tiny: `t2i train unclip-prior --preset tiny --decoder runs/tiny-unclip-decoder/latest`, a minute on two cores, after
    the tiny clip-toybox and unclip-decoder
    """
    return _recipe(preset, "unclip-prior", partial(model_options, DiffusionPrior))


def unclip_ar_prior(preset: str = "base") -> UnCLIPPriorRecipe:
    """DALL·E 2's autoregressive prior: a transformer over the quantised principal components of the image embedding.

    Its checkpoints print the same scores as those of unclip-prior.

    base: `t2i train unclip-ar-prior --decoder runs/unclip-decoder/latest`, after clip-toybox and unclip-decoder
    tiny: `t2i train unclip-ar-prior --preset tiny --decoder runs/tiny-unclip-decoder/latest`, a minute on two cores
    """
    return _recipe(preset, "unclip-ar-prior", partial(model_options, AutoregressivePrior))


def _recipe(preset: str, name: str, options: partial[ModelOptions]) -> UnCLIPPriorRecipe:
    if preset == "tiny":
        steps = {"max_train_steps": 200, "checkpointing_steps": 100, "lr_warmup_steps": 20}
        loop = LoopConfig(f"runs/tiny-{name}", train_batch_size=32, optimizer="muon", learning_rate=4e-3, **steps)
        sizes = {"width": 96, "layers": 3, "heads": 3}
        if name == "unclip-ar-prior":
            sizes |= {"num_components": 16, "num_buckets": 64}
        return UnCLIPPriorRecipe("runs/tiny-clip/latest", cached_images=2_000, model=options(**sizes), loop=loop)
    steps = {"max_train_steps": 5_000, "checkpointing_steps": 500}
    loop = LoopConfig(f"runs/{name}", train_batch_size=128, optimizer="muon", learning_rate=4e-3, **steps)
    return UnCLIPPriorRecipe(model=options(), loop=loop, validation_prompts=TOYBOX_V1_PROMPTS)


class UnCLIPPriorTask(GenerativeTask):
    """Trains a prior on the image embeddings and captions of a frozen CLIP."""

    model: DiffusionPrior | AutoregressivePrior
    SHOWN = 16

    def __init__(self, recipe: UnCLIPPriorRecipe):
        self.validation_prompts, seed = recipe.validation_prompts, recipe.loop.seed
        self.clip = load_clip(recipe.clip)
        self.fingerprint = {"clip_sha256": digest(self.clip.model)}
        self.decoder = None
        if recipe.decoder is not None:
            self.decoder = load_decoder(recipe.decoder, self.fingerprint["clip_sha256"], recipe.clip)
        source, self.held_out = split_held_out(recipe.data.open(seed), recipe.held_out_images, needed=True)
        length = self.clip.length
        warn_of_long_captions(source.captions(LOOKED_AT), self.clip.tokenizer, length - 2)
        options = (recipe.data, recipe.loop, recipe.cache, recipe.cached_images)
        self.source = cached_embeddings(self.clip, source, *options)
        torch.manual_seed(seed)  # the same initial weights on every process
        config = self.clip.model.config
        text = {"text_width": config.text_config.hidden_size, "text_length": length}
        self.model = recipe.model.build(embedding_dim=config.projection_dim, **text)
        self.model.fit(some_embeddings(self.clip, self.source))
        tokens = Tokens(self.clip.tokenizer, length)
        self.prepare = PrepareCaption(tokens, recipe.caption_dropout, self.model.noise)

    def loss(self, ids: Tensor, mask: Tensor, image_embeds: Tensor, **noise: Tensor) -> dict[str, Tensor]:
        """Takes the output of PrepareCaption."""
        return self.model.loss(self.clip.embed_text(ids, mask), image_embeds, **noise)

    # --- scores -----------------------------------------------------------------------------------------------------

    @cached_property
    def held_out_images(self) -> Tensor:
        """uint8 (N, S, S, 3)"""
        return stacked_images(self.held_out[i] for i in range(len(self.held_out)))

    @cached_property
    def held_out_embeds(self) -> tuple[ClipText, Tensor]:
        """Texts and image embeddings (N, D)."""
        clip = self.clip.to(self.model.device)
        captions = list(self.held_out.captions(len(self.held_out)))
        return clip.texts(captions), clip.embed_images(self.held_out_images.to(self.model.device))

    @cached_property
    def ceiling(self) -> float | None:
        """The cosine of two images of one caption, where the data can show it."""
        again = images_of_the_same_captions(self.held_out)
        embeds = self.held_out_embeds[1]
        return None if again is None else cosine(self.clip.embed_images(again.to(embeds.device)), embeds)

    @torch.no_grad()
    def evaluate(self) -> Evaluation:
        """The cosine of predicted and true embeddings, and the loss by timestep (or code), also with the captions of
        others; printed.
        """
        text, embeds = self.held_out_embeds
        predicted = self.model.sample(text, generators=seeded(len(embeds)))
        cosines = {"predicted and true": cosine(predicted, embeds), "shuffled pairs": cosine(embeds.roll(1, 0), embeds)}
        if self.ceiling is not None:
            cosines["two images of one caption"] = self.ceiling
        errors = swap_test(partial(self._errors, embeds), vars(text), {"captions of others": tuple(vars(text))})
        evaluation = printed(scores_of(errors, bins(self._timesteps)) | {"cosine": cosines})
        tqdm.write("cosine of " + ", ".join(f"{name} {value:.3f}" for name, value in cosines.items()))
        return evaluation

    @property
    def _timesteps(self) -> int:
        """The number of training timesteps; of the autoregressive prior, of codes."""
        if isinstance(self.model, AutoregressivePrior):
            return self.model.num_codes
        return self.model.config.num_train_timesteps

    def _errors(self, embeds: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """The loss of N image embeddings (N, D) and texts, by timestep or code in bins: (K, N)"""
        if isinstance(self.model, AutoregressivePrior):
            by_code = self.model.errors(ClipText(**text), embeds)  # (N, P)
            parts = by_code.tensor_split(bins(self.model.num_codes)[1:], dim=1)
            return torch.stack([part.mean(1) for part in parts]).cpu()
        return errors_by_timestep(PriorObjective(self.model), self.model, embeds, text)

    # --- output -----------------------------------------------------------------------------------------------------

    def pipeline(self) -> UnCLIPPipeline:
        if self.decoder is None:
            raise ValueError("a prior alone is no pipeline: give --decoder")
        return UnCLIPPipeline(**self.decoder.to(self.model.device).components | {"prior": self.model})

    def preview(self) -> Image.Image:
        """Images of the validation prompts; without a decoder, of held-out captions the image whose embedding is
        nearest to the predicted one.
        """
        if self.decoder is not None:
            return super().preview()
        text, embeds = self.held_out_embeds
        shown = min(self.SHOWN, len(embeds))
        nearest = (self.model.sample(text[:shown], generators=seeded(shown)) @ embeds.T).argmax(1).cpu()
        return contact_sheet(to_pil(to_tensor(self.held_out_images[nearest])), list(self.held_out.captions(shown)), 8)

    def save(self, folder: Path) -> None:
        """The whole system, or without a decoder the prior."""
        (self.model if self.decoder is None else self.pipeline()).save_pretrained(folder)

    @property
    def next_command(self) -> str:
        return "" if self.decoder is None else super().next_command


@dataclass(frozen=True)
class PrepareCaption:
    """Prepares a caption, its image embedding and noise; the caption is dropped with probability `dropout`."""

    tokens: Tokens
    dropout: float
    noise: SampleNoise

    def __call__(self, item: dict, rng: np.random.Generator) -> dict:
        """-> ids, mask (L,); image_embeds (D,); the noise of the prior's loss"""
        text = "" if rng.random() < self.dropout else item["text"]
        return self.tokens(text) | {"image_embeds": np.array(item["image_embeds"])} | self.noise(rng)


def load_decoder(name: str, clip_digest: str, clip_name: str) -> UnCLIPPipeline:
    """The pipeline of a trained decoder. Raises FileNotFoundError or ValueError, with the command that trains one."""
    remedy = f"train one with: t2i train unclip-decoder{' --preset tiny' if 'tiny' in name else ''} --clip {clip_name}"
    try:
        pipe = AutoPipeline.from_pretrained(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no decoder in {name} ({error}): {remedy}") from error
    if not isinstance(pipe, UnCLIPPipeline):
        raise ValueError(
            f"{name} holds {with_article(type(pipe).__name__)}, which decodes no image embeddings: {remedy}"
        )
    if digest(pipe.clip) != clip_digest:
        raise ValueError(f"{name} was trained on another CLIP than {clip_name}: give its own with --clip, or {remedy}")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@dataclass(frozen=True)
class PriorObjective:
    """A diffusion prior's loss as `errors_by_timestep` calls it."""

    prior: DiffusionPrior
    flow: None = None

    @property
    def schedule(self) -> NoiseSchedule:
        return self.prior.schedule

    def errors(
        self, prior: DiffusionPrior, latents: Tensor, noise: Tensor, timesteps: Tensor, **text: Tensor
    ) -> Tensor:
        """Image embeddings (B, D) as `latents`, and the parts of B texts -> (B,)"""
        return prior.errors(ClipText(**text), latents, noise, timesteps).mean(1)


def cosine(first: Tensor, second: Tensor) -> float:
    """The mean cosine of the rows of (N, D) and (N, D)."""
    return F.cosine_similarity(first.float(), second.float(), dim=1).mean().item()


def seeded(count: int) -> list[torch.Generator]:
    """Generators that are always the same."""
    return [torch.Generator().manual_seed(i) for i in range(count)]
