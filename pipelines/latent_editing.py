"""Picture and prompt → picture, in an autoencoder's latents: image to image, variations, inpainting.

Made from a text pipeline's parts, which they share: `LatentDiffusionImg2ImgPipeline.from_pipe(pipe)`.

Shapes: n images · C, h, w latent · H, W picture
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from t2i.checks import check_real, check_seeds, check_whole
from t2i.pipelines.latent_diffusion import LatentDiffusionPipeline, LatentDiffusionPipelineOutput
from t2i.pipelines.latent_inputs import Pictures, read_masks, read_pictures
from t2i.pipelines.latent_start import FromNoise, FromPicture, steps_left
from t2i.tokenizers.kl import posterior, stride_of


@dataclass(frozen=True)
class _Given:
    """What a call is given beside the text pipeline's arguments, and two of those."""

    pixels: Tensor  # float32 (pictures, 3, H, W) in [-1, 1]
    repaint: Tensor | None  # bool (pictures or 1, 1, H, W)
    strength: float
    num_inference_steps: int
    num_images_per_prompt: int


class _Editing(LatentDiffusionPipeline):
    """What image to image and inpainting have in common."""

    _given: _Given

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs) -> _Editing:
        """This pipeline with another one's parts: the same weights in memory, in the precision they have.

        Args:
            kwargs: parts to take instead, and `dtype` (or `torch_dtype`) to cast all of them, the other pipeline's too.
        """
        dtype = [kwargs.pop(name, None) for name in ("dtype", "torch_dtype")]
        takes, options = cls._get_signature_keys(cls)
        parts = {name: part for name, part in pipeline.components.items() if name in takes}
        chosen = {name: value for name, value in pipeline.config.items() if name in options}
        made = cls(**{**parts, **chosen, **kwargs})
        # diffusers' own from_pipe casts always, and by default the weights of both to float32
        return made.to(dtype=dtype[0] or dtype[1]) if any(dtype) else made

    def _edit(
        self, prompt, pixels: Tensor, repaint: Tensor | None, strength: float, options: dict
    ) -> LatentDiffusionPipelineOutput | tuple:
        """The text pipeline's call, begun with the pictures."""
        check_real("strength", strength, most=1.0)
        for name in ("height", "width"):
            if options.get(name) is not None:
                raise ValueError(f"the result has the picture's size: scale the picture instead of giving {name}")
        steps, each = options.setdefault("num_inference_steps", 20), options.get("num_images_per_prompt", 1)
        check_whole("num_inference_steps", steps)
        check_whole("num_images_per_prompt", each)
        if strength > 0 and steps_left(strength, steps) == 0:
            raise ValueError(
                f"strength {strength} of {steps} steps is not one whole step: give num_inference_steps of "
                f"{math.ceil(1 / strength)} or more, or a strength of {math.ceil(100 / steps) / 100}"
            )
        self._given = _Given(pixels, repaint, float(strength), steps, each)
        try:
            return super().__call__(prompt, height=pixels.shape[2], width=pixels.shape[3], **options)
        finally:
            self._start = FromNoise()
            del self._given

    def _noise(self, shape: tuple[int, ...], generators: list[torch.Generator] | None, given: Tensor | None) -> Tensor:
        """As of the text pipeline; before it, as in diffusers, each generator draws the latents of its picture."""
        ask, n = self._given, shape[0]
        prompts = n // ask.num_images_per_prompt
        if len(ask.pixels) not in (1, prompts):
            raise ValueError(f"give one picture, or one for each prompt: there are {len(ask.pixels)} for {prompts}")
        each = n // len(ask.pixels)
        # The mean where no noise follows that a draw could be part of: nothing of the picture should be lost.
        draws = steps_left(ask.strength, ask.num_inference_steps) > 0 and ask.strength < 1
        latents = []
        for i, picture in enumerate(ask.pixels):
            q = posterior(self.vae, picture[None].to(self._execution_device))
            for row in range(i * each, (i + 1) * each):
                latents.append(q.sample(generators and generators[row]) if draws else q.mode())
        self._start = FromPicture(
            (torch.cat(latents) * self.vae.config.scaling_factor).to(self.unet.dtype),
            ask.strength,
            **({} if ask.repaint is None else self._kept(n)),
        )
        return super()._noise(shape, generators, given)

    def _kept(self, n: int) -> dict[str, Tensor]:
        """The mask and the pixels around it for n images."""
        pixels, repaint = (
            given.to(self._execution_device).repeat_interleave(n // len(given), 0)
            for given in (self._given.pixels, self._given.repaint)
        )
        # A latent that says anything of a pixel to repaint must be free to change.
        free = F.max_pool2d(repaint.float(), stride_of(self.vae)).bool()  # (n, 1, h, w)
        return {"pixels": pixels, "repaint": repaint, "repaint_latents": free}


class LatentDiffusionImg2ImgPipeline(_Editing):
    """Picture and prompt → picture (Meng et al. 2022, SDEdit, arXiv 2108.01073): noise is laid over the picture's
    latents, and the sampler takes it away again, led by the prompt. Components as LatentDiffusionPipeline's.
    """

    def __call__(
        self, prompt: str | Sequence[str] | None = None, image: Pictures | None = None, strength: float = 0.8, **options
    ) -> LatentDiffusionPipelineOutput | tuple:
        """Draw `num_images_per_prompt` pictures of each prompt, starting from a picture.

        Args:
            prompt: as of LatentDiffusionPipeline.
            image: one, or one for each prompt: PIL images of one size, a tensor (n, 3, H, W) or an array (n, H, W, 3)
                in [0, 1], or a list of these. The autoencoder's stride must divide the sides.
            strength: how much may change, from 0 to 1: the share of `num_inference_steps` that is taken. At 0 the
                picture comes back through the autoencoder; at 1 nothing of it is left, and this is text to image.
            options: all others of LatentDiffusionPipeline but height and width.

        Raises ValueError, with the remedy, for arguments that ask for what cannot be.
        """
        return self._edit(prompt, read_pictures(image, stride_of(self.vae)), None, strength, options)

    def variations(
        self,
        image: Pictures,
        n: int = 4,
        strength: float = 0.6,
        prompt: str = "",
        seed: int = 0,
        **options,
    ) -> list[Image.Image] | np.ndarray | Tensor:
        """n pictures like this one, each from a seed of its own, the i-th from `seed` + i. Raises as a call does.

        With no prompt the denoiser is asked for no picture in particular, and there is nothing to guide to.
        """
        check_whole("n", n)
        check_seeds("seed", seed, n)
        if taken := options.keys() & {"num_images_per_prompt", "generator", "return_dict"}:
            raise ValueError(f"variations itself chooses {min(taken)}: give n and seed")
        if not prompt and not options.keys() & {"negative_prompt", "negative_prompt_embeds"}:
            options.setdefault("guidance_scale", 1.0)
        generators = [torch.Generator().manual_seed(seed + i) for i in range(n)]
        options |= {"num_images_per_prompt": n, "generator": generators}
        return self(prompt, image, strength, **options).images


class LatentDiffusionInpaintPipeline(_Editing):
    """Picture, mask and prompt → the picture, made anew where the mask is white (Avrahami et al. 2022, Blended Latent
    Diffusion, arXiv 2206.02779). Any denoiser does: after each step the latents outside of the mask are the picture's
    again, as noisy as the step leaves them. Components as LatentDiffusionPipeline's.
    """

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        image: Pictures | None = None,
        mask_image: Pictures | None = None,
        strength: float = 1.0,
        **options,
    ) -> LatentDiffusionPipelineOutput | tuple:
        """Repaint `num_images_per_prompt` times for each prompt.

        Args:
            prompt: what the picture shows, as of LatentDiffusionPipeline.
            image: as of LatentDiffusionImg2ImgPipeline. Outside of the mask a PIL image comes
                back bit for bit, and a tensor but for the rounding of its floats.
            mask_image: white to repaint, black to keep (cut at a half): a PIL image in black and white of the
                picture's size, one for each picture or one for all, or a tensor (n, 1, H, W) in [0, 1].
            strength: how much may change inside of the mask, see LatentDiffusionImg2ImgPipeline.
            options: all others of LatentDiffusionPipeline but height and width.

        Raises ValueError, with the remedy, for arguments that ask for what cannot be.
        """
        pixels = read_pictures(image, stride_of(self.vae))
        return self._edit(prompt, pixels, read_masks(mask_image, pixels), strength, options)
