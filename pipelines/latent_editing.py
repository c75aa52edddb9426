"""Picture and prompt → picture, in an autoencoder's latents: image to image, variations, inpainting.

Made from a text pipeline's parts, which they share: `LatentDiffusionImg2ImgPipeline.from_pipe(pipe)`.

Shapes: n images · C, h, w latent · H, W picture
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from t2i.checks import check_real, check_seeds, check_whole
from t2i.pipelines.generators import Generators, one_each
from t2i.pipelines.latent_diffusion import LatentDiffusionPipeline, LatentDiffusionPipelineOutput
from t2i.pipelines.latent_inputs import Pictures, check_size, read_masks, read_pictures
from t2i.pipelines.latent_start import FromPicture
from t2i.pipelines.signatures import takes_options_of
from t2i.tokenizers.kl import encode, stride_of


class _Editing(LatentDiffusionPipeline):
    """What image to image and inpainting have in common."""

    @torch.no_grad()
    def _edit(
        self, prompt, pixels: Tensor, repaint: Tensor | None, strength: float, options: dict
    ) -> LatentDiffusionPipelineOutput | tuple:
        """The text pipeline's call, started from pictures.

        Args:
            pixels: float32 (pictures, 3, H, W) in [-1, 1].
            repaint: bool (pictures or 1, 1, H, W), or None without a mask.
            options: the text pipeline's.
        """
        check_real("strength", strength, most=1.0)
        check_whole("num_images_per_prompt", options.get("num_images_per_prompt", 1))
        check_whole("num_inference_steps", options.get("num_inference_steps") or 1)
        check_size(pixels.shape[2:], options)
        prompts = self._count_prompts(prompt, options.get("prompt_embeds"))
        if len(pixels) not in (1, prompts):
            raise ValueError(f"give one picture, or one for each prompt: there are {len(pixels)} for {prompts}")
        n, generator = prompts * options.get("num_images_per_prompt", 1), options.get("generator")
        sample = self._samples(strength, repaint is not None, generator)
        latents = self._encode_pictures(pixels, n, generator, sample)
        kept = {} if repaint is None else self._kept(pixels, repaint, n)
        if kept and sample and isinstance(generator, torch.Generator) and options.get("latents") is None:
            options = options | {"latents": self._noise(tuple(latents.shape), generator, None, latents.device)}
            # Before the steps diffusers takes a sample of the masked picture too, which only other denoisers look at.
            self._noise((len(pixels), *latents.shape[1:]), generator, None, latents.device)
        start = FromPicture(latents, float(strength), **kept)
        return super().__call__(prompt, *pixels.shape[2:], start=start, **options)

    @staticmethod
    def _samples(strength: float, inpaints: bool, generator: Generators) -> bool:
        """Whether the pictures' latents are samples, as in diffusers, or the posteriors' means.

        The mean where no noise follows that a sample could be part of: nothing of the picture should be lost. But one
        generator for all is used as diffusers uses it, which inpaints with a sample at strength 1 too.
        """
        return 0 < strength < 1 or (strength == 1 and inpaints and not isinstance(generator, (list, tuple)))

    def _encode_pictures(self, pixels: Tensor, n: int, generator: Generators, sample: bool) -> Tensor:
        """Latents (n, C, h, w) of pictures (pictures, 3, H, W): of each in turn n / pictures times.

        With a generator for each image each has a sample of its own; with one for all, each picture has one sample.
        """
        each, dtype = n // len(pixels), self.unet.dtype
        pictures = pixels.to(self._execution_device)
        if isinstance(generator, (list, tuple)):
            generators = one_each(generator, n)
            rows = [encode(self.vae, pictures[i // each, None], generators[i], sample) for i in range(n)]
            return torch.cat(rows).to(dtype)
        return encode(self.vae, pictures, generator, sample).repeat_interleave(each, 0).to(dtype)

    def _kept(self, pixels: Tensor, repaint: Tensor, n: int) -> dict[str, Tensor]:
        """The mask and the pixels around it for n images."""
        pixels, repaint = (
            given.to(self._execution_device).repeat_interleave(n // len(given), 0) for given in (pixels, repaint)
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
                in [0, 1], or a list of these. The autoencoder's stride must divide the sides.
            strength: how much may change, from 0 to 1: the share of `num_inference_steps` that is taken. At 0 the
                picture comes back through the autoencoder; at 1 nothing of it is left, and this is text to image.
            options: all others of LatentDiffusionPipeline; height and width are the picture's.

        Raises ValueError, with the remedy, for arguments that ask for what cannot be.
        """
        self._check_parts("unet", "vae", "scheduler")
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

    @takes_options_of(LatentDiffusionPipeline.__call__, without=("start", "grid"))
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
            options: all others of LatentDiffusionPipeline; height and width are the picture's.

        Raises ValueError, with the remedy, for arguments that ask for what cannot be.
        """
        self._check_parts("unet", "vae", "scheduler")
        pixels = read_pictures(image, stride_of(self.vae))
        return self._edit(prompt, pixels, read_masks(mask_image, pixels), strength, options)
