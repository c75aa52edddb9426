"""Super-resolution, and label maps to images, with denoisers that take the condition as further input channels (Rombach
et al. 2022, arXiv 2112.10752, § 4.3.2 and 4.4).

Shapes: n images or maps · f factor · H, W image · K further input channels · C, h, w latent
"""

from __future__ import annotations

from collections.abc import Sequence

from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2i.diffusion.dit import DiT
from t2i.diffusion.grid_conditions import LabelMap, LowResolution
from t2i.pipelines.latent_diffusion.inputs import Images, check_size, read_images, read_label_maps
from t2i.pipelines.latent_diffusion.pipeline import LatentDiffusionPipeline, LatentDiffusionPipelineOutput
from t2i.pipelines.latent_diffusion.signatures import takes_options_of
from t2i.tokenizers.kl import stride_of


class _Conditioned(LatentDiffusionPipeline):
    """Base class: a denoiser with K further input channels."""

    @property
    def _condition_channels(self) -> int:
        """K"""
        return self.unet.config.in_channels - self.vae.config.latent_channels

    def _generate(self, prompt, grid: Tensor, options: dict) -> LatentDiffusionPipelineOutput | tuple:
        """Text to image, each prompt conditioned on its row of the grid (n, K, h, w), or all on the only one."""
        prompts = self._count_prompts(prompt, options.get("prompt_embeds"))
        if len(grid) not in (1, prompts):
            raise ValueError(f"give one image or map, or one for each prompt: there are {len(grid)} for {prompts}")
        grid = grid.to(self._execution_device, self.unet.dtype).expand(prompts, -1, -1, -1)
        height, width = size = [side * stride_of(self.vae) for side in grid.shape[2:]]
        check_size(size, options)
        return super().__call__(prompt, height, width, grid=grid, **options)


class LatentDiffusionUpscalePipeline(_Conditioned):
    """Super-resolution: a low-resolution image, and optionally a prompt → the image `factor` times as large.

    Components as LatentDiffusionPipeline's, but the denoiser takes 3·(stride / factor)² further channels, the
    low-resolution image; the factor follows from their number.
    """

    @property
    def condition(self) -> LowResolution:
        return LowResolution.of(self._condition_channels, stride_of(self.vae))

    @property
    def factor(self) -> int:
        """The result's sides as multiples of the image's."""
        return self.condition.factor

    def _check_channels(self, in_channels: int, vae: AutoencoderKL) -> None:
        further = in_channels - vae.config.latent_channels
        if LowResolution.of(further, stride_of(vae)) is None:
            raise ValueError(
                f"the denoiser takes {further} extra input channels, which fit no low-resolution image; train "
                "one with: t2i train upscale-toybox"
            )

    @takes_options_of(LatentDiffusionPipeline.__call__, without=("start", "grid"))
    def __call__(
        self, prompt: str | Sequence[str] | None = None, image: Images | None = None, **options
    ) -> LatentDiffusionPipelineOutput | tuple:
        """Generate `num_images_per_prompt` upscaled images per prompt.

        Args:
            prompt: what the images show, as in LatentDiffusionPipeline. Without prompts guidance_scale is 1 by default.
            image: one, or one per prompt: PIL images of one size, or a tensor (n, 3, H/f, W/f) in [0, 1], with sides
                that are multiples of stride / factor.
            options: the other options of LatentDiffusionPipeline; height and width follow from the image.

        Raises ValueError, with the remedy, for invalid arguments.
        """
        self._check_components("unet", "vae")
        pixels = read_images(image, self.condition.block)
        if prompt is None and options.get("prompt_embeds") is None:
            prompt = [""] * len(pixels)
        empty = prompt == "" or (isinstance(prompt, (list, tuple)) and not any(prompt))
        if empty and not options.keys() & {"negative_prompt", "negative_prompt_embeds"}:
            options.setdefault("guidance_scale", 1.0)
        return self._generate(prompt, self.condition.grid(pixels), options)


class LatentDiffusionLayoutPipeline(_Conditioned):
    """Label map and prompt → image: the map says where things are, the prompt what they look like.

    Components as LatentDiffusionPipeline's, but the denoiser takes one further channel per label.

    Args:
        labels: names of the labels, that of 0 first; by default they have none.

    Raises ValueError for a denoiser with another number of channels.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        unet: UNet2DConditionModel | DiT,
        scheduler: SchedulerMixin,
        safety_checker: PreTrainedModel | None = None,
        feature_extractor=None,
        image_encoder: PreTrainedModel | None = None,
        requires_safety_checker: bool = False,
        labels: list[str] | None = None,
    ):
        components = vae, text_encoder, tokenizer, unet, scheduler, safety_checker, feature_extractor, image_encoder
        super().__init__(*components, requires_safety_checker)
        if labels and len(labels) != self._condition_channels:
            raise ValueError(f"the denoiser takes {self._condition_channels} labels, but {len(labels)} have names")
        self.register_to_config(labels=list(labels or ()))

    @property
    def condition(self) -> LabelMap:
        return LabelMap(self._condition_channels, stride_of(self.vae))

    @property
    def labels(self) -> Sequence[str] | int:
        """Names of the labels, or their number where they have none."""
        return tuple(self.config.labels) or self._condition_channels

    def _check_channels(self, in_channels: int, vae: AutoencoderKL) -> None:
        if (further := in_channels - vae.config.latent_channels) < 2:
            raise ValueError(
                f"the denoiser takes {max(0, further)} extra input channels, which fit no label map; train "
                "one with: t2i train layout-toybox"
            )

    @takes_options_of(LatentDiffusionPipeline.__call__, without=("start", "grid"))
    def __call__(
        self, prompt: str | Sequence[str] | None = None, layout: Images | None = None, **options
    ) -> LatentDiffusionPipelineOutput | tuple:
        """Generate `num_images_per_prompt` images per prompt from a label map.

        Args:
            prompt: as in LatentDiffusionPipeline; "" generates without text conditioning.
            layout: one label map, or one per prompt: PIL images of mode P or L and of one size, whose pixels are
                labels, or a tensor of integers (n, H, W). The autoencoder's stride must divide the sides.
            options: the other options of LatentDiffusionPipeline; height and width follow from the map.

        Raises ValueError, with the remedy, for invalid arguments.
        """
        self._check_components("unet", "vae")
        maps = read_label_maps(layout, self.labels, stride_of(self.vae))
        return self._generate(prompt, self.condition.grid(maps), options)
