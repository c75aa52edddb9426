"""LoRA: a trained latent diffusion taught new pictures by a few small matrices (Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from t2i.data.sources import open_source
from t2i.diffusion.conditioning import encoder_of
from t2i.diffusion.consistency import ConsistencyObjective
from t2i.diffusion.objective import DiffusionObjective
from t2i.diffusion.schedule import NoiseSchedule
from t2i.diffusion.schedulers import of_flow
from t2i.pipelines.latent_diffusion import LatentDiffusionPipeline
from t2i.pipelines.loading.auto import AutoPipeline, as_latent_diffusion
from t2i.processes import this_process
from t2i.text.captions import LOOKED_AT, warn_of_long_captions
from t2i.tokenizers.kl import stride_of
from t2i.training.config import DataConfig, LoopConfig, check_image_size
from t2i.training.latents import cached_latents
from t2i.training.recipes.ldm import LDMStage, PrepareLatent, Tokens
from t2i.weights import digest

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")  # of every attention, diffusers' names


@dataclass(frozen=True)
class LoraRecipe:
    pipeline: str = "toybox/ldm"
    """What is taught: a folder or a model of the Hub, of latent diffusion or Stable Diffusion 1.x or 2.x."""
    rank: int = 8
    """Of each pair of matrices."""
    dropout: float = 0.0
    """Of what the matrices see."""
    cache: str = "none"
    """Folder for the images' latents, computed once; 'none' computes them as the images come."""
    cached_pictures: int = 10_000
    """How many of the data's pictures are cached at most, and then trained on."""
    caption_dropout: float = 0.1
    """Share of samples trained without their text."""
    min_snr_gamma: float | None = 5.0
    """Of min-SNR weighting; None weighs all timesteps alike."""
    validation_prompts: tuple[str, ...] = ()
    """Prompts of the pictures drawn at each checkpoint; by default the first captions of the data."""
    data: DataConfig = field(default_factory=lambda: DataConfig(image_size=0))  # 0: the pipeline's own
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_image_size(self.data.image_size, least=0)
        for name in ("rank", "cached_pictures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("dropout", "caption_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}")

    def stage(self) -> LoraStage:
        return LoraStage(self)


def lora(preset: str = "base") -> LoraRecipe:
    """Small matrices beside a trained denoiser's attention, in diffusers' format: `pipe.load_lora_weights(folder)`.

    An --image-size of 0 is the pipeline's own.

    base: `t2i train lora --pipeline FOLDER --data FOLDER`, pictures with captions in metadata.jsonl
    tiny: `t2i train lora --preset tiny`, after the tiny ldm-toybox
    """
    if preset == "tiny":
        steps = {"max_train_steps": 50, "checkpointing_steps": 25, "lr_warmup_steps": 5}
        loop = LoopConfig("runs/tiny-lora", train_batch_size=8, learning_rate=1e-3, **steps)
        return LoraRecipe("runs/tiny-ldm/latest", rank=4, loop=loop)
    steps = {"max_train_steps": 1000, "checkpointing_steps": 250, "lr_warmup_steps": 50}
    return LoraRecipe(loop=LoopConfig("runs/lora", train_batch_size=8, learning_rate=1e-4, **steps))


