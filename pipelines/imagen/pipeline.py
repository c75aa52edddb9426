"""Text to image by diffusion in pixels: a base model and super-resolution models, all conditioned on the states of one
text encoder (Imagen, Saharia et al. 2022, arXiv 2205.11487).

Shapes: n images · R rows of a batch · L text positions · D width of the text states · s side of a low-resolution image
S side of a stage's images
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2i.checks import check_options
from t2i.diffusion.conditioning import Conditioning, concat_grid, encoder_of
from t2i.diffusion.efficient_unet import EfficientUNet
from t2i.diffusion.guidance import Guidance, Threshold, dynamic_threshold, static_threshold, threshold_prediction
from t2i.diffusion.noise_augmentation import condition_on, upsample
from t2i.diffusion.schedulers import new_sampler, step_options, warn_of_eta
from t2i.images import as_output
from t2i.pipelines.codes import check_inputs
from t2i.pipelines.generators import Generators, own_each
from t2i.pipelines.latent_diffusion.batches import batch_bytes, denoising_batches
from t2i.text.bpe import warn_of_unknown_words

logger = logging.getLogger(__name__)
Thresholding = Literal["dynamic", "static", "none"]
PERCENTILE, AUGMENTATION_LEVEL = 0.995, 0.1  # where a call gives none


@dataclass
class ImagenPipelineOutput(BaseOutput):
    """
    Args:
        images: by `output_type`, a list of PIL images, an array (n, S, S, 3) or a tensor (n, 3, S, S) in [0, 1].
    """

    images: list[Image.Image] | np.ndarray | Tensor


@dataclass(frozen=True)
class Stage:
    """A model of the cascade, and how a call samples with it.

    Attributes:
        config: that of the model's own scheduler, with its noise schedule and prediction type.
        make_sampler: makes a sampler for a batch.
        augmentation_level: noise level of the low-resolution images; None for the base model.
    """

    unet: EfficientUNet
    config: Mapping[str, Any]
    make_sampler: Callable[[], SchedulerMixin]
    num_inference_steps: int
    guidance: Guidance
    augmentation_level: float | None

    @property
    def size(self) -> int:
        """S"""
        return self.unet.config.sample_size


class ImagenPipeline(DiffusionPipeline):
    """Args:
    text_encoder, tokenizer: T5 or CLIP. The states of padding are masked.
    unet: the base model.
    scheduler: its sampler, whose config holds the model's prediction type.
    sr_unet, sr_scheduler: super-resolution of the base model's images; None for a base model alone.
    sr_unet_2, sr_scheduler_2: super-resolution of the images of `sr_unet`.

    `max_batch_bytes` limits the memory of a batch's activations, approximately: more images than fit are generated in
    several batches. By default 1 GiB, on CUDA half of the free memory.

    Raises ValueError for models that do not follow each other.
    """

    model_cpu_offload_seq = "text_encoder->unet->sr_unet->sr_unet_2"
    _optional_components: ClassVar[list[str]] = ["sr_unet", "sr_scheduler", "sr_unet_2", "sr_scheduler_2"]
    _callback_tensor_inputs: tuple[str, ...] = ("images",)

    def __init__(
        self,
        text_encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        unet: EfficientUNet,
        scheduler: SchedulerMixin,
        sr_unet: EfficientUNet | None = None,
        sr_scheduler: SchedulerMixin | None = None,
        sr_unet_2: EfficientUNet | None = None,
        sr_scheduler_2: SchedulerMixin | None = None,
    ):
        super().__init__()
        _check_cascade(text_encoder, (unet, scheduler), (sr_unet, sr_scheduler), (sr_unet_2, sr_scheduler_2))
        self.register_modules(
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            sr_unet=sr_unet,
            sr_scheduler=sr_scheduler,
            sr_unet_2=sr_unet_2,
            sr_scheduler_2=sr_scheduler_2,
        )
        self.max_batch_bytes: int | None = None
        self._interrupt = False  # under diffusers' name, for callbacks

    @property
    def cascade(self) -> list[tuple[EfficientUNet, SchedulerMixin]]:
        """The models and their samplers, the base model first."""
        unets = self.unet, self.sr_unet, self.sr_unet_2
        schedulers = self.scheduler, self.sr_scheduler, self.sr_scheduler_2
        return [(unet, sampler) for unet, sampler in zip(unets, schedulers, strict=True) if unet is not None]

    @property
    def image_size(self) -> int:
        """Side of the images of the last stage."""
        return self.cascade[-1][0].config.sample_size

    @property
    def interrupt(self) -> bool:
        """Whether the call is to stop; callbacks may set `pipe._interrupt`. Images stay as noisy as they are."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | Sequence[int] = 20,
        guidance_scale: float | Sequence[float] = 3.0,
        thresholding: Thresholding | Sequence[Thresholding] = "dynamic",
        percentile: float | Sequence[float] | None = None,
        augmentation_level: float | Sequence[float] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Generators = None,
        scheduler: str | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[ImagenPipeline, int, Tensor, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("images",),
    ) -> ImagenPipelineOutput | tuple:
        """Generate `num_images_per_prompt` images of each prompt, those of the first prompt first.

        What is marked "per stage" is one value for all stages, or a list with one for each, the base model's first.

        Args:
            prompt: one or more prompts.
            negative_prompt: prompts to steer away from; by default the empty prompt.
            height, width: in pixels; only the size of the last stage's images, the default, is valid.
            num_inference_steps: number of sampling steps, per stage.
            guidance_scale: scale of classifier-free guidance, per stage. Up to 1 there is none, at half the cost;
                higher follows the prompt more closely.
            thresholding: how predicted images are kept in [-1, 1] at each step, per stage: "static" clips them;
                "dynamic" clips each to a percentile of its absolute values, which it scales to 1 if it is larger,
                against the over-saturation of strong guidance; "none" does neither.
            percentile: of dynamic thresholding, from 0 to 1, per stage; by default 0.995.
            augmentation_level: noise level of the low-resolution images, from 0 (none) to 1 (nothing else), of all
                super-resolution stages or a list with one for each; by default 0.1. With more noise, a stage relies
                less on the details of the stage before.
            eta: noise of DDIM sampling: 0 adds none, 1 as much as DDPM.
            generator: one per image, which then depends on no other; or one, which seeds one per image.
            scheduler: another sampler for all stages of this call, by its name in `t2i.diffusion.schedulers`.
            output_type: "pil", "np" or "pt".
            callback_on_step_end: called as f(pipe, step, timestep, tensors) after each step with the rows of the
                current batch; "images" that it returns replace them. Steps are counted over all stages.
            callback_on_step_end_tensor_inputs: the tensors it gets: "images" (R, 3, S, S), as noisy as they are.

        Raises ValueError, with the remedy, for invalid arguments, and FloatingPointError for images that are not
        finite.
        """
        size, device = self.image_size, self._execution_device
        prompts, negatives = check_inputs(prompt, negative_prompt, height, width, size, output_type)
        check_options({"num_images_per_prompt": num_images_per_prompt, "eta": eta})
        tensor_names = getattr(callback_on_step_end, "tensor_inputs", callback_on_step_end_tensor_inputs)
        self._check_outputs(output_type, tensor_names)
        options = (num_inference_steps, guidance_scale, thresholding, percentile, augmentation_level)
        stages = self._stages(scheduler, *options)
        _warn_of_ineffective(stages, negative_prompt is not None, eta)
        n = len(prompts) * num_images_per_prompt
        generators = own_each(generator, n)
        guided = any(stage.guidance.guided for stage in stages)
        text, negative_text = self._encode(prompts), self._encode(negatives) if guided else None
        images = torch.zeros(n, 3, size, size, device=device, dtype=self.unet.dtype)
        self._interrupt = False

        max_bytes = batch_bytes(device, self.max_batch_bytes)
        batches = list(denoising_batches(stages[-1].unet, images, guided, max_bytes))
        num_steps = sum(stage.num_inference_steps for stage in stages)
        with self.progress_bar(total=num_steps * len(batches)) as bar:
            for rows in batches:
                own = generators and generators[rows]
                new_noise = partial(_noise, images[rows], own)
                prompt_of_row = torch.arange(n)[rows] // num_images_per_prompt  # (R,)
                x, step = None, 0
                for stage in stages:
                    grid = x  # what the stage before has generated, (R, 3, s, s)
                    if grid is not None:
                        levels = torch.full((len(grid),), stage.augmentation_level)
                        grid = condition_on(grid, new_noise(grid.shape[-1]), levels, stage.size)  # (R, 3, S, S)
                    given = replace(text[prompt_of_row], grid=grid)
                    if stage.guidance.guided:
                        given = Conditioning.stack(replace(negative_text[prompt_of_row], grid=grid), given)
                    sampler = stage.make_sampler()
                    options = step_options(sampler, eta, own)
                    x = new_noise(stage.size) * getattr(sampler, "init_noise_sigma", 1.0)  # (R, 3, S, S)
                    for i, t in enumerate(sampler.timesteps):
                        predicted = _predict(stage, sampler, x, t, given)
                        x = sampler.step(predicted, t, x, **options, return_dict=False)[0]
                        if callback_on_step_end is not None:
                            tensors = {name: x for name in tensor_names}
                            x = (callback_on_step_end(self, step, t, tensors) or {}).get("images", x)
                        step += 1
                        if (i + 1) % sampler.order == 0 or i + 1 == len(sampler.timesteps):
                            bar.update()
                        if self._interrupt:
                            break
                    x = x.clamp(-1, 1)
                    if self._interrupt:
                        break
                images[rows] = upsample(x, size)  # which they are of, except for an interrupted call
                if self._interrupt:
                    break

        _check_finite(images)
        images = as_output(images, output_type)
        self.maybe_free_model_hooks()
        return ImagenPipelineOutput(images=images) if return_dict else (images,)

    def _stages(
        self, scheduler: str | None, steps: Any, scales: Any, thresholding: Any, percentile: Any, levels: Any
    ) -> list[Stage]:
        """The stages of a call. Raises ValueError for options that are out of range, or not one for each stage."""
        count = len(self.cascade)
        if levels is not None and count == 1:
            logger.warning("augmentation_level has no effect on a base model alone: leave it out")
        levels = AUGMENTATION_LEVEL if levels is None or count == 1 else levels
        options = zip(
            self.cascade,
            _per_stage("num_inference_steps", steps, count),
            _per_stage("guidance_scale", scales, count),
            _per_stage("thresholding", thresholding, count),
            _per_stage("percentile", percentile, count),
            [None, *_per_stage("augmentation_level", levels, count - 1, "super-resolution stages")],
            strict=True,
        )
        device = self._execution_device
        return [
            Stage(
                unet,
                own.config,
                partial(new_sampler, own, scheduler, num_inference_steps, device),
                num_inference_steps,
                Guidance(scale, threshold=_threshold(kind, p)),
                level,
            )
            for (unet, own), num_inference_steps, scale, kind, p, level in options
        ]

    def _encode(self, prompts: list[str]) -> Conditioning:
        """The states of the prompts (prompts, L, D), and their mask."""
        warn_of_unknown_words(self.tokenizer, prompts)
        distinct = list(dict.fromkeys(prompts))
        out = encoder_of(self.text_encoder, self.tokenizer).encode(distinct)
        text = Conditioning(out.states.to(self.unet.dtype), out.mask)
        return text[torch.tensor([distinct.index(prompt) for prompt in prompts])]

    def _check_outputs(self, output_type: str, tensor_names: Sequence[str]) -> None:
        if output_type == "latent":
            raise ValueError("this pipeline generates pixels, not latents: choose the output_type pil, np or pt")
        if unknown := set(tensor_names) - set(self._callback_tensor_inputs):
            raise ValueError(f"no tensor {unknown.pop()!r} for callbacks: there are {self._callback_tensor_inputs}")


