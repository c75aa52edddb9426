"""Picture or map → picture, with denoisers that take further channels beside the latent's (Rombach et al. 2022, arXiv
2112.10752, § 4.3.2 and 4.4): super-resolution, and pictures from maps of labels.

Shapes: n pictures or maps · f factor · H, W picture · K channels beside the latent's · C, h, w latent
"""

from __future__ import annotations

from collections.abc import Sequence

from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2i.diffusion.dit import DiT
from t2i.diffusion.grid_conditions import LabelMap, LowResolution
from t2i.pipelines.latent_diffusion.inputs import Pictures, check_size, read_layouts, read_pictures
from t2i.pipelines.latent_diffusion.pipeline import LatentDiffusionPipeline, LatentDiffusionPipelineOutput
from t2i.pipelines.latent_diffusion.signatures import takes_options_of
from t2i.tokenizers.kl import stride_of


class _Conditioned(LatentDiffusionPipeline):
    """What the two have in common."""

    @property
    def _further_channels(self) -> int:
        """K"""
        return self.unet.config.in_channels - self.vae.config.latent_channels

    def _draw(self, prompt, grid: Tensor, options: dict) -> LatentDiffusionPipelineOutput | tuple:
        """The text pipeline's call, each prompt with its row of the grid (n, K, h, w), or all with the only one."""
        prompts = self._count_prompts(prompt, options.get("prompt_embeds"))
        if len(grid) not in (1, prompts):
            raise ValueError(f"give one picture or map, or one for each prompt: there are {len(grid)} for {prompts}")
        grid = grid.to(self._execution_device, self.unet.dtype).expand(prompts, -1, -1, -1)
        height, width = size = [side * stride_of(self.vae) for side in grid.shape[2:]]
        check_size(size, options)
        return super().__call__(prompt, height, width, grid=grid, **options)


class LatentDiffusionUpscalePipeline(_Conditioned):
    """Small picture, and a prompt if there is one → the same picture `factor` times as large, with the details that it
    may have had. Components as LatentDiffusionPipeline's, but that the denoiser takes 3·(stride / factor)² channels
    more, which say the small picture; the factor follows from them.
    """

    @property
    def condition(self) -> LowResolution:
        return LowResolution.of(self._further_channels, stride_of(self.vae))

    @property
    def factor(self) -> int:
        """How many times as large a side of the result is."""
        return self.condition.factor

    def _check_channels(self, takes: int, vae: AutoencoderKL) -> None:
        further = takes - vae.config.latent_channels
        if LowResolution.of(further, stride_of(vae)) is None:
            raise ValueError(
                f"the denoiser takes {further} channels beside the latent's, which are no small picture's; train one "
                "with: t2i train upscale-toybox"
            )

    @takes_options_of(LatentDiffusionPipeline.__call__, without=("start", "grid"))
    def __call__(
        self, prompt: str | Sequence[str] | None = None, image: Pictures | None = None, **options
    ) -> LatentDiffusionPipelineOutput | tuple:
        """Draw `num_images_per_prompt` large pictures of each small one.

        Args:
            prompt: what the picture shows, as of LatentDiffusionPipeline; none by default, and then there is nothing
                to guide to and guidance_scale is 1.
            image: one, or one for each prompt: PIL images of one size, or a tensor (n, 3, H/f, W/f) in [0, 1]. Their
                sides must be multiples of stride / factor.
            options: all others of LatentDiffusionPipeline; height and width follow from what is given.

        Raises ValueError, with the remedy, for arguments that ask for what cannot be.
        """
        self._check_parts("unet", "vae")
        pixels = read_pictures(image, self.condition.block)
        if prompt is None and options.get("prompt_embeds") is None:
            prompt = [""] * len(pixels)
        against = options.keys() & {"negative_prompt", "negative_prompt_embeds"}
        silent = prompt == "" or (isinstance(prompt, (list, tuple)) and not any(prompt))
        if silent and not against:
            options.setdefault("guidance_scale", 1.0)
        return self._draw(prompt, self.condition.grid(pixels), options)


class LatentDiffusionLayoutPipeline(_Conditioned):
    """Map of labels and prompt → picture: where things are is in the map, what they look like in the prompt.

    Components as LatentDiffusionPipeline's, but that the denoiser takes as many channels more as there are labels.

    Args:
        labels: their names, that of 0 first; by default they have none.

    Raises ValueError for a denoiser that takes another number of channels.
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
        parts = vae, text_encoder, tokenizer, unet, scheduler, safety_checker, feature_extractor, image_encoder
        super().__init__(*parts, requires_safety_checker)
        if labels and len(labels) != self._further_channels:
            raise ValueError(f"the denoiser takes {self._further_channels} labels, but {len(labels)} have names")
        self.register_to_config(labels=list(labels or ()))

    @property
    def condition(self) -> LabelMap:
        return LabelMap(self._further_channels, stride_of(self.vae))

    @property
    def labels(self) -> Sequence[str] | int:
        """Their names, or their number where they have none."""
        return tuple(self.config.labels) or self._further_channels

    def _check_channels(self, takes: int, vae: AutoencoderKL) -> None:
        if (further := takes - vae.config.latent_channels) < 2:
            raise ValueError(
                f"the denoiser takes {max(0, further)} channels beside the latent's, which are no map's; train one "
                "with: t2i train layout-toybox"
            )

    @takes_options_of(LatentDiffusionPipeline.__call__, without=("start", "grid"))
    def __call__(
        self, prompt: str | Sequence[str] | None = None, layout: Pictures | None = None, **options
    ) -> LatentDiffusionPipelineOutput | tuple:
        """Draw `num_images_per_prompt` pictures of each prompt after a map.

        Args:
            prompt: as of LatentDiffusionPipeline; "" leaves all that the map does not say to chance.
            layout: one, or one for each prompt: PIL images of mode P or L and of one size, whose pixels are labels, or
                a tensor of integers (n, H, W). The autoencoder's stride must divide the sides.
            options: all others of LatentDiffusionPipeline; height and width follow from what is given.

        Raises ValueError, with the remedy, for arguments that ask for what cannot be.
        """
        self._check_parts("unet", "vae")
        maps = read_layouts(layout, self.labels, stride_of(self.vae))
        return self._draw(prompt, self.condition.grid(maps), options)
