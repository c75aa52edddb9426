"""The decoder of DALL·E 2 in a cheap form: a trained latent diffusion model is fine-tuned to generate images from their
CLIP embeddings (Ramesh et al. 2022, § 2.1; t2i/unclip/decoder.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch import Tensor

from t2i.checks import check_fraction, check_real, check_whole
from t2i.contact_sheet import contact_sheet
from t2i.diffusion.conditioning import encoder_of, masks_padding
from t2i.images import to_pil, to_tensor
from t2i.notes import with_article
from t2i.pipelines.latent_diffusion import LatentDiffusionPipeline
from t2i.pipelines.loading.auto import AutoPipeline, as_latent_diffusion
from t2i.pipelines.unclip import UnCLIPPipeline
from t2i.training.config import FineTuningDataConfig, LoopConfig
from t2i.training.held_out import BATCH, bins, errors_by_timestep, printed, scores_of, split_held_out, swap_test
from t2i.training.model_options import ModelOptions, model_options
from t2i.training.recipes.ldm.base import PrepareLatent, use_fast_attention
from t2i.training.recipes.ldm.fine_tuning import FineTuningTask, is_text_to_image, objective_of
from t2i.training.recipes.ldm.latents import latents_of
from t2i.training.recipes.unclip.base import Joined, cached_embeddings, load_clip, some_embeddings, stacked_images
from t2i.training.task import Evaluation
from t2i.unclip.decoder import Decoder, ImageProjection, with_embedding
from t2i.weights import digest


@dataclass(frozen=True)
class UnCLIPDecoderRecipe:
    """Options of `t2i train unclip-decoder`."""

    init_from: str = "toybox/ldm"
    """Latent diffusion pipeline to start from, with a U-Net and a CLIP text encoder: a folder, an embedded system, or a
    model on the Hub."""
    clip: str = "runs/clip-toybox/latest"
    """The CLIP whose image embeddings are decoded, in transformers' format: a folder, or a model on the Hub."""
    embedding_dropout: float = 0.1
    """Fraction of samples trained without image embedding, for classifier-free guidance."""
    caption_dropout: float = 1.0
    """Fraction of samples trained without caption. With 1, the decoder reads the image embedding only; with less, the
    text encoder of --init-from becomes a part of it."""
    min_snr_gamma: float | None = 5.0
    """γ of min-SNR loss weighting; None weights all timesteps equally."""
    cache: str | None = None
    """Folder for cached latents of the images; their embeddings are cached next to it. Default: next to the run, with
    names derived from data, autoencoder and CLIP. 'none' computes both in every step."""
    cached_images: int = 100_000
    """Number of images to cache, and hence to train on."""
    held_out_images: int = 64
    """Number of held-out images for the loss by timestep and the swap test at each checkpoint."""
    data: FineTuningDataConfig = field(default_factory=FineTuningDataConfig)
    model: ModelOptions = field(default_factory=lambda: model_options(ImageProjection))
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_fraction("embedding_dropout", self.embedding_dropout)
        check_real("caption_dropout", self.caption_dropout, most=1.0)
        check_whole("cached_images", self.cached_images)
        check_whole("held_out_images", self.held_out_images, least=2)

    def task(self) -> UnCLIPDecoderTask:
        return UnCLIPDecoderTask(self)


def unclip_decoder(preset: str = "base") -> UnCLIPDecoderRecipe:
    """DALL·E 2's decoder: images from CLIP image embeddings, by a U-Net that starts as that of latent diffusion.

    --image-size 0 uses the pipeline's image size. At each checkpoint it prints the held-out loss by timestep, and the
    loss with the embeddings of other images. Its checkpoints vary, interpolate and change images; a prior
    (unclip-prior) adds prompts.

    base: `t2i train unclip-decoder --mixed-precision bf16`, from toybox/ldm, after clip-toybox
    tiny: `t2i train unclip-decoder --preset tiny`, a minute on two cores, after the tiny ldm-toybox and clip-toybox
    """
    if preset == "tiny":
        steps = {"max_train_steps": 100, "checkpointing_steps": 50, "lr_warmup_steps": 10}
        run = "runs/tiny-unclip-decoder"
        loop = LoopConfig(run, train_batch_size=32, optimizer="muon", learning_rate=2e-3, **steps)
        folders = {"init_from": "runs/tiny-ldm/latest", "clip": "runs/tiny-clip/latest"}
        return UnCLIPDecoderRecipe(**folders, cached_images=2_000, loop=loop)
    steps = {"max_train_steps": 4_000, "checkpointing_steps": 400, "lr_warmup_steps": 50}
    loop = LoopConfig("runs/unclip-decoder", train_batch_size=64, optimizer="muon", learning_rate=2e-3, **steps)
    return UnCLIPDecoderRecipe(loop=loop)


