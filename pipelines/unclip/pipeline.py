"""DALL·E 2 (Ramesh et al. 2022, arXiv 2204.06125): a prior samples a CLIP image embedding for a prompt, and a decoder,
here a latent diffusion model, generates an image with that embedding.

Since the decoder inverts CLIP's image encoder, images can be varied, interpolated and changed through their embedding.

Shapes: P prompts or embeddings · n images · m given images · R rows of a batch · D width of the embeddings
C, h, w latent · L text positions · W width of the text states · H, W image
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DiffusionPipeline, SchedulerMixin, UNet2DConditionModel
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPModel, CLIPTextModel, CLIPTokenizer

from t2i.checks import check_options, check_prompts, check_real, check_seeds, check_whole
from t2i.diffusion.attention import constants_kept
from t2i.diffusion.guidance import guide
from t2i.diffusion.interpolation import slerp
from t2i.diffusion.inversion import invert
from t2i.diffusion.schedule import NoiseSchedule
from t2i.diffusion.schedulers import new_sampler, of_flow, step_options, warn_of_eta
from t2i.images import as_output
from t2i.pipelines.codes import check_output_type
from t2i.pipelines.generators import Generators, own_each
from t2i.pipelines.latent_diffusion.batches import batch_bytes, decoding_batches, denoising_batches
from t2i.pipelines.latent_diffusion.inputs import Images, read_images
from t2i.pipelines.latent_diffusion.pipeline import check_latents
from t2i.text.bpe import warn_of_unknown_words
from t2i.text.encoders import ClipTextEncoder
from t2i.tokenizers.kl import KLTokenizer, encode, make_fast, stride_of
from t2i.unclip.base import EmbeddingPrior
from t2i.unclip.clip import ClipText, embed_images, project_text
from t2i.unclip.decoder import ImageProjection
from t2i.unclip.embeddings import slerp_embeds, text_diff

logger = logging.getLogger(__name__)
TRAIN_PRIOR = "t2i train unclip-prior --clip CLIP --decoder DECODER"
TRAIN_DECODER = "t2i train unclip-decoder --clip CLIP --init-from LDM"


@dataclass
class UnCLIPPipelineOutput(BaseOutput):
    """
    Args:
        images: by `output_type`, a list of PIL images, an array (n, H, W, 3) or a tensor (n, 3, H, W) in [0, 1], or
            for "latent" the scaled latents (n, C, h, w).
        image_embeds: (n, D), the embeddings that the images were decoded from, of length 1.
    """

    images: list[Image.Image] | np.ndarray | Tensor
    image_embeds: Tensor


class UnCLIPPipeline(DiffusionPipeline):
    """Args:
    clip, tokenizer, image_processor: the CLIP whose embeddings prior and decoder were trained on.
    unet, projection: the decoder, a U-Net conditioned on the projection of an image embedding.
    vae: the autoencoder; its config holds the latents' scaling_factor.
    scheduler: the sampler; its config holds the U-Net's prediction type.
    prior: from a prompt to an image embedding; without one there are images of embeddings and of images only.
    caption_encoder, caption_tokenizer: the text encoder of a decoder that also reads the prompt.

    `max_batch_bytes` limits the memory of a batch's activations, approximately: more images than fit are generated in
    several batches. By default 1 GiB, on CUDA half of the free memory.

    Raises ValueError for components that were not trained together.
    """

    _callback_tensor_inputs: tuple[str, ...] = ("latents", "image_embeds")
    _optional_components: ClassVar[list[str]] = ["prior", "caption_encoder", "caption_tokenizer"]
    # Offloading moves a model for its `forward`; of the others, parts are called, and they are small.
    model_cpu_offload_seq = "unet->vae"
    _exclude_from_cpu_offload: ClassVar[list[str]] = ["clip", "prior", "projection", "caption_encoder"]

    def __init__(
        self,
        clip: CLIPModel,
        tokenizer: CLIPTokenizer,
        image_processor: CLIPImageProcessor,
        unet: UNet2DConditionModel,
        projection: ImageProjection,
        vae: AutoencoderKL,
        scheduler: SchedulerMixin,
        prior: EmbeddingPrior | None = None,
        caption_encoder: CLIPTextModel | None = None,
        caption_tokenizer: CLIPTokenizer | None = None,
    ):
        super().__init__()
        _check_components(clip, unet, projection, vae, prior)
        self.register_modules(
            clip=clip,
            tokenizer=tokenizer,
            image_processor=image_processor,
            unet=unet,
            projection=projection,
            vae=make_fast(vae),
            scheduler=scheduler,
            prior=prior,
            caption_encoder=caption_encoder,
            caption_tokenizer=caption_tokenizer,
        )
        self.max_batch_bytes: int | None = None
        self._interrupt = False  # under diffusers' name, for callbacks

    @property
    def interrupt(self) -> bool:
        """Whether the call is to stop; callbacks may set `pipe._interrupt`. Latents stay as noisy as they are."""
        return self._interrupt

    @property
    def image_size(self) -> int:
        """Side of the images the decoder was trained on."""
        return self.unet.config.sample_size * stride_of(self.vae)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 20,
        num_prior_steps: int | None = None,
        guidance_scale: float = 2.0,
        prior_guidance_scale: float = 2.0,
        num_prior_candidates: int = 2,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Generators = None,
        latents: Tensor | None = None,
        image_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[UnCLIPPipeline, int, Tensor, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        scheduler: str | None = None,
    ) -> UnCLIPPipelineOutput | tuple:
        """Generate `num_images_per_prompt` images of each prompt or embedding, those of the first one first.

        Args:
            prompt: one or more prompts. With `image_embeds`, only a decoder with a caption encoder reads them.
            negative_prompt: prompts to steer the prior away from; by default the empty prompt.
            height, width: in pixels; by default the size the decoder was trained on.
            num_inference_steps: number of the decoder's sampling steps.
            num_prior_steps: number of a diffusion prior's sampling steps; by default its own.
            guidance_scale: scale of classifier-free guidance of the decoder, by the embedding (and the caption). Up to
                1 there is none, at half the cost.
            prior_guidance_scale: the same for the prior, by the prompt; 1 is none.
            num_prior_candidates: embeddings that the prior samples for each image, of which the one with the greatest
                dot product with the text embedding is kept.
            eta: noise of DDIM sampling: 0 adds none, 1 as much as DDPM.
            generator: one per image, which then depends on no other; or one, which seeds one per image.
            latents: the initial noise (n, C, h, w), instead of the generators'.
            image_embeds: image embeddings (P, D) of any length instead of the prior's, as `encode_image` gives them.
            callback_on_step_end: called as f(pipe, step, timestep, tensors) after each of the decoder's steps with the
                rows of the current batch; "latents" that it returns replace them.
            callback_on_step_end_tensor_inputs: the tensors it gets: "latents" (R, C, h, w), "image_embeds" (R, D).
            scheduler: another sampler for this call, by its name in `t2i.diffusion.schedulers`.

        Raises ValueError, with the remedy, for invalid arguments, and FloatingPointError for latents that are not
        finite.
        """
        check_output_type(output_type)
        check_real("guidance_scale", guidance_scale)
        check_options({"num_images_per_prompt": num_images_per_prompt, "eta": eta})
        if unknown := set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs):
            raise ValueError(f"no tensor {unknown.pop()!r} for callbacks: there are {self._callback_tensor_inputs}")
        device, guided = self._execution_device, guidance_scale > 1
        embeds_of = self._embeddings(
            *(prompt, negative_prompt, image_embeds),
            *(prior_guidance_scale, num_prior_steps, num_prior_candidates),
        )
        captions = self._captions(prompt)  # (P, L, W) or None
        count = len(check_prompts("prompt", prompt)) if image_embeds is None else len(image_embeds)
        if captions is not None and len(captions) != count:
            raise ValueError(f"give a prompt for each of the image_embeds: there are {len(captions)} for {count}")
        n = count * num_images_per_prompt
        generators = own_each(generator, n)
        first_sampler = new_sampler(self.scheduler, scheduler, num_inference_steps, device)
        warn_of_eta(first_sampler, eta)
        images = self._start(n, height, width, latents)  # the given noise, or where the images' latents go
        embeds = torch.zeros(n, self.projection.config.embedding_dim, device=device, dtype=self.unet.dtype)
        self._interrupt = False
        max_bytes = batch_bytes(device, self.max_batch_bytes)
        batches = list(denoising_batches(self.unet, images, guided, max_bytes))
        with constants_kept(self.unet), self.progress_bar(total=num_inference_steps * len(batches)) as bar:
            for rows in batches:
                of = torch.arange(rows.start, rows.stop) // num_images_per_prompt  # (R,)
                own = generators and generators[rows]
                embeds[rows] = row_embeds = embeds_of(of, own).to(embeds)
                labels, context = self._condition(row_embeds, captions if captions is None else captions[of], guided)
                sampler = new_sampler(self.scheduler, scheduler, num_inference_steps, device)
                options = step_options(sampler, eta, own)
                x = images[rows]
                if latents is None:
                    x = randn_tensor(x.shape, generator=own, device=device, dtype=x.dtype)
                x = x * getattr(sampler, "init_noise_sigma", 1.0)  # (R, C, h, w)
                for i, t in enumerate(sampler.timesteps):
                    scaled = sampler.scale_model_input(x, t) if hasattr(sampler, "scale_model_input") else x
                    predicted = self._predict(scaled, t, labels, context, guidance_scale)
                    x = sampler.step(predicted, t, x, **options, return_dict=False)[0]
                    if callback_on_step_end is not None:
                        tensors = {"latents": x, "image_embeds": row_embeds}
                        tensors = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                        x = (callback_on_step_end(self, i, t, tensors) or {}).get("latents", x)
                    if (i + 1) % sampler.order == 0 or i + 1 == len(sampler.timesteps):
                        bar.update()
                    if self._interrupt:
                        break
                check_latents(x, num_inference_steps)
                images[rows] = x
                if self._interrupt:
                    break

        decoded = self._decode(images, output_type, max_bytes)
        self.maybe_free_model_hooks()
        if not return_dict:
            return decoded, embeds
        return UnCLIPPipelineOutput(images=decoded, image_embeds=embeds)

    # --- images as embeddings ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_image(self, image: Images) -> Tensor:
        """Image embeddings of length 1, (m, D), of PIL images of one size, or a tensor (m, 3, H, W) in [0, 1]."""
        pixels = read_images(image, 1)  # (m, 3, H, W)
        levels = ((pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
        return embed_images(self.clip, self.image_processor, levels)

    @torch.no_grad()
    def encode_prompt(self, prompt: str | Sequence[str]) -> ClipText:
        """What a prior reads of prompts: CLIP's text states and text embeddings of length 1."""
        prompts = check_prompts("prompt", prompt)
        warn_of_unknown_words(self.tokenizer, prompts)
        found = ClipTextEncoder("the CLIP", self.clip.text_model, self.tokenizer).encode(prompts)
        return project_text(self.clip, found.states, found.mask)

    @torch.no_grad()
    def invert(
        self,
        image: Images,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        image_embeds: Tensor | None = None,
    ) -> Tensor:
        """The noise (m, C, h, w) from which DDIM decodes the images' embeddings to the images themselves (§ 3).

        Embedding and noise together are the paper's bipartite latent representation.

        Args:
            num_inference_steps, guidance_scale: those that the noise is decoded with; strong guidance is hard to
                invert.
            image_embeds: by default the images' own, (m, D).

        Raises ValueError, with the remedy, for a number of steps that does not divide the number of training steps, and
        for a flow.
        """
        config = self.scheduler.config
        if of_flow(config):
            raise ValueError("DDIM inversion needs a noise schedule, and this decoder was trained as a flow")
        check_whole("num_inference_steps", num_inference_steps)
        if config.num_train_timesteps % num_inference_steps:
            raise ValueError(
                f"num_inference_steps must divide {config.num_train_timesteps}, or DDIM cannot be inverted: give 50 or "
                f"100, not {num_inference_steps}"
            )
        pixels = read_images(image, stride_of(self.vae)).to(self._execution_device)
        latents = encode(self.vae, pixels, sample=False).to(self.unet.dtype)
        embeds = self.encode_image(image) if image_embeds is None else image_embeds
        labels, context = self._condition(embeds.to(latents), None, guidance_scale > 1)
        sampler = new_sampler(self.scheduler, "ddim", num_inference_steps, latents.device)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            return self._predict(x, t, labels, context, guidance_scale)

        with constants_kept(self.unet):
            return invert(predict, latents, sampler.timesteps, NoiseSchedule.of(config), config.prediction_type)

    def variations(
        self,
        image: Images,
        n: int = 4,
        eta: float = 1.0,
        seed: int = 0,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        output_type: str = "pil",
    ) -> list[Image.Image] | np.ndarray | Tensor:
        """n variations of an image, the i-th from the seed `seed` + i (§ 3.1).

        Args:
            image: one image, whose sides the autoencoder's stride divides.
            eta: noise of DDIM sampling, from 0, which reconstructs the image, to 1.
        """
        check_whole("n", n)
        check_seeds("seed", seed, n)
        pixels = _one(image)
        embeds = self.encode_image(pixels)
        noise = self.invert(pixels, num_inference_steps, guidance_scale, embeds)
        generators = [torch.Generator().manual_seed(seed + i) for i in range(n)]
        how = {"eta": eta, "generator": generators, "output_type": output_type}
        return self._ddim(embeds.expand(n, -1), noise.expand(n, -1, -1, -1), num_inference_steps, guidance_scale, **how)

    def interpolate(
        self,
        images: Images,
        num: int = 8,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        output_type: str = "pil",
    ) -> list[Image.Image] | np.ndarray | Tensor:
        """`num` images from the first of two images to the second, both included (§ 3.2).

        Embeddings and inverted noise are interpolated spherically.

        Raises ValueError for other than two images, and for fewer than two results.
        """
        check_whole("num", num, least=2)
        pixels = _pixels(images)
        if len(pixels) != 2:
            raise ValueError(f"interpolate takes two images, not {len(pixels)}")
        embeds = self.encode_image(pixels)  # (2, D)
        noise = self.invert(pixels, num_inference_steps, guidance_scale, embeds)
        weights = torch.linspace(0, 1, num).tolist()
        way = torch.cat([slerp_embeds(embeds[:1], embeds[1:], w) for w in weights])
        noise = torch.cat([slerp(noise[:1], noise[1:], w) for w in weights])
        return self._ddim(way, noise, num_inference_steps, guidance_scale, output_type=output_type)

    def text_diff(
        self,
        image: Images,
        base: str,
        target: str,
        strength: float | Sequence[float] = 0.5,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        output_type: str = "pil",
    ) -> list[Image.Image] | np.ndarray | Tensor:
        """Change an image as one text differs from another (§ 3.3); one image for each strength.

        Args:
            image: one image, whose sides the autoencoder's stride divides.
            base, target: what the image shows, and what it is to show: "a cat", "a zebra cat".
            strength: from 0, the image itself, to 1, the difference alone; one or several.
        """
        strengths = [strength] if isinstance(strength, (int, float)) else list(strength)
        for one in strengths:
            check_real("strength", one, most=1.0)
        pixels = _one(image)
        embeds, texts = self.encode_image(pixels), self.encode_prompt([base, target]).embeds
        noise = self.invert(pixels, num_inference_steps, guidance_scale, embeds)
        changed = torch.cat([text_diff(embeds, texts[:1], texts[1:], one) for one in strengths])
        noise = noise.expand(len(strengths), -1, -1, -1)
        return self._ddim(changed, noise, num_inference_steps, guidance_scale, output_type=output_type)

    def reconstruct(
        self, image: Images, num_components: int | Sequence[int], seed: int = 0, **options
    ) -> list[Image.Image] | np.ndarray | Tensor:
        """Images of the first principal components of an image's embedding, one for each number (figure 7).

        Args:
            image: one image.
            num_components: from 0, the mean of the training images' embeddings, to D, all of it; one or several.
            seed: of the noise, which is the same for all.
            options: the other options of a call.
        """
        numbers = [num_components] if isinstance(num_components, int) else list(num_components)
        for number in numbers:
            check_whole("num_components", number, least=0, most=self.projection.config.embedding_dim)
        check_seeds("seed", seed)
        if given := options.keys() & {"prompt", "image_embeds", "generator", "return_dict", "num_images_per_prompt"}:
            raise ValueError(f"reconstruct sets {min(given)} itself: give image, num_components and seed")
        statistics = self.projection.statistics
        components = statistics.reduce(self.encode_image(_one(image)).to(statistics.basis))
        embeds = torch.cat([statistics.expand(components[:, :number]) for number in numbers])
        generators = [torch.Generator().manual_seed(seed) for _ in numbers]
        return self(image_embeds=embeds, generator=generators, **options).images

    def _ddim(
        self, embeds: Tensor, noise: Tensor, num_inference_steps: int, guidance_scale: float, **options
    ) -> list[Image.Image] | np.ndarray | Tensor:
        """Images of embeddings (n, D) and inverted noise (n, C, h, w)."""
        how = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, "scheduler": "ddim"}
        stride = stride_of(self.vae)
        size = {"height": noise.shape[2] * stride, "width": noise.shape[3] * stride}
        return self(image_embeds=embeds, latents=noise, **how, **size, **options).images

    # --- conditioning -----------------------------------------------------------------------------------------------

    def _embeddings(
        self,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] | None,
        given: Tensor | None,
        guidance_scale: float,
        steps: int | None,
        candidates: int,
    ) -> Callable[[Tensor, list[torch.Generator] | None], Tensor]:
        """A function of rows (R,) of the prompts or given embeddings, and R generators, that returns embeddings (R, D).

        Raises ValueError unless prompts or embeddings are given, and for prompts without a prior.
        """
        if given is not None:
            D = self.projection.config.embedding_dim
            if given.ndim != 2 or given.shape[1] != D or not given.isfinite().all() or not given.norm(dim=1).all():
                raise ValueError(f"image_embeds must be (n, {D}), finite and not zero, not {tuple(given.shape)}")
            if negative_prompt is not None or (prompt is not None and self.caption_encoder is None):
                name = "prompt" if negative_prompt is None else "negative_prompt"
                raise ValueError(f"{name} has no effect beside image_embeds: leave one of the two out")
            normalized = F.normalize(given.to(self._execution_device), dim=1)
            return lambda rows, generators: normalized[rows]
        if prompt is None:
            raise ValueError("give either prompt or image_embeds")
        if self.prior is None:
            raise ValueError(
                f"this system has no prior to generate from prompts: train one with `{TRAIN_PRIOR}`; without one there "
                "are variations of images, and calls with image_embeds"
            )
        text = self.encode_prompt(prompt)
        negative = None
        if guidance_scale != 1:
            negatives = check_prompts("negative_prompt", negative_prompt or "")
            if len(negatives) not in (1, len(text.embeds)):
                raise ValueError(f"{len(text.embeds)} prompts need as many negative prompts, not {len(negatives)}")
            every = negatives * (len(text.embeds) // len(negatives))
            negative = self.encode_prompt(every)
        elif negative_prompt:
            logger.warning("negative_prompt has no effect at a prior_guidance_scale of 1: leave one of them out")
        return lambda rows, generators: self.prior.sample(
            text[rows],
            None if negative is None else negative[rows],
            guidance_scale=guidance_scale,
            num_inference_steps=steps,
            num_candidates=candidates,
            generators=generators,
        )

    def _captions(self, prompt: str | Sequence[str] | None) -> Tensor | None:
        """Text states (P, L, W) for a decoder that reads captions; None for others and without a prompt."""
        if self.caption_encoder is None or prompt is None:
            return None
        encoder = ClipTextEncoder("the caption encoder", self.caption_encoder, self.caption_tokenizer)
        return encoder.encode(check_prompts("prompt", prompt)).states.to(self.unet.dtype)

    def _condition(self, embeds: Tensor, captions: Tensor | None, guided: bool) -> tuple[Tensor, Tensor]:
        """Labels (R, D) and context (R, L, W) of the U-Net; with guidance (2R, …), those without embedding first."""
        if not guided:
            return self.projection(embeds, captions)
        dropped = torch.ones(len(embeds), dtype=torch.bool, device=embeds.device)
        halves = self.projection(embeds, None, dropped), self.projection(embeds, captions)
        labels, context = (torch.cat(pair) for pair in zip(*halves, strict=True))
        return labels, context

    def _predict(self, x: Tensor, t: Tensor, labels: Tensor, context: Tensor, guidance_scale: float) -> Tensor:
        """The U-Net's prediction at x (R, C, h, w), guided where there are 2R rows of labels: the same shape."""
        both = x if len(labels) == len(x) else torch.cat([x, x])
        predicted = self.unet(both, t, context, class_labels=labels).sample
        if len(both) == len(x):
            return predicted
        unconditional, conditional = predicted.chunk(2)
        return guide(conditional, unconditional, guidance_scale)

    # --- latents ----------------------------------------------------------------------------------------------------

    def _start(self, n: int, height: int | None, width: int | None, latents: Tensor | None) -> Tensor:
        """The given noise, or zeros, (n, C, h, w). Raises ValueError for another shape, and sides that do not fit."""
        stride = stride_of(self.vae)
        sides = [self.image_size if side is None else side for side in (height, width)]
        for name, side in zip(("height", "width"), sides, strict=True):
            check_whole(name, side)
        if any(side % stride for side in sides):
            raise ValueError(f"height and width must be multiples of {stride}, not {sides[0]}×{sides[1]}")
        shape = (n, self.vae.config.latent_channels, *(side // stride for side in sides))
        if latents is None:
            return torch.zeros(shape, device=self._execution_device, dtype=self.unet.dtype)
        if latents.shape != shape:
            raise ValueError(f"latents must have the shape {shape}, not {tuple(latents.shape)}")
        return latents.to(self._execution_device, self.unet.dtype, copy=True)

    def _decode(self, latents: Tensor, output_type: str, max_bytes: int) -> list[Image.Image] | np.ndarray | Tensor:
        """Latents (n, C, h, w) -> the images by `output_type`"""
        if output_type == "latent":
            return latents
        tokenizer = KLTokenizer(self.vae)
        images = [tokenizer.decode(part) for part in decoding_batches(self.vae, latents, max_bytes)]
        return as_output(torch.cat(images), output_type)


def _check_components(
    clip: CLIPModel,
    unet: UNet2DConditionModel,
    projection: ImageProjection,
    vae: AutoencoderKL,
    prior: EmbeddingPrior | None,
) -> None:
    """Raise ValueError for components that were not trained together."""
    D = clip.config.projection_dim
    if unet.config.class_embed_type != "projection":
        raise ValueError(f"the U-Net takes no image embedding: a decoder is trained with `{TRAIN_DECODER}`")
    of_decoder = unet.config.projection_class_embeddings_input_dim, projection.config.embedding_dim
    if of_decoder != (D, D):
        raise ValueError(
            f"CLIP's embeddings have a width of {D}, the decoder takes {of_decoder[0]}: they were not trained together"
        )
    if prior is not None and (prior.config.embedding_dim, prior.config.text_width) != (
        D,
        clip.config.text_config.hidden_size,
    ):
        raise ValueError(
            f"the prior was trained on another CLIP: its embeddings have a width of {prior.config.embedding_dim}, this "
            f"CLIP's {D}"
        )
    if unet.config.in_channels != vae.config.latent_channels:
        raise ValueError(
            f"the U-Net takes {unet.config.in_channels} channels, the autoencoder makes {vae.config.latent_channels}: "
            "they were not trained together"
        )


def _pixels(images: Images) -> Tensor:
    """(m, 3, H, W) in [0, 1]"""
    return (read_images(images, 1) + 1) / 2


def _one(image: Images) -> Tensor:
    """(1, 3, H, W) in [0, 1]. Raises ValueError for several images."""
    pixels = _pixels(image)
    if len(pixels) != 1:
        raise ValueError(f"give one image, not {len(pixels)}")
    return pixels
