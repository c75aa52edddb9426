"""Text to image by an autoregressive prior over image tokens: DALL·E (Ramesh et al. 2021, arXiv 2102.12092).

Shapes: P prompts · n images · m given images · R rows of a batch · T text length · N = s² codes · K codebook size
S image side
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from t2i.checks import check_prompts, check_whole
from t2i.images import as_output
from t2i.pipelines.codes import CodePipeline, check_inputs, check_output_type
from t2i.pipelines.dalle.sampling import CodeSampling, sample_codes, sample_text
from t2i.pipelines.generators import Generators, own_each
from t2i.pipelines.latent_diffusion.inputs import Images, read_images
from t2i.pipelines.reranking import (
    LIKELIHOOD,
    SCORED,
    Reranker,
    candidate_generators,
    keep_best,
    open_reranker,
)
from t2i.prior.sampling import check_probabilities, check_sampling
from t2i.prior.transformer import PAD, TextImageTransformer
from t2i.tokenizers.base import ImageTokenizer

logger = logging.getLogger(__name__)


@dataclass
class DallePipelineOutput(BaseOutput):
    """
    Args:
        images: by `output_type`, a list of PIL images, an array (n, S, S, 3) or a tensor (n, 3, S, S) in [0, 1], or
            for "latent" the codes (n, s, s).
        tokens: the codes (n, s, s) of the images.
        scores: (n,), by the reranker: for "likelihood" log p(codes | prompt) − log p(codes | no prompt) in nats, how
            well the prompt explains the image; −∞ for images that an interrupted call did not reach.
    """

    images: list[Image.Image] | np.ndarray | Tensor
    tokens: Tensor
    scores: Tensor


@dataclass
class DalleCreationOutput(BaseOutput):
    """
    Args:
        images, tokens: as of DallePipelineOutput.
        captions: the n captions of the images.
    """

    images: list[Image.Image] | np.ndarray | Tensor
    captions: list[str]
    tokens: Tensor


class LogLikelihood(NamedTuple):
    """log p(text, image) = log p(text) + log p(image | text) by its parts, in nats, (n,) each."""

    text: Tensor
    image: Tensor


class DallePipeline(CodePipeline):
    """Args:
    tokenizer: the text tokenizer.
    prior: the transformer over text tokens and image codes.
    image_tokenizer: between pixels and codes, such as a VQ-VAE.

    Raises ValueError for components that were not trained together.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, prior: TextImageTransformer, image_tokenizer: ImageTokenizer
    ):
        super().__init__()
        self._set_components(tokenizer, prior, image_tokenizer)
        self.max_batch_bytes = 512 * 2**20

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float = 2.0,
        temperature: float = 0.85,
        top_k: int | None = 64,
        top_p: float | None = None,
        num_candidates: int = 1,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[DallePipeline, int, int, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("codes",),
        reranker: Reranker = LIKELIHOOD,
        image: Images | None = None,
        keep_codes: int = 0,
    ) -> DallePipelineOutput | tuple:
        """Generate `num_images_per_prompt` images of each prompt, those of the first prompt first; or, with `image` and
        `keep_codes`, complete images.

        Args:
            prompt: one or more prompts.
            negative_prompt: prompts to steer away from; by default the empty prompt.
            height, width: in pixels; only the size the prior was trained on, the default, is valid.
            guidance_scale: scale of classifier-free guidance; 1 is none, higher follows the prompt more closely.
            temperature, top_k, top_p: sampling options of each token, applied after guidance.
            num_candidates: candidates per image, of which the one with the highest score is kept. Memory does not grow
                with their number.
            generator: one per image, which then depends on no other; or one, which seeds one per image. Of several
                candidates, each has a generator that is seeded from its image's.
            callback_on_step_end: called as f(pipe, step, step, tensors) after each code with the rows of the current
                batch; "codes" that it returns replace the sampled ones.
            callback_on_step_end_tensor_inputs: the tensors it gets: "codes" (rows, N), "logits" (rows, K) after
                guidance.
            reranker: what scores the candidates: "likelihood", the prior's own log-likelihood ratio; the name of a
                CLIP (a folder, a Hub id or "open_clip:ARCH/PRETRAINED"); or a function of a list of prompts and a list
                of PIL images that returns one score for each.
            image: an image to complete, or one per prompt, as `encode_images` takes them.
            keep_codes: how many of its codes are kept, bit for bit: the first in raster order, from 0 to N. With N // 2
                the top half is kept.

        Raises ValueError, with the remedy, for invalid arguments, and FloatingPointError for probabilities that are
        not finite.
        """
        prompts, negatives = check_inputs(prompt, negative_prompt, height, width, self.image_size, output_type)
        how = CodeSampling(guidance_scale, temperature, top_k, top_p)
        check_whole("num_images_per_prompt", num_images_per_prompt)
        check_whole("num_candidates", num_candidates)
        if negative_prompt and not how.guided:
            logger.warning("negative_prompt has no effect at a guidance_scale of 1: give another, or leave it out")
        if unknown := set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs):
            raise ValueError(f"no tensor {unknown.pop()!r} for callbacks: there are {self._callback_tensor_inputs}")
        count = len(prompts) * num_images_per_prompt
        generators = own_each(generator, count)
        scorer = None if reranker == LIKELIHOOD else open_reranker(reranker, self.device)
        kept = self._kept_codes(image, keep_codes, len(prompts))  # (P, keep_codes)
        text, negative_text = self._encode(prompts), self._encode(negatives)  # (P, T)
        if num_candidates > 1 and scorer is None and (text == PAD).all(1).any():
            raise ValueError("the likelihood cannot rank candidates of an empty prompt: give a prompt or a reranker")
        self._interrupt = False

        def after_code(i: int, codes: Tensor, logits: Tensor) -> bool:
            if callback_on_step_end is not None:
                tensors = {"codes": codes, "logits": logits}
                tensors = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                changed = callback_on_step_end(self, i, i, tensors) or {}
                if "codes" in changed:
                    codes.copy_(changed["codes"])
            bar.update()
            return self._interrupt

        N = self.prior.image_length
        row_generators = generators and candidate_generators(generators, num_candidates)
        best = torch.zeros(count, N, dtype=torch.long, device=self.device)
        best[:, :keep_codes] = kept.repeat_interleave(num_images_per_prompt, 0)  # also of images that are not reached
        scores = torch.full((count,), -torch.inf, device=self.device)
        batches = self._row_batches(count * num_candidates, how.guided)
        with self.progress_bar(total=(N - keep_codes) * len(batches)) as bar:
            for rows in batches:
                images = torch.arange(rows.start, rows.stop) // num_candidates  # (R,), of each row
                of = images // num_images_per_prompt  # (R,), the prompt of each row
                batch_generators = row_generators and list(islice(row_generators, len(images)))
                codes = sample_codes(
                    self.prior, text[of], negative_text[of], kept[of], how, batch_generators, after_code
                )  # (R, N)
                if scorer is None:
                    batch_scores = self._likelihood_score(text[of], codes)
                else:
                    batch_scores = self._image_scores(scorer, [prompts[i] for i in of.tolist()], codes)
                keep_best(images, codes, batch_scores, best, scores)
                if self._interrupt:
                    break

        side = self.prior.config.grid_size
        tokens = best.view(count, side, side)
        images = self._decode(tokens, output_type)
        if not return_dict:
            return images, tokens, scores
        return DallePipelineOutput(images=images, tokens=tokens, scores=scores)

    @torch.no_grad()
    def create(
        self,
        num_images: int = 1,
        guidance_scale: float = 2.0,
        temperature: float = 0.85,
        top_k: int | None = 64,
        top_p: float | None = None,
        text_temperature: float = 1.0,
        text_top_k: int | None = None,
        text_top_p: float | None = None,
        generator: Generators = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> DalleCreationOutput | tuple:
        """Generate captions from p(text), and an image of each: both from nothing.

        Args:
            guidance_scale, temperature, top_k, top_p: sampling options of the images, as in a call.
            text_temperature, text_top_k, text_top_p: sampling options of the captions.
            generator: one per image, for its caption too; or one, which seeds one per image.

        Raises ValueError, with the remedy, for invalid arguments, and FloatingPointError for probabilities that are
        not finite.
        """
        check_whole("num_images", num_images)
        check_output_type(output_type)
        how = CodeSampling(guidance_scale, temperature, top_k, top_p)
        check_sampling(text_temperature, text_top_k, text_top_p, "text_")
        generators = own_each(generator, num_images)

        def after_code(i: int, codes: Tensor, logits: Tensor) -> bool:
            bar.update()
            return False

        captions, codes = [], []
        batches = self._row_batches(num_images, how.guided)
        with self.progress_bar(total=self.prior.image_length * len(batches)) as bar:
            for rows in batches:
                own, R = generators and generators[rows], rows.stop - rows.start
                text = sample_text(self.prior, R, text_temperature, text_top_k, text_top_p, own)  # (R, T)
                empty, kept = torch.full_like(text, PAD), text.new_zeros(R, 0)
                codes.append(sample_codes(self.prior, text, empty, kept, how, own, after_code))  # (R, N)
                captions += [self.tokenizer.decode(ids[ids != PAD]).strip() for ids in text.cpu()]
        side = self.prior.config.grid_size
        tokens = torch.cat(codes).view(num_images, side, side)
        images = self._decode(tokens, output_type)
        if not return_dict:
            return images, captions, tokens
        return DalleCreationOutput(images=images, captions=captions, tokens=tokens)

    # --- likelihoods ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def log_likelihood(
        self, prompt: str | Sequence[str], image: Images | Tensor, batch_size: int = SCORED
    ) -> LogLikelihood:
        """log p(text) and log p(image | text) of n pairs, in nats. Of an image, it is the likelihood of its codes.

        The likelihood of a text includes its padding, which marks its end; that of an empty one has no meaning, since
        the prior is not trained on it.

        Args:
            prompt: n prompts.
            image: n images, as `encode_images` takes them.

        Raises ValueError, with the remedy, for invalid arguments.
        """
        prompts, codes = check_prompts("prompt", prompt), self.encode_images(image).flatten(1)
        check_whole("batch_size", batch_size)
        if len(prompts) != len(codes):
            raise ValueError(f"there must be one prompt for each image, not {len(prompts)} for {len(codes)}")
        pairs = zip(self._encode(prompts).split(batch_size), codes.split(batch_size), strict=True)
        text, image = zip(*(self.prior.log_likelihoods(t, c) for t, c in pairs), strict=True)
        return LogLikelihood(torch.cat(text), torch.cat(image))

    @torch.no_grad()
    def caption_scores(self, image: Images | Tensor, captions: Sequence[str], batch_size: int = SCORED) -> Tensor:
        """How well each of k captions explains each of m images: log p(image | caption) − log p(image) in nats, (m, k).

        The difference ranks the captions of one image as log p(image | caption) does, and is comparable between images.

        Args:
            image: m images, as `encode_images` takes them.

        Raises ValueError, with the remedy, for invalid arguments.
        """
        texts = self._encode(check_prompts("captions", captions))  # (k, T)
        codes = self.encode_images(image).flatten(1)  # (m, N)
        check_whole("batch_size", batch_size)
        pairs = torch.cartesian_prod(torch.arange(len(codes)), torch.arange(len(texts)))  # (m·k, 2)
        given = [self.prior.log_likelihood(texts[j], codes[i]) for i, j in (p.T for p in pairs.split(batch_size))]
        empty = torch.full_like(texts[:1], PAD)
        without = [self.prior.log_likelihood(empty.expand(len(c), -1), c) for c in codes.split(batch_size)]
        return torch.cat(given).view(len(codes), len(texts)) - torch.cat(without)[:, None]

    @torch.no_grad()
    def encode_images(self, image: Images | Tensor, batch_size: int = SCORED) -> Tensor:
        """Images -> their codes (m, s, s).

        Args:
            image: PIL images, a tensor (m, 3, S, S) or an array (m, S, S, 3) in [0, 1], a list of these, or a single
                one; or their codes, a tensor of integers (m, s, s), which are returned.

        Raises ValueError, with the remedy, for anything else.
        """
        side, K = self.prior.config.grid_size, self.image_tokenizer.codebook_size
        if isinstance(image, Tensor) and not image.is_floating_point():
            if image.shape[-2:] != (side, side) or image.ndim not in (2, 3) or not len(image):
                raise ValueError(f"codes must have the shape (m, {side}, {side}), not {tuple(image.shape)}")
            if not 0 <= image.min() <= image.max() < K:
                raise ValueError(f"codes must lie in [0, {K}), but range from {image.min()} to {image.max()}")
            return image.view(-1, side, side).long().to(self.device)
        pixels = read_images(image, self.image_tokenizer.stride)
        if pixels.shape[2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"images must be {self.image_size}×{self.image_size}, not {pixels.shape[3]}×{pixels.shape[2]}: crop "
                "and scale them"
            )
        return torch.cat([self.image_tokenizer.encode(part.to(self.device)) for part in pixels.split(batch_size)])

    def _likelihood_score(self, text: Tensor, codes: Tensor) -> Tensor:
        """(R, T), (R, N) -> log p(codes | text) − log p(codes | no text), (R,)"""
        parts = []
        for t, c in zip(text.split(SCORED), codes.split(SCORED), strict=True):
            parts.append(self.prior.log_likelihood(t, c) - self.prior.log_likelihood(torch.full_like(t, PAD), c))
        scores = torch.cat(parts)
        check_probabilities(scores.isfinite().all(), self.prior.dtype)
        return scores

    # --- input and output -------------------------------------------------------------------------------------------

    def _kept_codes(self, image: Images | Tensor | None, keep_codes: int, count: int) -> Tensor:
        """The first `keep_codes` codes of the image of each prompt, (P, keep_codes)."""
        check_whole("keep_codes", keep_codes, least=0, most=self.prior.image_length)
        if image is None:
            if keep_codes:
                raise ValueError("keep_codes needs an image, whose first codes are kept: give image=…")
            return torch.zeros(count, 0, dtype=torch.long, device=self.device)
        if keep_codes == 0:
            logger.warning("the image has no effect at keep_codes 0: give the number of codes to keep, or leave it out")
        codes = self.encode_images(image).flatten(1)
        if len(codes) not in (1, count):
            raise ValueError(f"give one image, or one for each prompt: there are {len(codes)} for {count}")
        return codes[:, :keep_codes].expand(count, -1)

    def _row_bytes(self) -> int:
        """Of the key-value cache."""
        c = self.prior.config
        return 2 * c.layers * c.width * (c.text_length + self.prior.image_length) * self.prior.dtype.itemsize

    def _decode(self, codes: Tensor, output_type: str) -> list[Image.Image] | np.ndarray | Tensor:
        if output_type == "latent":
            return codes
        return as_output(self._decode_codes(codes), output_type)
