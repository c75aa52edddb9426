"""LoRA: fine-tunes a pipeline with low-rank adapters of its attention layers (Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from t2i.checks import check_fraction, check_whole
from t2i.training.config import FineTuningDataConfig, LoopConfig
from t2i.training.recipes.ldm.base import stride_of_denoiser
from t2i.training.recipes.ldm.fine_tuning import FineTuningTask, objective_of, open_unet_pipeline

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")  # diffusers' names of the projections in an attention layer


@dataclass(frozen=True)
class LoraRecipe:
    """Options of `t2i train lora`."""

    pipeline: str = "toybox/ldm"
    """Pipeline to fine-tune: a folder or a model on the Hub, either latent diffusion or Stable Diffusion 1.x or 2.x."""
    rank: int = 8
    """Rank of the adapters."""
    dropout: float = 0.0
    """Dropout probability of the adapters' inputs."""
    cache: str = "none"
    """Folder for cached latents of the images; 'none' computes them in every step."""
    cached_images: int = 10_000
    """Maximum number of images to cache, and then to train on."""
    caption_dropout: float = 0.1
    """Fraction of samples trained without caption, for classifier-free guidance."""
    min_snr_gamma: float | None = 5.0
    """γ of min-SNR loss weighting; None weights all timesteps equally."""
    validation_prompts: tuple[str, ...] = ()
    """Prompts of the images generated at each checkpoint; without any, the first captions of the data."""
    data: FineTuningDataConfig = field(default_factory=FineTuningDataConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        for name in ("rank", "cached_images"):
            check_whole(name, getattr(self, name))
        for name in ("dropout", "caption_dropout"):
            check_fraction(name, getattr(self, name))

    def task(self) -> LoraTask:
        return LoraTask(self)


def lora(preset: str = "base") -> LoraRecipe:
    """LoRA: low-rank adapters of a trained denoiser, in diffusers' format: `pipe.load_lora_weights(folder)`.

    --image-size 0 uses the pipeline's image size.

    base: `t2i train lora --data FOLDER`, images with captions; 6 minutes on one core for toybox/ldm
    tiny: `t2i train lora --preset tiny`, after the tiny ldm-toybox
    """
    if preset == "tiny":
        steps = {"max_train_steps": 50, "checkpointing_steps": 25, "lr_warmup_steps": 5}
        loop = LoopConfig("runs/tiny-lora", train_batch_size=8, learning_rate=1e-3, **steps)
        return LoraRecipe("runs/tiny-ldm/latest", rank=4, loop=loop)
    steps = {"max_train_steps": 1000, "checkpointing_steps": 250, "lr_warmup_steps": 50}
    return LoraRecipe(loop=LoopConfig("runs/lora", train_batch_size=8, learning_rate=1e-4, **steps))


class LoraTask(FineTuningTask):
    """Trains low-rank adapters of a pipeline's denoiser."""

    def __init__(self, recipe: LoraRecipe):
        pipe = open_unet_pipeline(recipe.pipeline, "LoRA")
        objective = objective_of(pipe.scheduler.config, recipe.min_snr_gamma)
        stride = stride_of_denoiser(pipe.unet)
        super().__init__(recipe.data, recipe.loop, pipe, objective, recipe.caption_dropout, stride)
        self.pipeline_name, self.validation_prompts = recipe.pipeline, recipe.validation_prompts
        if recipe.cache != "none":
            self.cache_latents(recipe.cache, recipe.cached_images)
        torch.manual_seed(recipe.loop.seed)  # the same initial weights on every process
        self.model = Adapters(pipe.unet, recipe.rank, recipe.dropout)

    @property
    def next_command(self) -> str:
        return self.generate_command(f"--pipeline {self.pipeline_name} --lora {{run}}/latest")

    def save(self, folder: Path) -> None:
        """Save `pytorch_lora_weights.safetensors`, for `load_lora_weights` in diffusers and in this package."""
        weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(self.pipe.unet))
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=weights)


class Adapters(nn.Module):
    """The adapters of a denoiser as a separate module, which is called like the denoiser.

    Its parameters and state dict are the adapters' only, so that optimizer, averages and checkpoints are small; the
    denoiser, which contains the adapters, follows it to its device and mode.

    Args:
        unet: the denoiser that adapters are added to; all other weights are frozen.
        rank: rank of each adapter; its scale is 1 (α = rank), the default for files without α.
        dropout: dropout probability of the adapters' inputs.
    """

    def __init__(self, unet: UNet2DConditionModel, rank: int, dropout: float = 0.0):
        super().__init__()
        unet.requires_grad_(False)
        config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=dropout, target_modules=list(PROJECTIONS))
        unet.add_adapter(config)
        self._unet = (unet,)  # in a tuple, so that it is not registered as a submodule
        trained = {name.replace(".", "/"): p for name, p in unet.named_parameters() if p.requires_grad}
        self.adapters = nn.ParameterDict(trained)

    @property
    def unet(self) -> UNet2DConditionModel:
        return self._unet[0]

    @property
    def device(self) -> torch.device:
        return self.unet.device

    def forward(self, *args, **kwargs):
        """Same as the denoiser's."""
        return self.unet(*args, **kwargs)

    def train(self, mode: bool = True) -> Adapters:
        self.unet.train(mode)
        return super().train(mode)

    def enable_gradient_checkpointing(self) -> None:
        self.unet.enable_gradient_checkpointing()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Adapters:
        self.unet._apply(fn, recurse)  # the U-Net's parameters include the adapters, the same objects as here
        return self