class UnCLIPDecoderTask(FineTuningTask):
    """Fine-tunes a latent diffusion U-Net to decode image embeddings."""

    model: Decoder
    SHOWN = 8

    def __init__(self, recipe: UnCLIPDecoderRecipe):
        pipe = open_start(recipe.init_from)
        objective = objective_of(pipe.scheduler.config, recipe.min_snr_gamma)
        super().__init__(recipe.data, recipe.loop, pipe, objective, recipe.caption_dropout)
        self.reads_captions = recipe.caption_dropout < 1
        self.clip = load_clip(recipe.clip)
        self.fingerprint["clip_sha256"] = digest(self.clip.model)
        self.source, self.held_out = split_held_out(self.source, recipe.held_out_images, needed=True)
        embeddings = self.source
        if recipe.cache != "none":
            folder = recipe.cache and f"{recipe.cache}-embeddings"
            options = (self.data, recipe.loop, folder, recipe.cached_images)
            embeddings = cached_embeddings(self.clip, self.source, *options)
            self.cache_latents(recipe.cache, recipe.cached_images)
            self.source = Joined(self.source, embeddings)
        self.prepare = PrepareEmbedding(self.prepare, recipe.embedding_dropout)
        torch.manual_seed(recipe.loop.seed)  # the same initial weights on every process
        D, null = self.clip.model.config.projection_dim, self.encoder.null()
        _, L, W = null.states.shape
        projection = recipe.model.build(embedding_dim=D, text_width=W, text_length=L)
        projection.no_caption.copy_(null.states[0])
        projection.statistics.fit(some_embeddings(self.clip, embeddings))
        self.model = Decoder(with_embedding(pipe.unet, D).requires_grad_(True), projection)
        use_fast_attention(self.model.unet)

    @property
    def next_command(self) -> str:
        return "t2i train unclip-prior --decoder {run}/latest, with the same --clip, --data and --image-size"

    def loss(
        self, dropped: Tensor, image_embeds: Tensor | None = None, images: Tensor | None = None, **batch: Tensor
    ) -> dict[str, Tensor]:
        """Takes the output of PrepareEmbedding."""
        embeds = self.clip.embed_images(images) if image_embeds is None else image_embeds
        return super().loss(**batch, images=images, image_embeds=embeds, dropped=dropped)

    def text_states(self, mask: Tensor, ids: Tensor | None = None, states: Tensor | None = None) -> Tensor:
        if self.reads_captions:
            return super().text_states(mask, ids, states)
        return self.model.projection.no_caption.expand(len(mask), -1, -1)  # no text is encoded

    # --- scores -----------------------------------------------------------------------------------------------------

    @cached_property
    def held_out_images(self) -> Tensor:
        """uint8 (N, S, S, 3)"""
        return stacked_images(self.held_out[i] for i in range(len(self.held_out)))

    @cached_property
    def held_out_latents(self) -> tuple[Tensor, Tensor]:
        """Latents (N, C, h, w) and image embeddings (N, D)."""
        device = self.model.unet.device
        images, autoencoder = self.held_out_images.to(device), self.autoencoder.to(device)
        latents = torch.cat([latents_of(autoencoder, some)[0] for some in images.split(BATCH)])
        return latents, self.clip.embed_images(images)

    @torch.no_grad()
    def evaluate(self) -> Evaluation:
        """The loss by timestep without captions, also with the embeddings of other images; printed as a table."""
        latents, embeds = self.held_out_latents
        given = {"states": self.model.projection.no_caption.expand(len(embeds), -1, -1), "image_embeds": embeds}
        errors = partial(errors_by_timestep, self.objective, self.model, latents)
        tables = swap_test(errors, given, {"embeddings of others": ("image_embeds",)})
        return printed(scores_of(tables, bins(self.objective.schedule.num_train_timesteps)))

    # --- output -----------------------------------------------------------------------------------------------------

    def pipeline(self) -> UnCLIPPipeline:
        device = self.model.unet.device
        clip = self.clip.to(device)
        read = {"caption_encoder": self.encoder.model.to(device), "caption_tokenizer": self.encoder.tokenizer}
        return UnCLIPPipeline(
            *(clip.model, clip.tokenizer, clip.processor),
            *(self.model.unet, self.model.projection, self.autoencoder.to(device), self.pipe.scheduler),
            **(read if self.reads_captions else {}),
        )

    def preview(self) -> Image.Image:
        """Held-out images, and below each two images of its embedding, always with the same seeds."""
        pipe = self.pipeline()
        pipe.set_progress_bar_config(disable=True)
        originals = self.held_out_images[: self.SHOWN]
        embeds = self.clip.embed_images(originals.to(pipe.device))
        rows = [to_pil(to_tensor(originals))]
        for seed in range(2):
            generators = [torch.Generator().manual_seed(seed) for _ in originals]
            rows.append(pipe(image_embeds=embeds, generator=generators).images)
        captions = [*self.held_out.captions(len(originals)), *[""] * (2 * len(originals))]
        return contact_sheet([image for row in rows for image in row], captions, columns=len(originals))


@dataclass(frozen=True)
class PrepareEmbedding:
    """Prepares a latent diffusion sample and its image embedding, which is dropped with probability `dropout`."""

    latent: PrepareLatent
    dropout: float

    def __call__(self, item: dict, rng: np.random.Generator) -> dict:
        """The output of PrepareLatent; dropped, bool; image_embeds (D,), if cached."""
        sample = self.latent(item, rng) | {"dropped": rng.random() < self.dropout}
        return sample | ({"image_embeds": np.array(item["image_embeds"])} if "image_embeds" in item else {})


def open_start(name: str) -> LatentDiffusionPipeline:
    """The pipeline that a decoder starts from. Raises FileNotFoundError if there is none, ValueError for others."""
    remedy = "give the --init-from of one that `t2i train ldm-toybox` made with a U-Net and CLIP, such as toybox/ldm"
    try:
        pipe = as_latent_diffusion(AutoPipeline.from_pretrained(name), name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no pipeline to start from in {name} ({error}); {remedy}") from error
    if not is_text_to_image(pipe) or not isinstance(pipe.unet, UNet2DConditionModel):
        raise ValueError(
            f"{name} holds {with_article(type(pipe).__name__)} with {with_article(type(pipe.unet).__name__)}: {remedy}"
        )
    if masks_padding(encoder_of(pipe.text_encoder, pipe.tokenizer)):
        raise ValueError(f"{name} has a {type(pipe.text_encoder).__name__}, whose padding is masked: {remedy}")
    return pipe