def _predict(stage: Stage, sampler: SchedulerMixin, x: Tensor, t: Tensor, given: Conditioning) -> Tensor:
    """The prediction of a stage's model at x (R, 3, S, S), guided and thresholded: the same shape.

    Args:
        given: of R rows; with guidance 2R, those without the prompt first.
    """
    scaled = sampler.scale_model_input(x, t) if hasattr(sampler, "scale_model_input") else x
    both = torch.cat([scaled, scaled]) if stage.guidance.guided else scaled
    both = concat_grid(both, given.grid)  # (2R, 3 or 6, S, S)
    predicted = stage.unet(both, t, given.states, given.mask, stage.augmentation_level).sample
    if stage.guidance.guided:
        unconditional, conditional = predicted.chunk(2)
        predicted = stage.guidance(conditional, unconditional)
    if stage.guidance.threshold is None:
        return predicted
    return threshold_prediction(stage.config, predicted, scaled, t, stage.guidance.threshold)


def _noise(like: Tensor, generators: list[torch.Generator] | None, size: int) -> Tensor:
    """Noise (R, 3, size, size), each row from its own generator, with the device and dtype of `like` (R, …)."""
    shape = (len(like), 3, size, size)
    return randn_tensor(shape, generator=generators, device=like.device, dtype=like.dtype)