class TaughtStage(LDMStage):
    """A whole trained pipeline, of which a stage teaches a part; all else is frozen.

    Args:
        recipe: has data, whose image_size of 0 is the pipeline's own, and loop.
        pipe: what is taught.
        objective: what the denoiser learns.
        caption_dropout: share of samples without their text.
    """

    def __init__(
        self,
        recipe,
        pipe: LatentDiffusionPipeline,
        objective: DiffusionObjective | ConsistencyObjective,
        caption_dropout: float = 0.0,
    ):
        self.recipe, self.pipe, self.objective = recipe, pipe, objective
        self.encoder, self.autoencoder = encoder_of(self.pipe.text_encoder, self.pipe.tokenizer), self.pipe.vae
        self.autoencoder.eval().requires_grad_(False)
        self.encoder.model.requires_grad_(False)
        self.fingerprint = {
            "autoencoder_sha256": digest(self.autoencoder),
            "text_encoder_sha256": self.encoder.key(),
            "denoiser_sha256": digest(self.pipe.unet),
        }
        data, stride = recipe.data, stride_of(self.autoencoder)
        self.image_size = size = data.image_size or self.pipe.image_size
        if size % stride:
            raise ValueError(f"{size} pixels are not divisible by {stride}; give another --image-size")
        self.source = open_source(data.data, size, data.image_column, data.caption_column, recipe.loop.seed)
        warn_of_long_captions(self.source.captions(LOOKED_AT), self.encoder.tokenizer, self.encoder.room)
        shape = (self.autoencoder.config.latent_channels, size // stride, size // stride)
        tokens = Tokens(self.encoder.tokenizer, self.encoder.length)
        self.prepare = PrepareLatent(tokens, caption_dropout, objective, shape)

    def _cache_latents(self, folder: str | None, pictures: int) -> None:
        """Train on latents computed once, of so many images at most; 'none' leaves the source as it is."""
        if folder == "none":
            return
        sized = replace(self.recipe.data, image_size=self.image_size)
        loop = self.recipe.loop
        self.autoencoder.to(this_process().device)
        workers, parent = loop.dataloader_num_workers, Path(loop.output_dir).parent
        self.source = cached_latents(folder, self.source, self.autoencoder, sized, loop.seed, pictures, workers, parent)

    def pipeline(self) -> LatentDiffusionPipeline:
        return self.pipe.to(self.model.device)


class LoraStage(TaughtStage):
    """The adapters beside a pipeline's denoiser."""

    def __init__(self, recipe: LoraRecipe):
        pipe = open_taught(recipe.pipeline, "LoRA")
        objective = objective_of(pipe.scheduler.config, recipe.min_snr_gamma)
        super().__init__(recipe, pipe, objective, recipe.caption_dropout)
        self._cache_latents(recipe.cache, recipe.cached_pictures)
        torch.manual_seed(recipe.loop.seed)  # the same start on every process
        self.model = Adapters(self.pipe.unet, recipe.rank, recipe.dropout)

    @property
    def next_command(self) -> str:
        prompt = shlex.quote(self.first_prompt())
        return f"t2i generate {prompt} --pipeline {self.recipe.pipeline} --lora {{run}}/latest"

    def save(self, folder: Path) -> None:
        """`pytorch_lora_weights.safetensors`, which `load_lora_weights` of diffusers and of our pipeline open."""
        weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(self.pipe.unet))
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=weights)


class Adapters(nn.Module):
    """The adapters of a denoiser as a module of their own, which is called as the denoiser is.

    Its parameters and its state are the adapters' alone, so that optimiser, averages and checkpoints are small; the
    denoiser, which the adapters are part of, follows it to its device and mode.

    Args:
        unet: is given adapters and frozen but for them.
        rank: of each; their scale is 1 (α = rank), which is what readers of the file take where it says nothing.
        dropout: of what they see.
    """

    def __init__(self, unet: UNet2DConditionModel, rank: int, dropout: float = 0.0):
        super().__init__()
        unet.requires_grad_(False)
        config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=dropout, target_modules=list(PROJECTIONS))
        unet.add_adapter(config)
        self._around = (unet,)  # in a tuple, so that it is no part of this module
        found = {name.replace(".", "/"): p for name, p in unet.named_parameters() if p.requires_grad}
        self.adapters = nn.ParameterDict(found)

    @property
    def unet(self) -> UNet2DConditionModel:
        return self._around[0]

    @property
    def device(self) -> torch.device:
        return self.unet.device

    def forward(self, *args, **kwargs):
        """As the denoiser's."""
        return self.unet(*args, **kwargs)

    def train(self, mode: bool = True) -> Adapters:
        self.unet.train(mode)
        return super().train(mode)

    def enable_gradient_checkpointing(self) -> None:
        self.unet.enable_gradient_checkpointing()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Adapters:
        self.unet._apply(fn, recurse)  # the adapters among its parameters are the very ones here
        return self


def objective_of(config: dict, min_snr_gamma: float | None) -> DiffusionObjective:
    """What the denoiser of a scheduler's `config` was trained to do; raises ValueError for one of no known form."""
    if of_flow(config):
        return DiffusionObjective(NoiseSchedule(config["num_train_timesteps"]), "flow")
    return DiffusionObjective(NoiseSchedule.of(config), config["prediction_type"], min_snr_gamma)


def open_taught(name: str, lesson: str) -> LatentDiffusionPipeline:
    """Raises FileNotFoundError for what is no pipeline, ValueError for one that has no U-Net for the `lesson`."""
    pipe = as_latent_diffusion(AutoPipeline.from_pretrained(name), name)
    if not draws_from_words(pipe) or not isinstance(pipe.unet, UNet2DConditionModel):
        kind = type(pipe.unet if draws_from_words(pipe) else pipe).__name__
        raise ValueError(f"{name} holds a {kind}: {lesson} teaches latent diffusion with a U-Net; give its --pipeline")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draws_from_words(pipe: DiffusionPipeline) -> bool:
    """Whether it is latent diffusion whose denoiser takes the latent's channels and no others."""
    return isinstance(pipe, LatentDiffusionPipeline) and pipe.unet.config.in_channels == pipe.vae.config.latent_channels
