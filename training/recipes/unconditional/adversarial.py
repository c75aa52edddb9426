"""Recipes of generative adversarial networks, whose checkpoints are compared by Fréchet distance."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from t2i.eval.evaluators.unconditional import features, sample
from t2i.eval.features import RandomExtractor
from t2i.eval.metrics import frechet_distance
from t2i.models.adversarial.gan import GAN
from t2i.models.base import from_levels
from t2i.training.config import LoopConfig
from t2i.training.model_options import ModelOptions, model_options
from t2i.training.recipes.unconditional.base import UnconditionalRecipe, base_loop, tiny_loop
from t2i.training.unconditional import UnconditionalDataConfig, UnconditionalTask


@dataclass(frozen=True)
class GANRecipe(UnconditionalRecipe):
    """Options of the recipes of GANs."""

    data: UnconditionalDataConfig = field(default_factory=lambda: UnconditionalDataConfig(patience=0))

    def __post_init__(self) -> None:
        if self.model.discriminator_steps > 1 < self.loop.gradient_accumulation_steps:
            raise ValueError(
                f"the generator is updated every {self.model.discriminator_steps} forward passes, so a step cannot "
                f"accumulate {self.loop.gradient_accumulation_steps} of them: set --gradient-accumulation-steps 1"
            )

    def task(self) -> GANTask:
        return GANTask(self.data, self.model, self.loop, self.conditional)


class GANTask(UnconditionalTask):
    """Selects the best checkpoint by Fréchet distance, since GAN losses do not measure sample quality.

    The loss used for selection is the Fréchet distance between samples (always from the same latents) and held-out
    images, on features of convolutions with fixed random weights. It ranks checkpoints of one run, is not an FID, and
    depends on the number of images.
    """

    SAMPLED = 256  # maximum number of samples; never more than there are images

    def __init__(self, data: UnconditionalDataConfig, model: ModelOptions, loop: LoopConfig, conditional: bool):
        super().__init__(data, model, loop, conditional)
        self.find_unused_parameters = model.discriminator_steps > 1
        if min(len(self.validation[1]), len(self.test[1])) < 2:
            raise ValueError("a distance between sets needs at least 2 images of each: set --scored and --validation")

    @torch.no_grad()
    def score(self, held_out: tuple[Tensor, Tensor]) -> dict:
        """`loss`: the Fréchet distance of samples to these images (with their labels, if any)."""
        with torch.random.fork_rng(devices=[]):  # leaves the run's random state unchanged
            extractor = RandomExtractor(device=str(self.model.device))
        real = from_levels(held_out[0], self.model.levels)
        made, _ = sample(self.model, min(self.SAMPLED, len(real)), held_out[1])
        distance = frechet_distance(features(extractor, made), features(extractor, real))
        return {"kind": self.model.likelihood, "pictures": len(real), "samples": len(made), "loss": distance}


def _loop(name: str, tiny: bool, adam_beta1: float = 0.0) -> LoopConfig:
    """Adam with little momentum or, as in the papers of WGAN-GP and SNGAN, none: with more, the two networks oscillate.

    Gradients are hardly clipped: the norm is that of both networks, and the larger would scale down the other's.
    """
    loop = tiny_loop(name, 1e-3) if tiny else base_loop(name, 2e-4)
    loop = replace(loop, adam_beta1=adam_beta1, lr_scheduler="constant", lr_warmup_steps=0, max_grad_norm=1e3)
    return replace(loop, max_train_steps=400, checkpointing_steps=200) if tiny else loop


def _sizes(tiny: bool) -> dict[str, int]:
    return {"latent_dim": 16, "width": 32} if tiny else {}


def gan(preset: str = "base") -> GANRecipe:
    """Generative adversarial network with DCGAN's architecture; --loss-kind selects another loss.

    base: `t2i train gan --data FOLDER`, for images of 28×28 such as MNIST's
    tiny: `t2i train gan --preset tiny`, 8×8 digits, half a minute on one core
    """
    tiny = preset == "tiny"
    return GANRecipe(model_options(GAN, **_sizes(tiny)), loop=_loop("gan", tiny, adam_beta1=0.5))


def wgan_gp(preset: str = "base") -> GANRecipe:
    """Wasserstein GAN with gradient penalty: several critic updates per generator update.

    base: `t2i train wgan-gp --data FOLDER`, for images of 28×28 such as MNIST's
    tiny: `t2i train wgan-gp --preset tiny`, 8×8 digits, half a minute on one core
    """
    tiny = preset == "tiny"
    sizes = _sizes(tiny) | {"gradient_penalty": 10.0, "discriminator_steps": 2 if tiny else 5}
    return GANRecipe(model_options(GAN, loss_kind="wasserstein", **sizes), loop=_loop("wgan-gp", tiny))


def sngan(preset: str = "base") -> GANRecipe:
    """Class-conditional GAN with spectral normalisation, hinge loss, conditional norms and a projection discriminator.

    base: `t2i train sngan --data FOLDER`, for images of 28×28 such as MNIST's
    tiny: `t2i train sngan --preset tiny`, 8×8 digits, half a minute on one core
    """
    tiny = preset == "tiny"
    model = model_options(GAN, loss_kind="hinge", spectral_norm=True, **_sizes(tiny))
    return GANRecipe(model, conditional=True, loop=_loop("sngan", tiny))
