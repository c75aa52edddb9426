"""Picture and prompt → picture, in an autoencoder's latents: image to image, variations, inpainting.

Made from a text pipeline's parts, which they share: `LatentDiffusionImg2ImgPipeline.from_pipe(pipe)`.

Shapes: n images · C, h, w latent · H, W picture
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Tensor

from t2i.checks import check_real, check_seeds, check_whole
from t2i.pipelines.generators import Generators, one_each
from t2i.pipelines.latent_diffusion.inputs import Pictures, check_size, read_latents, read_masks, read_pictures
from t2i.pipelines.latent_diffusion.pipeline import LatentDiffusionPipeline, LatentDiffusionPipelineOutput
from t2i.pipelines.latent_diffusion.signatures import takes_options_of
from t2i.pipelines.latent_diffusion.start import FromPicture
from t2i.tokenizers.kl import encode, stride_of

logger = logging.getLogger(__name__)


class _Editing(LatentDiffusionPipeline):
    """What image to image and inpainting have in common."""

    def _read(self, image: Pictures | None) -> tuple[Tensor, list[int]]:
        """Pixels (pictures, 3, H, W) in [-1, 1], or the latents (pictures, C, h, w) given for them; and H and W."""
        stride = stride_of(self.vae)
        latents = read_latents(image, self.vae.config.latent_channels)
        if latents is not None:
            return latents, [side * stride for side in latents.shape[2:]]
        pixels = read_pictures(image, stride)
        return pixels, list(pixels.shape[2:])

    @torch.no_grad()
    def _edit(
        self,
        prompt,
        image: Tensor,
        size: list[int],
        repaint: Tensor | None,
        strength: float,
        options: dict,
        draws_masked: bool = True,
    ) -> LatentDiffusionPipelineOutput | tuple:
        """The text pipeline's call, started from pictures.

        Args:
            image: float32 (pictures, 3, H, W) in [-1, 1], or latents (pictures, C, h, w).
            size: H and W.
            repaint: bool (pictures or 1, 1, H, W), or None without a mask.
            options: the text pipeline's.
            draws_masked: whether diffusers would encode the masked pictures too.
        """
        check_real("strength", strength, most=1.0)
        check_whole("num_images_per_prompt", options.get("num_images_per_prompt", 1))
        check_whole("num_inference_steps", options.get("num_inference_steps") or 1)
        check_size(size, options)
        prompts = self._count_prompts(prompt, options.get("prompt_embeds"))
        if len(image) not in (1, prompts):
            raise ValueError(f"give one picture, or one for each prompt: there are {len(image)} for {prompts}")
        n, generator = prompts * options.get("num_images_per_prompt", 1), options.get("generator")
        one_each(generator, n)  # refuses another number of them
        inpaints, encoded = repaint is not None, image.shape[1] != 3
        # A sample, as in diffusers; but the mean where no noise follows that a sample could be part of.
        sample = 0 < strength < 1 or (strength == 1 and inpaints)
        latents = self._encode_pictures(image, n, generator, sample)
        kept = self._kept(None if encoded else image, repaint, n) if inpaints else {}
        if inpaints and strength > 0:
            noise = self._noise(tuple(latents.shape), generator, options.get("latents"), latents.device)
            options = options | {"latents": noise}
            if draws_masked and not encoded and not isinstance(self.vae, AutoencoderTiny):
                # Then diffusers takes a sample of the masked picture, which only other denoisers look at.
                rows = len(image) if isinstance(generator, torch.Generator | None) else n
                self._noise((rows, *latents.shape[1:]), generator, None, latents.device)
        start = FromPicture(latents, float(strength), **kept)
        return super().__call__(prompt, *size, start=start, **options)

    def _encode_pictures(self, image: Tensor, n: int, generator: Generators, sample: bool) -> Tensor:
        """Latents (n, C, h, w) of pictures (pictures, 3, H, W): of each in turn n / pictures times. Latents stay.

        With a generator for each image each has a sample of its own; with one for all, each picture has one sample.
        """
        each, dtype = n // len(image), self.unet.dtype
        image = image.to(self._execution_device)
        if image.shape[1] != 3:
            return image.to(dtype).repeat_interleave(each, 0)
        if isinstance(generator, (list, tuple)):
            rows = [encode(self.vae, image[i // each, None], generator[i], sample) for i in range(n)]
            return torch.cat(rows).to(dtype)
        return encode(self.vae, image, generator, sample).repeat_interleave(each, 0).to(dtype)

    def _kept(self, pixels: Tensor | None, repaint: Tensor, n: int) -> dict[str, Tensor | None]:
        """The mask and the pixels around it for n images."""
        pixels, repaint = (
            None if given is None else given.to(self._execution_device).repeat_interleave(n // len(given), 0)
            for given in (pixels, repaint)
        )
        # A latent that says anything of a pixel to repaint must be free to change.
        free = F.max_pool2d(repaint.float(), stride_of(self.vae)).bool()  # (n, 1, h, w)
        return {"pixels": pixels, "repaint": repaint, "repaint_latents": free}


class LatentDiffusionImg2ImgPipeline(_Editing):
    """Picture and prompt → picture (Meng et al. 2022, SDEdit, arXiv 2108.01073): noise is laid over the picture's
    latents, and the sampler takes it away again, led by the prompt. Components as LatentDiffusionPipeline's.
    """

    @takes_options_of(LatentDiffusionPipeline.__call__, without=("start", "grid"))
    def __call__(
        self, prompt: str | Sequence[str] | None = None, image: Pictures | None = None, strength: float = 0.8, **options
    ) -> LatentDiffusionPipelineOutput | tuple:
        """Draw `num_images_per_prompt` pictures of each prompt, starting from a picture.

        Args:
            prompt: as of LatentDiffusionPipeline.
            image: one, or one for each prompt: PIL images of one size, a tensor (n, 3, H, W) or an array (n, H, W, 3)
                in [0, 1], or a list of these; or their scaled latents, a tensor (n, C, h, w). The autoencoder's stride
                must divide the sides.
            strength: how much may change, from 0 to 1: the share of `num_inference_steps` that is taken. At 0 the
                picture comes back through the autoencoder; at 1 nothing of it is left, and this is text to image.
            options: all others of LatentDiffusionPipeline; height and width are the picture's.

        Raises ValueError, with the remedy, for arguments that ask for what cannot be.
        """
        self._check_parts("unet", "vae", "scheduler")
        return self._edit(prompt, *self._read(image), None, strength, options)

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

    @takes_options_of(LatentDiffusionPipeline.__call__, without=("start", "grid"))
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        image: Pictures | None = None,
        mask_image: Pictures | None = None,
        strength: float = 1.0,
        masked_image_latents: Tensor | None = None,
        **options,
    ) -> LatentDiffusionPipelineOutput | tuple:
        """Repaint `num_images_per_prompt` times for each prompt.

        Args:
            prompt: what the picture shows, as of LatentDiffusionPipeline.
            image: as of LatentDiffusionImg2ImgPipeline. Outside of the mask a PIL image comes
                back bit for bit, a tensor but for the rounding of its floats, and latents as they were given.
            mask_image: white to repaint, black to keep (cut at a half): a PIL image in black and white of the
                picture's size, one for each picture or one for all, or a tensor (n, 1, H, W) in [0, 1].
            strength: how much may change inside of the mask, see LatentDiffusionImg2ImgPipeline.
            masked_image_latents: of diffusers' call, without effect here: denoisers that look at the masked image run
                in diffusers' StableDiffusionInpaintPipeline.
            options: all others of LatentDiffusionPipeline; height and width are the picture's.

        Raises ValueError, with the remedy, for arguments that ask for what cannot be.
        """
        self._check_parts("unet", "vae", "scheduler")
        if masked_image_latents is not None:
            logger.warning("masked_image_latents has no effect: this denoiser does not look at the masked image")
        given, size = self._read(image)
        repaint = read_masks(mask_image, len(given), size)
        return self._edit(prompt, given, size, repaint, strength, options, masked_image_latents is None)

    @property
    def mask_processor(self) -> VaeImageProcessor:
        """diffusers' own, for masks: its `preprocess` gives what `mask_image` takes."""
        kinds = {"do_normalize": False, "do_binarize": True, "do_convert_grayscale": True}
        return VaeImageProcessor(vae_scale_factor=stride_of(self.vae), **kinds)
