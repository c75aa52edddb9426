"""Stage 2 of latent diffusion: the denoiser of an autoencoder's latents, given a text encoder's states."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from t2i.data.sources import open_source
from t2i.devices import fastest_device
from t2i.diffusion.conditioning import masks_padding
from t2i.diffusion.dit import DiT
from t2i.diffusion.objective import DiffusionObjective, Prediction
from t2i.diffusion.schedule import NoiseSchedule
from t2i.files import read_json
from t2i.folders import may_be_on_hub, newest_in_run
from t2i.manifest import verify
from t2i.pipelines.latent_diffusion import LatentDiffusionPipeline
from t2i.pipelines.loading.auto import AutoPipeline, as_latent_diffusion, embedded
from t2i.processes import this_process
from t2i.text.cache import CachedStates, cached_states
from t2i.text.captions import LOOKED_AT, warn_of_long_captions
from t2i.text.encoders import TextEncoder, open_text_encoder
from t2i.tokenizers.kl import stride_of
from t2i.training.config import DataConfig, LoopConfig, check_image_size
from t2i.training.latents import cached_latents, latents_of
from t2i.training.pipeline_stage import PipelineStage
from t2i.training.recipes.prior import TOYBOX_PROMPTS
from t2i.weights import digest, load_model, tokenizer_digest


@dataclass(frozen=True)
class DenoiserConfig:
    denoiser: Literal["unet", "dit"] = "unet"
    """A convolutional U-Net, or a diffusion transformer; plain diffusers.StableDiffusionPipeline opens only a U-Net
    that a CLIP leads and that is no flow."""
    channels: tuple[int, ...] = (96, 128)
    """Of each level of a U-Net, fine to coarse; every level but the first halves the side."""
    layers: int = 1
    """Residual blocks of each level on the way down; on the way up there is one more."""
    attention: tuple[bool, ...] = (False, True)
    """Whether the level attends to the text."""
    head_width: int = 32
    """Of attention, in channels, in both kinds."""
    norm_groups: int = 16
    width: int = 256
    """Of a transformer."""
    depth: int = 4
    patch_size: int = 1

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.attention):
            raise ValueError(f"{len(self.channels)} levels of channels need as many of attention, not {self.attention}")
        for name in ("layers", "head_width", "norm_groups", "width", "depth", "patch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class LDMRecipe:
    autoencoder: str = "runs/kl-toybox/latest"
    """The trained KL autoencoder, from stage 1: its folder, a pipeline's folder, an embedded system, or a model of the
    Hub."""
    text_encoder: str = "runs/clip-toybox/latest"
    """A CLIP or a T5 of transformers: a folder, or a model of the Hub; plain diffusers.StableDiffusionPipeline opens
    only what a CLIP leads."""
    train_text_encoder: bool = False
    """Whether the text encoder learns with the denoiser, as in Rombach et al. 2022, § 3.3; else it is frozen."""
    start_from: str | None = None
    """A pipeline whose denoiser and text encoder the run starts from, such as another run's `latest`."""
    cache: str | None = None
    """Folder for the images' latents, computed once, and beside it one for the captions' states; by default beside the
    run, with a name that tells data and autoencoder apart. 'none' computes both as the images come. The states of a
    text encoder that learns are never cached."""
    cached_pictures: int = 100_000
    """How many of the data's pictures are cached, and so trained on."""
    caption_dropout: float = 0.1
    """Share of samples trained without their text, which is what guidance leads away from."""
    prediction_type: Prediction = "v_prediction"
    """What the denoiser says: the noise, the latent, v = √ᾱ·noise − √(1 − ᾱ)·latent, or a rectified flow's velocity;
    plain diffusers.StableDiffusionPipeline opens no flow."""
    min_snr_gamma: float | None = 5.0
    """Of min-SNR weighting; None weighs all timesteps alike."""
    noise_offset: float = 0.0
    """Standard deviation of noise that is one number a channel."""
    validation_prompts: tuple[str, ...] = ()
    """Prompts of the pictures drawn at each checkpoint; by default the first captions of the data."""
    schedule: NoiseSchedule = field(default_factory=lambda: NoiseSchedule(beta_schedule="squaredcos_cap_v2"))
    data: DataConfig = field(default_factory=DataConfig)
    model: DenoiserConfig = field(default_factory=DenoiserConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_image_size(self.data.image_size)
        if not 0 <= self.caption_dropout < 1:
            raise ValueError(f"caption_dropout must lie in [0, 1), not {self.caption_dropout}")
        if self.cached_pictures < 1:
            raise ValueError(f"cached_pictures must be at least 1, not {self.cached_pictures}")
        self.objective()

    def objective(self) -> DiffusionObjective:
        gamma = None if self.prediction_type == "flow" else self.min_snr_gamma
        return DiffusionObjective(self.schedule, self.prediction_type, gamma, self.noise_offset)

    def stage(self) -> LDMStage:
        return LDMStage(self)


def ldm_toybox(preset: str = "base") -> LDMRecipe:
    """Latent diffusion of 64×64 pictures: a U-Net of 5 M parameters over 8×8 latents, led by a small CLIP.

    The U-Net attends to the text, and to itself, at 4×4 alone: on a CPU that leaves time for half as many samples more.
    The text encoder learns too: frozen, it did not tell the U-Net which of two things is left of the other.

    base: `t2i train ldm-toybox --mixed-precision bf16`, after kl-toybox and clip-toybox
    tiny: `t2i train ldm-toybox --preset tiny`, a minute on two cores after the tiny kl-toybox and clip-toybox
    """
    if preset == "tiny":
        run = "runs/tiny-ldm"
        model = DenoiserConfig(channels=(32, 64))
        steps = {"max_train_steps": 200, "checkpointing_steps": 100, "lr_warmup_steps": 20}
        loop = LoopConfig(run, train_batch_size=32, optimizer="muon", learning_rate=4e-3, **steps)
        parts = {"autoencoder": "runs/tiny-kl/latest", "text_encoder": "runs/tiny-clip/latest"}
        return LDMRecipe(**parts, cached_pictures=2_000, model=model, loop=loop)
    run = "runs/ldm-toybox"
    steps = {"max_train_steps": 6_000, "checkpointing_steps": 300, "lr_warmup_steps": 100}
    loop = LoopConfig(run, train_batch_size=128, optimizer="muon", learning_rate=4e-3, **steps)
    return LDMRecipe(train_text_encoder=True, loop=loop, validation_prompts=TOYBOX_PROMPTS)


class LDMStage(PipelineStage):
    """Latents and captions; the autoencoder is frozen, and the text encoder unless it learns too."""

    def __init__(self, recipe: LDMRecipe):
        data, loop = recipe.data, recipe.loop
        self.recipe, self.objective = recipe, recipe.objective()
        self.encoder = load_text_encoder(recipe.text_encoder)
        self.autoencoder = load_autoencoder(recipe.autoencoder, data.image_size)
        side = data.image_size // stride_of(self.autoencoder)
        shape = (self.autoencoder.config.latent_channels, side, side)
        torch.manual_seed(recipe.loop.seed)  # the same start on every process
        self.model = make_denoiser(recipe.model, shape[0], side, self.encoder.model.config.hidden_size)
        # Before anything is made of the text encoder's weights, its key and the captions' states.
        started = start_from(recipe.start_from, self.model, self.encoder) if recipe.start_from else None
        self.fingerprint = {"autoencoder_sha256": digest(self.autoencoder), "text_encoder_sha256": self.encoder.key()}
        if started:
            self.fingerprint["start_from_sha256"] = started
        self.source = open_source(data.data, data.image_size, data.image_column, data.caption_column, recipe.loop.seed)
        warn_of_long_captions(self.source.captions(LOOKED_AT), self.encoder.tokenizer, self.encoder.room)
        texts = None
        if recipe.cache != "none":
            self.autoencoder.to(this_process().device)
            num, workers, parent = recipe.cached_pictures, loop.dataloader_num_workers, Path(loop.output_dir).parent
            latents = cached_latents(recipe.cache, self.source, self.autoencoder, data, loop.seed, num, workers, parent)
            self.source, where = latents, latents.folder
            if not recipe.train_text_encoder:
                self.encoder.model.to(this_process().device)
                name = f"{where.name}-text" + ("" if recipe.cache else f"-{self.encoder.key()[:12]}")
                texts = cached_states(self.encoder, latents.texts, where.with_name(name))
        tokens = Tokens(self.encoder.tokenizer, self.encoder.length)
        self.prepare = PrepareLatent(texts or tokens, recipe.caption_dropout, self.objective, shape)
        if recipe.train_text_encoder:
            self.model = DenoiserWithTextEncoder(self.model, self.encoder.model)

    @property
    def denoiser(self) -> UNet2DConditionModel | DiT:
        return self.model.denoiser if isinstance(self.model, DenoiserWithTextEncoder) else self.model

    def loss(
        self,
        noise: Tensor,
        timesteps: Tensor,
        mask: Tensor,
        states: Tensor | None = None,
        ids: Tensor | None = None,
        latents: Tensor | None = None,
        images: Tensor | None = None,
        posterior_noise: Tensor | None = None,
        grid: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """See PrepareLatent for what it takes; `grid` (B, K, h, w) is for denoisers that take further channels."""
        if latents is None:
            if self.autoencoder.device != noise.device:
                self.autoencoder.to(noise.device)
            mean, std = latents_of(self.autoencoder, images)
            latents = mean + std * posterior_noise
        if states is None:
            if self.encoder.device != noise.device:
                self.encoder.model.to(noise.device)
            states = self._states(ids, mask)
        seen = mask.bool() if masks_padding(self.encoder) else None
        return self.objective.loss(self.denoiser, latents, noise, timesteps, states, seen, grid)

    def _states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, L) twice -> (B, L, D)"""
        if isinstance(self.model, DenoiserWithTextEncoder):
            return self.encoder.forward(ids, mask)
        # Not in mixed precision: the pipeline's states are not either.
        with torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
            return self.encoder.forward(ids, mask)

    def pipeline(self) -> LatentDiffusionPipeline:
        device = self.denoiser.device
        parts = self.autoencoder.to(device), self.encoder.model.to(device), self.encoder.tokenizer, self.denoiser
        return LatentDiffusionPipeline(*parts, self.objective.scheduler())


class DenoiserWithTextEncoder(nn.Module):
    """A denoiser and the text encoder that learns with it."""

    def __init__(self, denoiser: UNet2DConditionModel | DiT, text_encoder: nn.Module):
        super().__init__()
        self.denoiser, self.text_encoder = denoiser, text_encoder.requires_grad_(True)

    def enable_gradient_checkpointing(self) -> None:
        self.denoiser.enable_gradient_checkpointing()


def start_from(name: str, denoiser: UNet2DConditionModel | DiT, encoder: TextEncoder) -> str:
    """Give a denoiser and a text encoder the weights of a pipeline; returns the digest of both.

    Raises FileNotFoundError for no pipeline, ValueError for one of other sizes or with another tokenizer.
    """
    pipe = as_latent_diffusion(AutoPipeline.from_pretrained(name), name)
    if tokenizer_digest(pipe.tokenizer) != tokenizer_digest(encoder.tokenizer):
        raise ValueError(
            f"{name} has another tokenizer than {encoder.name}, so that the weights would mean other words; give the "
            "--text-encoder that it was trained with, or leave --start-from out"
        )
    for own, given in ((denoiser, pipe.unet), (encoder.model, pipe.text_encoder)):
        try:
            own.load_state_dict(given.state_dict())
        except RuntimeError as error:
            raise ValueError(
                f"{name} has a {type(given).__name__} of other sizes than this recipe's; leave --start-from out, or "
                "give the sizes it has"
            ) from error
    return hashlib.sha256("\n".join(map(digest, (pipe.unet, pipe.text_encoder))).encode()).hexdigest()


@dataclass(frozen=True)
class Tokens:
    """A text as what the encoder takes."""

    tokenizer: PreTrainedTokenizerBase
    length: int

    def __call__(self, text: str) -> dict:
        """-> ids (L,), mask (L,)"""
        how = {"padding": "max_length", "truncation": True, "max_length": self.length, "return_tensors": "np"}
        tokens = self.tokenizer(text, **how)
        return {"ids": tokens["input_ids"][0], "mask": tokens["attention_mask"][0]}


@dataclass(frozen=True)
class PrepareLatent:
    """Latent and caption, the caption left out in a share `dropout` of the samples, and the chance of the sample."""

    texts: Tokens | CachedStates
    dropout: float
    objective: DiffusionObjective
    shape: tuple[int, int, int]

    def __call__(self, item: dict, rng: np.random.Generator) -> dict:
        """-> noise (C, h, w), timesteps, mask (L,); states (L, D), or without a cache ids (L,); latents (C, h, w), or
        without a cache images, uint8 (S, S, 3), and posterior_noise (C, h, w), by which their latents are drawn.
        """
        text = "" if rng.random() < self.dropout else item["text"]
        if isinstance(self.texts, Tokens):
            sample = self.texts(text)
        else:
            found = self.texts.encode([text])
            sample = {"states": found.states[0], "mask": found.mask[0].long()}
        drawn = rng.standard_normal(self.shape, dtype=np.float32)
        if "mean" in item:
            sample["latents"] = item["mean"].astype(np.float32) + item["std"].astype(np.float32) * drawn
        else:
            sample |= {"images": item["image"], "posterior_noise": drawn}
        return sample | self.objective.draw(self.shape, rng)


def make_denoiser(
    config: DenoiserConfig, latent_channels: int, side: int, text_width: int
) -> UNet2DConditionModel | DiT:
    """A new denoiser of latents (B, latent_channels, side, side)."""
    ends = {"sample_size": side, "in_channels": latent_channels, "cross_attention_dim": text_width}
    if config.denoiser == "dit":
        heads = config.width // config.head_width
        return DiT(**ends, patch_size=config.patch_size, width=config.width, depth=config.depth, heads=heads)
    unet = UNet2DConditionModel(
        **ends,
        out_channels=latent_channels,
        block_out_channels=config.channels,
        layers_per_block=config.layers,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in config.attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(config.attention)),
        attention_head_dim=tuple(c // config.head_width for c in config.channels),  # diffusers' name for their number
        norm_num_groups=config.norm_groups,
        use_linear_projection=True,
    )
    if fastest_device() == "cpu":  # where the fused kernel is slow for so few positions, backwards above all
        unet.set_attn_processor(AttnProcessor())
    return unet


def load_text_encoder(name: str) -> TextEncoder:
    """The frozen text encoder. Raises FileNotFoundError with the command that makes what is missing."""
    if not Path(name).exists() and not may_be_on_hub(name, bare=True):
        kind = "t5" if "t5" in name else "clip"
        raise FileNotFoundError(
            f"there is no text encoder in {name}; make one with: t2i train {kind}-toybox"
            f"{' --preset tiny' if 'tiny' in name else ''}, and give its folder with --text-encoder"
        )
    return open_text_encoder(name)


def load_autoencoder(name: str, image_size: int) -> AutoencoderKL:
    """The frozen stage 1: in its own folder or a pipeline's, of an embedded system, or a model of the Hub.

    Raises FileNotFoundError or ValueError with the command that makes what is missing.
    """
    remedy = "make one with: t2i train kl-toybox, and give its folder with --autoencoder"
    folder = newest_in_run(embedded().get(name, Path(name)), "model_index.json")
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
            says = str(error).splitlines()[0]
            raise FileNotFoundError(f"there is no autoencoder in {name}; {remedy}. The Hub says: {says}") from error
    if kind != "AutoencoderKL":
        raise ValueError(f"{name} holds a {kind}, not an AutoencoderKL; {remedy}")
    autoencoder = load_model(AutoencoderKL, folder) if local else AutoencoderKL.from_pretrained(name).eval()
    autoencoder.requires_grad_(False)
    if image_size % stride_of(autoencoder):
        raise ValueError(f"{image_size} pixels are not divisible by the autoencoder's {stride_of(autoencoder)}")
    return autoencoder.to(memory_format=torch.channels_last)