def _check_finite(images: Tensor) -> None:
    """Raise FloatingPointError for images that are not finite."""
    if not images.isfinite().all():
        raise FloatingPointError(
            f"the images are not finite in {images.dtype}: lower the guidance_scale, or open the pipeline in float32; "
            "or else the weights are damaged"
        )


def _threshold(kind: Thresholding, percentile: float | None) -> Threshold | None:
    if kind not in get_args(Thresholding):
        raise ValueError(f"unknown thresholding {kind!r}: choose one of {', '.join(get_args(Thresholding))}")
    if kind == "dynamic":
        return partial(dynamic_threshold, percentile=PERCENTILE if percentile is None else percentile)
    if percentile is not None:
        raise ValueError(f"a percentile belongs to dynamic thresholding, not to {kind!r}: leave it out")
    return static_threshold if kind == "static" else None


def _per_stage(name: str, given: Any, count: int, stages: str = "stages") -> list:
    """One value for each of the stages. Raises ValueError for another number of them, and for values out of range."""
    values = list(given) if isinstance(given, (list, tuple)) else [given] * count
    if len(values) != count:
        raise ValueError(f"{name} has {len(values)} values for {count} {stages}: give one for all, or one for each")
    for value in values:
        check_options({name: value})
    return values


def _check_cascade(text_encoder: PreTrainedModel, *cascade: tuple[EfficientUNet | None, SchedulerMixin | None]) -> None:
    """Raise ValueError for models that were not trained for each other, naming the command that trains one that is."""
    width, below = text_encoder.config.hidden_size, None
    for (unet, scheduler), name in zip(cascade, ("unet", "sr_unet", "sr_unet_2"), strict=True):
        if (unet is None) != (scheduler is None):
            raise ValueError(f"the {name} and its scheduler belong together: give both or neither")
        if unet is None:
            continue
        if unet.config.cross_attention_dim != width:
            raise ValueError(
                f"the {name} attends to text states of width {unet.config.cross_attention_dim}, the text encoder's "
                f"have {width}: they were not trained together"
            )
        if below is None and unet.config.low_resolution is not None:
            raise ValueError(
                "the unet is a super-resolution model: train a base model with t2i train imagen-base, and give this "
                "one as sr_unet"
            )
        if below is not None and unet.config.low_resolution != below:
            takes = unet.config.low_resolution
            what = "no low-resolution image" if takes is None else f"images of {takes}×{takes}"
            raise ValueError(
                f"the {name} takes {what}, the stage before generates {below}×{below}: train one with t2i train "
                "imagen-sr --base FOLDER"
            )
        below = unet.config.sample_size


def _warn_of_ineffective(stages: list[Stage], negative: bool, eta: float) -> None:
    """Log a warning for each argument that has no effect in a call."""
    if negative and not any(stage.guidance.guided for stage in stages):
        logger.warning("negative_prompt has no effect without guidance: give a guidance_scale above 1, or leave it out")
    samplers = [stage.make_sampler() for stage in stages] if eta > 0 else []
    for sampler in {type(sampler): sampler for sampler in samplers}.values():
        warn_of_eta(sampler, eta)
