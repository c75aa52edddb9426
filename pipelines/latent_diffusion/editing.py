"""Image to image, variations and inpainting, with the components of a text-to-image pipeline, which are shared:
`LatentDiffusionImg2ImgPipeline.from_pipe(pipe)`.

Shapes: n images · m given images · C, h, w latent · H, W image
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
from t2i.pipelines.latent_diffusion.inputs import Images, check_size, read_images, read_latents, read_masks
from t2i.pipelines.latent_diffusion.pipeline import LatentDiffusionPipeline, LatentDiffusionPipelineOutput
from t2i.pipelines.latent_diffusion.signatures import takes_options_of
from t2i.pipelines.latent_diffusion.start import FromImage
from t2i.tokenizers.kl import encode, stride_of

logger = logging.getLogger(__name__)


class _Editing(LatentDiffusionPipeline):
    """Base class: generation that starts from an image."""

    def _read(self, image: Images | None) -> tuple[Tensor, list[int]]:
        """Pixels (m, 3, H, W) in [-1, 1], or the latents (m, C, h, w) given instead; and H and W."""
        stride = stride_of(self.vae)
        latents = read_latents(image, self.vae.config.latent_channels)
        if latents is not None:
            return latents, [side * stride for side in latents.shape[2:]]
        pixels = read_images(image, stride)
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
        encodes_masked: bool = False,
    ) -> LatentDiffusionPipelineOutput | tuple:
        """The text-to-image call, started from images.

        Random numbers are taken from the generators in the order of diffusers' pipelines, so that images for a seed are
        the same: the sample of the encoder's distribution, then for inpainting the initial noise and the sample for the
        masked image; for image to image, the initial noise last, in the text-to-image call.

        Args:
            image: float32 (m, 3, H, W) in [-1, 1], or latents (m, C, h, w).
            size: H and W.
            repaint: the mask, bool (m or 1, 1, H, W), or None without one.
            options: the other options of the text-to-image call.
            encodes_masked: whether diffusers would also encode the masked images.
        """
        check_real("strength", strength, most=1.0)
        check_whole("num_images_per_prompt", options.get("num_images_per_prompt", 1))
        check_whole("num_inference_steps", options.get("num_inference_steps") or 1)
        check_size(size, options)
        if strength == 0 and prompt is not None and any([prompt] if isinstance(prompt, str) else prompt):
            logger.warning("the prompt has no effect at strength 0: give a greater strength, or leave it out")
        prompts = self._count_prompts(prompt, options.get("prompt_embeds"))
        if len(image) not in (1, prompts):
            raise ValueError(f"give one image, or one for each prompt: there are {len(image)} for {prompts}")
        n, generator = prompts * options.get("num_images_per_prompt", 1), options.get("generator")
        one_each(generator, n)  # checks their number
        inpaints, encoded = repaint is not None, image.shape[1] != 3
        # A sample of the encoder's distribution, as in diffusers; its mean where no noise is added afterwards.
        sample = strength > 0 and (strength < 1 or inpaints)
        latents = self._encode_images(image, n, generator, sample)
        mask = self._mask(None if encoded else image, repaint, n, latents.device) if inpaints else {}
        if inpaints and strength > 0 and options.get("num_candidates", 1) == 1:  # of several, each has its own noise
            noise = self._noise(tuple(latents.shape), generator, options.get("latents"), latents.device)
            options = options | {"latents": noise}
            if encodes_masked and not encoded and not isinstance(self.vae, AutoencoderTiny):
                # diffusers samples the latents of the masked image too, which only inpainting models use: the same
                # random numbers are consumed here.
                rows = len(image) if isinstance(generator, torch.Generator | None) else n
                self._noise((rows, *latents.shape[1:]), generator, None, latents.device)
        start = FromImage(latents, float(strength), **mask)
        return super().__call__(prompt, *size, start=start, **options)

    def _encode_images(self, image: Tensor, n: int, generator: Generators, sample: bool) -> Tensor:
        """Images (m, 3, H, W) -> their latents (n, C, h, w), each repeated n / m times. Latents are only repeated.

        With a generator per image each of the n has its own sample; with one for all, each of the m has.
        """
        each, dtype = n // len(image), self.unet.dtype
        image = image.to(self._execution_device)
        if image.shape[1] != 3:
            return image.to(dtype).repeat_interleave(each, 0)
        if isinstance(generator, (list, tuple)):
            rows = [encode(self.vae, image[i // each, None], generator[i], sample) for i in range(n)]
            return torch.cat(rows).to(dtype)
        return encode(self.vae, image, generator, sample).repeat_interleave(each, 0).to(dtype)

    def _mask(self, pixels: Tensor | None, repaint: Tensor, n: int, device: torch.device) -> dict[str, Tensor | None]:
        """The mask of n images, the pixels it keeps, and the mask of the latents, as FromImage takes them."""
        repaint = repaint.to(device).repeat_interleave(n // len(repaint), 0)
        if pixels is not None:
            pixels = pixels.to(device).repeat_interleave(n // len(pixels), 0)
        # A latent that covers any pixel to repaint is repainted.
        repaint_latents = F.max_pool2d(repaint.float(), stride_of(self.vae)).bool()  # (n, 1, h, w)
        return {"pixels": pixels, "repaint": repaint, "repaint_latents": repaint_latents}


class LatentDiffusionImg2ImgPipeline(_Editing):
    """Image to image (Meng et al. 2022, SDEdit, arXiv 2108.01073): noise is added to the image's latents, and the
    sampler removes it, conditioned on the prompt. Components as LatentDiffusionPipeline's.
    """

    @takes_options_of(LatentDiffusionPipeline.__call__, without=("start", "grid"))
    def __call__(
        self, prompt: str | Sequence[str] | None = None, image: Images | None = None, strength: float = 0.8, **options
    ) -> LatentDiffusionPipelineOutput | tuple:
        """Generate `num_images_per_prompt` images per prompt, starting from an image.

        Args:
            prompt: as in LatentDiffusionPipeline.
            image: one, or one per prompt: PIL images of one size, a tensor (m, 3, H, W) or an array (m, H, W, 3) in
                [0, 1], or a list of these; or their scaled latents, a tensor (m, C, h, w). The autoencoder's stride
                must divide the sides.
            strength: how much may change, from 0 to 1: the fraction of `num_inference_steps` that is run. At 0 the
                result is the autoencoder's reconstruction; at 1 nothing of the image is left: text to image.
            options: the other options of LatentDiffusionPipeline; height and width are the image's.

        Raises ValueError, with the remedy, for invalid arguments.
        """
        self._check_components("unet", "vae", "scheduler")
        return self._edit(prompt, *self._read(image), None, strength, options)

    def variations(
        self,
        image: Images,
        n: int = 4,
        strength: float = 0.6,
        prompt: str = "",
        seed: int = 0,
        **options,
    ) -> list[Image.Image] | np.ndarray | Tensor:
        """n variations of an image, the i-th from the seed `seed` + i. Raises ValueError as a call does.

        Without a prompt there is no guidance.
        """
        check_whole("n", n)
        check_seeds("seed", seed, n)
        if given := options.keys() & {"num_images_per_prompt", "generator", "return_dict"}:
            raise ValueError(f"variations sets {min(given)} itself: give n and seed")
        if not prompt and not options.keys() & {"negative_prompt", "negative_prompt_embeds"}:
            options.setdefault("guidance_scale", 1.0)
        generators = [torch.Generator().manual_seed(seed + i) for i in range(n)]
        options |= {"num_images_per_prompt": n, "generator": generators}
        return self(prompt, image, strength, **options).images


class LatentDiffusionInpaintPipeline(_Editing):
    """Inpainting with any denoiser (Avrahami et al. 2022, Blended Latent Diffusion, arXiv 2206.02779): after each step
    the latents outside the mask are replaced by the image's, with the noise level of that step. Components as
    LatentDiffusionPipeline's.
    """

    @takes_options_of(LatentDiffusionPipeline.__call__, without=("start", "grid"))
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        image: Images | None = None,
        mask_image: Images | None = None,
        strength: float = 1.0,
        masked_image_latents: Tensor | None = None,
        **options,
    ) -> LatentDiffusionPipelineOutput | tuple:
        """Repaint `num_images_per_prompt` times for each prompt.

        Args:
            prompt: what the result shows, as in LatentDiffusionPipeline.
            image: as in LatentDiffusionImg2ImgPipeline. Outside the mask, PIL images are returned bit for bit, tensors
                up to the rounding of floats, and latents as given.
            mask_image: white to repaint, black to keep (threshold 1/2): a black-and-white PIL image of the image's
                size, one per image or one for all, or a tensor (m, 1, H, W) in [0, 1].
            strength: how much may change inside the mask; see LatentDiffusionImg2ImgPipeline.
            masked_image_latents: accepted as in diffusers, without effect: models that take the masked image run in
                diffusers' StableDiffusionInpaintPipeline.
            options: the other options of LatentDiffusionPipeline; height and width are the image's.

        Raises ValueError, with the remedy, for invalid arguments.
        """
        self._check_components("unet", "vae", "scheduler")
        if masked_image_latents is not None:
            logger.warning("masked_image_latents has no effect: this denoiser does not take the masked image")
        images, size = self._read(image)
        repaint = read_masks(mask_image, len(images), size)
        return self._edit(prompt, images, size, repaint, strength, options, masked_image_latents is None)

    @property
    def mask_processor(self) -> VaeImageProcessor:
        """As in diffusers, for masks: `preprocess` returns what `mask_image` takes."""
        kinds = {"do_normalize": False, "do_binarize": True, "do_convert_grayscale": True}
        return VaeImageProcessor(vae_scale_factor=stride_of(self.vae), **kinds)
