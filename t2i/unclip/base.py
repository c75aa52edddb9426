"""What both priors over CLIP image embeddings share.

Shapes: B prompts · R sequences, with guidance 2B · L text positions · W width of the text states
D width of the embeddings · C model width
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from t2i.checks import check_real, check_whole
from t2i.nn.attention import KVCache
from t2i.nn.linear import Linear
from t2i.unclip.clip import ClipText
from t2i.unclip.embeddings import EmbeddingStatistics

Noise = Sequence[torch.Generator] | None  # one generator per row, or torch's global one
SampleNoise = Callable[[np.random.Generator], dict[str, np.ndarray]]


def no_noise(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The random inputs of a loss that has none."""
    return {}


class TextInput(nn.Module):
    """The beginning of a prior's sequence: text states and the text embedding.

    Padding is replaced by learned embeddings of its positions (as in DALL·E, Ramesh et al. 2021, § 2.2), so that no
    attention mask is needed.

    Args:
        text_width, text_length, embedding_dim: W, L, D.
        width: C.
    """

    def __init__(self, text_width: int, text_length: int, embedding_dim: int, width: int):
        super().__init__()
        self.text_length = text_length
        self.states = Linear(text_width, width)
        self.embeds = Linear(embedding_dim, width)
        self.padding = nn.Parameter(torch.zeros(text_length, width))
        self.positions = nn.Parameter(torch.zeros(text_length + 1, width))

    def forward(self, text: ClipText) -> Tensor:
        """Up to L states of each prompt -> (B, L + 1, C). Raises ValueError for more than L."""
        B, given, _ = text.states.shape
        if given > self.text_length:
            raise ValueError(f"this prior reads texts of up to {self.text_length} tokens, not {given}")
        padding = self.padding.expand(B, -1, -1)  # (B, L, C)
        states = torch.where(text.mask[..., None], self.states(text.states.to(padding)), padding[:, :given])
        embeds = self.embeds(text.embeds.to(padding) * text.embeds.shape[1] ** 0.5)  # of entries of about 1
        return torch.cat([states, padding[:, given:], embeds[:, None]], 1) + self.positions


class Continuation:
    """Causal blocks that have read the text of R sequences, and read what follows one position at a time.

    The text is read once, as no later position has an effect on it.

    Args:
        text: (R, L + 1, C)
        blocks: transformer blocks with causal attention.
        room: positions that may follow.
    """

    def __init__(self, text: Tensor, blocks: nn.ModuleList, room: int):
        R, self.length, C = text.shape
        heads, how = blocks[0].attention.heads, {"device": text.device, "dtype": text.dtype}
        self.caches = [KVCache(R, heads, self.length + room, C // heads, **how) for _ in blocks]
        self.steps = [block.decoding_step(R) for block in blocks]
        for block, cache in zip(blocks, self.caches, strict=True):
            text = block(text, cache)
        self.last = text[:, -1]  # the output at the end of the text, (R, C)

    def add(self, x: Tensor) -> Tensor:
        """One position (R, C) -> its output (R, C)"""
        for step, cache in zip(self.steps, self.caches, strict=True):
            x = step(x, cache)
        return x

    def rewind(self) -> None:
        """Forget what follows the text."""
        for cache in self.caches:
            cache.filled = self.length


class EmbeddingPrior(nn.Module):
    """p(image embedding | text); the base class of both priors.

    Attributes:
        statistics: mean and scale of the training embeddings.
        steps: the default number of sampling steps; None where there is none to choose.
    """

    statistics: EmbeddingStatistics
    steps: int | None = None

    def fit(self, embeds: Tensor) -> None:
        """Measure the statistics of training embeddings (N, D)."""
        self.statistics.fit(embeds)

    @property
    def noise(self) -> SampleNoise:
        """Samples the random inputs of the loss for one sample; picklable, for the data workers."""
        return no_noise

    def errors(self, text: ClipText, image_embeds: Tensor, **noise: Tensor) -> Tensor:
        """The loss of each sample by its parts, (B, …).

        Args:
            image_embeds: (B, D), of length 1.
            noise: a batch of what `self.noise` samples.
        """
        raise NotImplementedError

    def loss(self, text: ClipText, image_embeds: Tensor, **noise: Tensor) -> dict[str, Tensor]:
        """Scalars: `loss` to minimise; the arguments of `errors`."""
        return {"loss": self.errors(text, image_embeds, **noise).mean()}

    @torch.no_grad()
    def sample(
        self,
        text: ClipText,
        negative_text: ClipText | None = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int | None = None,
        num_candidates: int = 2,
        generators: Noise = None,
    ) -> Tensor:
        """Image embeddings of length 1, (B, D).

        Args:
            negative_text: for classifier-free guidance, B prompts too; needed for a scale other than 1.
            guidance_scale: 1 is the conditional model.
            num_inference_steps: by default the prior's own.
            num_candidates: samples of each prompt, of which the one with the greatest dot product with the text
                embedding is kept (Ramesh et al. 2022, § 2.2, take two).
            generators: one per prompt, which then depends on no other.

        Raises ValueError, with the remedy, for invalid arguments, and FloatingPointError for embeddings that are not
        finite.
        """
        check_real("prior_guidance_scale", guidance_scale)
        check_whole("num_prior_candidates", num_candidates)
        guided = guidance_scale != 1
        if guided and negative_text is None:
            raise ValueError("guidance needs a negative_text, such as the empty prompt, or a guidance_scale of 1")
        both = ClipText.stack(text, negative_text) if guided and negative_text is not None else text
        best = self._sample(both, guidance_scale, num_inference_steps, generators)
        for _ in range(num_candidates - 1):
            other = self._sample(both, guidance_scale, num_inference_steps, generators)
            better = ((other - best) * text.embeds.to(best)).sum(1, keepdim=True) > 0
            best = torch.where(better, other, best)
        if not best.isfinite().all():
            raise FloatingPointError(
                f"the prior's embeddings are not finite in {best.dtype}: lower the prior_guidance_scale, or open the "
                "pipeline in float32; or else the prior's weights are damaged"
            )
        return best

    def _sample(self, text: ClipText, guidance_scale: float, steps: int | None, generators: Noise) -> Tensor:
        """One sample of each prompt (B, D); with guidance, `text` has 2B rows, those of the negative texts last."""
        raise NotImplementedError
