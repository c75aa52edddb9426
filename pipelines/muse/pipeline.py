"""Text to image and inpainting by parallel decoding of image tokens: MaskGIT (Chang et al. 2022, arXiv 2202.04200) and
Muse (Chang et al. 2023, arXiv 2301.00704).

Shapes: P prompts · n images · m given images · R rows of a batch · T text length · N = s² codes · K codebook size
S image side
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from t2i.checks import check_real, check_whole
from t2i.diffusion.guidance import guide
from t2i.images import as_output
from t2i.pipelines.codes import CodePipeline, check_inputs
from t2i.pipelines.generators import Generators, own_each
from t2i.pipelines.latent_diffusion.inputs import Images, read_images, read_masks
from t2i.pipelines.reranking import (
    Reranker,
    candidate_generators,
    check_reranker,
    keep_best,
    open_reranker,
)
from t2i.prior.masked import MaskedTransformer
from t2i.prior.parallel_decoding import fix_codes, guidance_at, halton_order, num_masked
from t2i.prior.sampling import check_probabilities, check_sampling
from t2i.tokenizers.base import ImageTokenizer

logger = logging.getLogger(__name__)
Schedule = Literal["cosine", "halton"]
GuidanceSchedule = Literal["constant", "linear"]
CHOICE_TEMPERATURE = 4.5  # as in MaskGIT


@dataclass
class MusePipelineOutput(BaseOutput):
    """
    Args:
        images: by `output_type`, a list of PIL images, an array (n, S, S, 3) or a tensor (n, 3, S, S) in [0, 1], or
            for "latent" the codes (n, s, s).
        tokens: the codes (n, s, s) of the images.
        scores: (n,), of the images, by the reranker; −∞ for images that an interrupted call did not reach; None without
            a reranker.
    """

    images: list[Image.Image] | np.ndarray | Tensor
    tokens: Tensor
    scores: Tensor | None = None


class MusePipeline(CodePipeline):
    """Args:
    tokenizer: the text tokenizer.
    prior: the bidirectional transformer over text tokens and image codes.
    image_tokenizer: between pixels and codes, such as a VQ-VAE.

    Raises ValueError for components that were not trained together.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, prior: MaskedTransformer, image_tokenizer: ImageTokenizer):
        super().__init__()
        self._set_components(tokenizer, prior, image_tokenizer)
        self.max_batch_bytes = 128 * 2**20

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        image: Images | None = None,
        mask_image: Images | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 12,
        guidance_scale: float = 2.0,
        guidance_schedule: GuidanceSchedule = "constant",
        schedule: Schedule = "cosine",
        temperature: float = 1.0,
        choice_temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        num_images_per_prompt: int = 1,
        num_candidates: int = 1,
        reranker: Reranker | None = None,
        generator: Generators = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[MusePipeline, int, int, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("codes",),
    ) -> MusePipelineOutput | tuple:
        """Generate `num_images_per_prompt` images of each prompt, those of the first prompt first; with an image and a
        mask, repaint the image under the mask.

        Args:
            prompt: one or more prompts.
            negative_prompt: prompts to steer away from; by default the empty prompt.
            image: image of S×S pixels to repaint, or one per prompt, as LatentDiffusionInpaintPipeline takes them.
                Codes that cover no pixel to repaint do not change. Outside the mask, PIL images are returned bit for
                bit, and tensors up to the rounding of floats.
            mask_image: white to repaint, black to keep (threshold 1/2): one, or one per image.
            height, width: in pixels; only the size the prior was trained on, the default, is valid.
            num_inference_steps: evaluations of the transformer; an image with fewer codes to sample takes fewer.
            guidance_scale: scale of classifier-free guidance; 1 is none, higher follows the prompt more closely.
            guidance_schedule: "constant", or "linear": from 1 at the first step to `guidance_scale` at the last of
                `num_inference_steps` (Muse), which an image with fewer codes to sample does not reach.
            schedule: which codes a step keeps: "cosine", those of which the model is most certain (MaskGIT); "halton",
                the next ones of a fixed order that is spread evenly. How many is the same cosine for both.
            temperature, top_k, top_p: sampling options of each code, applied after guidance.
            choice_temperature: scale, at the first step, of the noise by which "cosine" chooses; it decreases to 0 at
                the last. By default 4.5, as in MaskGIT.
            num_candidates: candidates per image, of which the one with the highest score is kept. Memory does not grow
                with their number.
            reranker: what scores the candidates: the name of a CLIP, such as "runs/clip-toybox", a folder, a Hub id or
                "open_clip:ARCH/PRETRAINED"; or a function of a list of prompts and a list of PIL images that returns
                one score for each. Several candidates need one. With one, a tuple (`return_dict=False`) ends with the
                scores.
            generator: one per image, which then depends on no other; or one, which seeds one per image. Of several
                candidates, each has a generator that is seeded from its image's.
            callback_on_step_end: called as f(pipe, step, step, tensors) after each step with the rows of the current
                batch; "codes" that it returns replace the sampled ones.
            callback_on_step_end_tensor_inputs: the tensors it gets: "codes" (rows, N), with K for masked ones, "logits"
                (rows, N, K) after guidance.

        Raises ValueError, with the remedy, for invalid arguments, and FloatingPointError for probabilities that are
        not finite.
        """
        size = self.image_size
        prompts, negatives = check_inputs(prompt, negative_prompt, height, width, size, output_type)
        check_sampling(temperature, top_k, top_p)
        check_real("guidance_scale", guidance_scale)
        check_whole("num_inference_steps", num_inference_steps)
        check_whole("num_images_per_prompt", num_images_per_prompt)
        check_whole("num_candidates", num_candidates)
        check_reranker(reranker, num_candidates, "parallel decoding")
        if negative_prompt and guidance_scale == 1:
            logger.warning("negative_prompt has no effect at a guidance_scale of 1: give another, or leave it out")
        _check_one_of("guidance_schedule", guidance_schedule, get_args(GuidanceSchedule))
        _check_one_of("schedule", schedule, get_args(Schedule))
        if unknown := set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs):
            raise ValueError(f"no tensor {unknown.pop()!r} for callbacks: there are {self._callback_tensor_inputs}")
        self._interrupt = False
        scorer = None if reranker is None else open_reranker(reranker, self.device)
        n = len(prompts) * num_images_per_prompt
        generators = own_each(generator, n)
        row_generators = generators and candidate_generators(generators, num_candidates)
        text, negative_text = self._encode(prompts), self._encode(negatives)  # (P, T)
        pixels, repaint = self._read(image, mask_image, len(prompts), n)
        given = self._start(pixels, repaint, n)  # (n, N)
        best, scores = given.clone(), None if scorer is None else torch.full((n,), -torch.inf)

        steps = num_inference_steps
        order, noise = self._choice(schedule, choice_temperature)
        finite = torch.ones((), dtype=torch.bool, device=self.device)
        batches = self._row_batches(n * num_candidates, guidance_scale != 1)
        with self.progress_bar(total=steps * len(batches)) as bar:
            for rows in batches:
                images = torch.arange(rows.start, rows.stop) // num_candidates  # (R,), of each row
                of = images // num_images_per_prompt  # (R,), the prompt of each row
                own = row_generators and list(islice(row_generators, len(images)))
                codes = start = given[images]  # (R, N)
                initially = (start == self.prior.mask_code).sum(1).cpu()  # (R,), on the CPU: no step waits for a device
                for step in range(steps):
                    remaining = num_masked(step, steps, initially)  # (R,)
                    scale = guidance_at(step, steps, guidance_scale, guidance_schedule)
                    logits = self._logits(text[of], negative_text[of], codes, scale)  # (R, N, K)
                    finite &= logits.isfinite().all()
                    codes = fix_codes(
                        logits,
                        codes,
                        remaining.to(self.device),
                        order=order,
                        temperature=temperature,
                        top_k=top_k,
                        top_p=top_p,
                        choice_temperature=noise * (1 - (step + 1) / steps),
                        generators=own,
                    )
                    if callback_on_step_end is not None:
                        tensors = {"codes": codes, "logits": logits}
                        tensors = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                        changed = callback_on_step_end(self, step, step, tensors) or {}
                        kept = start != self.prior.mask_code
                        codes = torch.where(kept, start, changed.get("codes", codes))
                    bar.update()
                    if self._interrupt or not remaining.any():
                        break
                codes = codes.masked_fill(codes == self.prior.mask_code, 0)  # of an interrupted call
                check_probabilities(finite, self.prior.dtype)
                if scorer is None:
                    best[rows] = codes
                else:
                    row_prompts = [prompts[i] for i in of.tolist()]
                    row_pixels, row_repaint = (None, None) if pixels is None else (pixels[images], repaint[images])
                    row_scores = self._image_scores(scorer, row_prompts, codes, row_pixels, row_repaint)
                    keep_best(images, codes, row_scores, best, scores)
                if self._interrupt:
                    break

        best = best.masked_fill(best == self.prior.mask_code, 0)  # of images that an interrupted call did not reach
        tokens = best.unflatten(1, (self.prior.config.grid_size, -1))  # (n, s, s)
        images = self._decode(tokens, pixels, repaint, output_type)
        if not return_dict:
            return (images, tokens) if scores is None else (images, tokens, scores)
        return MusePipelineOutput(images=images, tokens=tokens, scores=scores)

    def _choice(self, schedule: Schedule, temperature: float | None) -> tuple[Tensor | None, float]:
        """The order (N,) in which codes are kept (None: the most certain first), and the noise of the choice."""
        if temperature is not None:
            check_real("choice_temperature", temperature)
        if schedule == "cosine":
            return None, CHOICE_TEMPERATURE if temperature is None else temperature
        if temperature is not None:
            logger.warning("choice_temperature has no effect with the schedule 'halton', whose order is fixed")
        return torch.tensor(halton_order(self.prior.config.grid_size), device=self.device), 0.0

    def _read(
        self, image: Images | None, mask_image: Images | None, prompts: int, n: int
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Pixels (n, 3, S, S) in [-1, 1] and which to repaint (bool, n, 1, S, S); None without an image."""
        if image is None and mask_image is None:
            return None, None
        if image is None or mask_image is None:
            raise ValueError("inpainting takes an image and a mask_image: give both, or neither to generate from text")
        S = self.image_size
        pixels = read_images(image, self.image_tokenizer.stride)
        if pixels.shape[2:] != (S, S):
            H, W = pixels.shape[2:]
            raise ValueError(f"this pipeline repaints images of {S}×{S}, not {W}×{H}: scale and crop the image first")
        if len(pixels) not in (1, prompts):
            raise ValueError(f"give one image, or one for each prompt: there are {len(pixels)} for {prompts}")
        repaint = read_masks(mask_image, len(pixels), (S, S))
        if not repaint.any():
            logger.warning("the mask is black everywhere, so nothing is repainted: white marks what to repaint")
        both = (given.to(self.device) for given in (pixels, repaint))
        pixels, repaint = (given.repeat_interleave(n // len(given), 0) for given in both)
        return pixels, repaint

    def _start(self, pixels: Tensor | None, repaint: Tensor | None, n: int) -> Tensor:
        """The codes at the start (n, N): masked where a code covers any pixel to repaint, else the image's."""
        N, K = self.prior.image_length, self.prior.mask_code
        if pixels is None or repaint is None:
            return torch.full((n, N), K, device=self.device)
        codes = torch.cat([self.image_tokenizer.encode(part) for part in pixels.split(64)]).flatten(1)
        masked = F.max_pool2d(repaint.float(), self.image_tokenizer.stride).bool().flatten(1)
        return codes.masked_fill(masked, K)

    def _logits(self, text: Tensor, negative_text: Tensor, codes: Tensor, scale: float) -> Tensor:
        """Text (R, T) twice, codes (R, N) -> guided logits (R, N, K); both halves of guidance run as one batch."""
        if scale == 1:
            return self.prior(text, codes)
        both = self.prior(torch.cat([text, negative_text]), torch.cat([codes, codes]))
        return guide(*both.chunk(2), scale)

    def _row_bytes(self) -> int:
        """Of the logits."""
        return self.prior.image_length * self.prior.mask_code * 4

    def _decode(
        self, codes: Tensor, pixels: Tensor | None, repaint: Tensor | None, output_type: str
    ) -> list[Image.Image] | np.ndarray | Tensor:
        """Codes (n, s, s) -> images; outside the mask they are the given ones."""
        if output_type == "latent":
            return codes
        return as_output(self._decode_codes(codes, pixels, repaint), output_type)


def _check_one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}: choose {' or '.join(map(repr, choices))}")
