"""Stage 2 of Imagen: super-resolution of the base model's images, with noise conditioning augmentation."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from t2i.diffusion.conditioning import encoder_of
from t2i.notes import with_article
from t2i.pipelines.imagen import ImagenPipeline
from t2i.pipelines.loading.auto import AutoPipeline
from t2i.training.config import LoopConfig
from t2i.training.recipes.imagen.task import PixelDiffusionTask, PixelRecipe, unet_options
from t2i.training.recipes.toybox import TOYBOX_V1_PROMPTS
from t2i.weights import digest


@dataclass(frozen=True)
class ImagenSRRecipe(PixelRecipe):
    """Options of `t2i train imagen-sr`."""

    base: str = "runs/imagen-base/latest"
    """Imagen pipeline whose images are enlarged, to --image-size: a base model, or a cascade with one super-resolution
    model, to which a second one is added. Its text encoder is used, frozen."""

    def task(self) -> ImagenSRTask:
        return ImagenSRTask(self)


def imagen_sr(preset: str = "base") -> ImagenSRRecipe:
    """Imagen's super-resolution: from the base model's image and the text to an image of --image-size.

    Trained on scaled images with noise of a random level, which the model is told (noise conditioning augmentation).
    Every checkpoint is the whole cascade.

    base: `t2i train imagen-sr --mixed-precision bf16`, after imagen-base
    tiny: `t2i train imagen-sr --preset tiny`, a minute on two cores, after the tiny imagen-base
    """
    if preset == "tiny":
        sizes = {"block_out_channels": (16, 32, 64), "layers_per_block": (1, 1, 1), "head_width": 16}
        model = unet_options(**sizes, cross_attention=(False, False, True), self_attention=(False, False, False))
        steps = {"max_train_steps": 300, "checkpointing_steps": 150, "lr_warmup_steps": 20}
        loop = LoopConfig("runs/tiny-imagen-sr", train_batch_size=16, optimizer="muon", learning_rate=4e-3, **steps)
        small = {"cached_images": 2_000, "held_out_images": 64, "base": "runs/tiny-imagen-base/latest"}
        return ImagenSRRecipe(**small, model=model, loop=loop)
    sizes = {"block_out_channels": (32, 64, 128), "layers_per_block": (1, 2, 3)}
    model = unet_options(**sizes, cross_attention=(False, False, True), self_attention=(False, False, False))
    steps = {"max_train_steps": 6_000, "checkpointing_steps": 500, "lr_warmup_steps": 100}
    loop = LoopConfig("runs/imagen-sr", train_batch_size=32, optimizer="muon", learning_rate=4e-3, **steps)
    return ImagenSRRecipe(cached_images=30_000, model=model, loop=loop, validation_prompts=TOYBOX_V1_PROMPTS)


class ImagenSRTask(PixelDiffusionTask):
    """Trains a new super-resolution model; the stages before it are frozen."""

    def __init__(self, recipe: ImagenSRRecipe):
        self.base = load_base(recipe.base)
        small, size = self.base.image_size, recipe.data.image_size
        if size <= small or size % small:
            raise ValueError(f"image_size must be a multiple of {small}, which {recipe.base} generates, not {size}")
        for part in (self.base.text_encoder, *(unet for unet, _ in self.base.cascade)):
            part.requires_grad_(False)
        super().__init__(recipe, encoder_of(self.base.text_encoder, self.base.tokenizer), size, small)
        self.fingerprint["base_sha256"] = " ".join(digest(unet) for unet, _ in self.base.cascade)
        torch.manual_seed(recipe.loop.seed)  # the same initial weights on every process
        width = self.base.text_encoder.config.hidden_size
        self.model = recipe.model.build(size, width, low_resolution=small)

    def pipeline(self) -> ImagenPipeline:
        """The whole cascade."""
        suffix = "" if self.base.sr_unet is None else "_2"
        stage = {f"sr_unet{suffix}": self.model, f"sr_scheduler{suffix}": self.objective.scheduler()}
        return ImagenPipeline(**self.base.components | stage).to(self.model.device)


def load_base(name: str) -> ImagenPipeline:
    """The stages before. Raises FileNotFoundError or ValueError with the command that trains them."""
    tiny = " --preset tiny" if "tiny" in name else ""
    remedy = f"make one with: t2i train imagen-base{tiny}, and give its folder with --base"
    try:
        pipe = AutoPipeline.from_pretrained(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no Imagen pipeline in {name} ({error}); {remedy}") from error
    if not isinstance(pipe, ImagenPipeline):
        raise ValueError(f"{name} holds {with_article(type(pipe).__name__)}, not an ImagenPipeline; {remedy}")
    if pipe.sr_unet_2 is not None:
        raise ValueError(f"{name} has two super-resolution models already, the most there can be; {remedy}")
    return pipe
