"""The autoregressive prior of DALL·E 2: the image embedding as a sequence of codes (Ramesh et al. 2022, § 2.2).

The embedding is reduced to its first principal components, in order of decreasing variance; each is quantised into
buckets of equal width, and a causal transformer over [text states, text embedding, codes] predicts them one by one. The
paper's further token for the dot product with the text embedding is left out: `sample` keeps the best of several
samples instead.

Shapes: B prompts · L text positions · D width of the embeddings · P components · n given codes · K buckets · C width
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from t2i.diffusion.guidance import guide
from t2i.prior.sampling import check_probabilities, sample_tokens, shortlist
from t2i.prior.transformer import Block, initialise
from t2i.unclip.base import Continuation, EmbeddingPrior, Noise, TextInput
from t2i.unclip.clip import ClipText
from t2i.unclip.embeddings import EmbeddingStatistics


class AutoregressivePrior(EmbeddingPrior, ModelMixin, ConfigMixin):
    """Predicts the quantised principal components of an image embedding.

    Args:
        embedding_dim, text_width, text_length: of the CLIP: D, the width of its text states, and L.
        num_components: Number of principal components, P; 0 keeps all.
        num_buckets: Number of buckets per component, K.
        width: Width of the transformer, in channels.
        layers: Number of transformer layers.
        heads: Number of attention heads per layer.
        dropout: Dropout probability in the transformer.
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        embedding_dim: int,
        text_width: int,
        text_length: int,
        num_components: int = 64,
        num_buckets: int = 256,
        width: int = 256,
        layers: int = 6,
        heads: int = 4,
        dropout: float = 0.0,
    ):
        super().__init__()
        if num_buckets < 2:
            raise ValueError(f"num_buckets must be at least 2, not {num_buckets}")
        P = num_components or embedding_dim
        self.statistics = EmbeddingStatistics(embedding_dim, P)
        self.register_buffer("low", torch.full((P,), -1.0))  # the bounds of each component
        self.register_buffer("high", torch.full((P,), 1.0))
        self.text = TextInput(text_width, text_length, embedding_dim, width)
        self.codes = nn.Embedding(num_buckets, width)
        self.positions = nn.Parameter(torch.zeros(P, width))
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(P, num_buckets))
        initialise(self, self.text.padding, self.text.positions, self.positions)

    @property
    def num_codes(self) -> int:
        """P"""
        return len(self.low)

    # --- embeddings and codes ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def fit(self, embeds: Tensor) -> None:
        """Also the components' bounds, those of the training embeddings (N, D).

        Raises ValueError for too few embeddings to tell the components apart.
        """
        super().fit(embeds)
        components = self.statistics.reduce(embeds.to(self.low))  # (N, P)
        low, high = components.amin(0), components.amax(0)
        if not (high - low > 1e-4).all():
            raise ValueError(f"{len(embeds)} embeddings span fewer than {self.num_codes} components: take fewer")
        self.low.copy_(low)
        self.high.copy_(high)

    def encode(self, embeds: Tensor) -> Tensor:
        """Image embeddings (B, D) -> codes (B, P); what is out of bounds becomes the nearest bucket."""
        K = self.config.num_buckets
        place = (self.statistics.reduce(embeds.float()) - self.low) / (self.high - self.low)  # in [0, 1]
        return (place * K).floor().long().clamp(0, K - 1)

    def components(self, codes: Tensor) -> Tensor:
        """The middles of the buckets, as scaled components: (B, P) -> (B, P)"""
        return self.low + (codes + 0.5) / self.config.num_buckets * (self.high - self.low)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, P) -> image embeddings of length 1, (B, D)"""
        return self.statistics.expand(self.components(codes))

    # --- training ---------------------------------------------------------------------------------------------------

    def forward(self, text: ClipText, codes: Tensor) -> Tensor:
        """B prompts and the first n < P codes (B, n) -> logits (B, n + 1, K): those at i predict code i."""
        n = codes.shape[1]
        x = torch.cat([self.text(text), self.codes(codes) + self.positions[:n]], 1)  # (B, L + 1 + n, C)
        for block in self.blocks:
            x = block(x)
        return self._logits(x[:, -(n + 1) :], slice(n + 1))

    def errors(self, text: ClipText, image_embeds: Tensor) -> Tensor:
        """Negative log-likelihood of each code, nats/code: B prompts, (B, D) -> (B, P)"""
        codes = self.encode(image_embeds)
        logits = self(text, codes[:, :-1]).float()
        return F.cross_entropy(logits.transpose(1, 2), codes, reduction="none")

    def _logits(self, x: Tensor, places: int | slice) -> Tensor:
        """(B, …, C) -> logits of the codes at these places, (B, …, K); the weights are those of the embedding."""
        return F.linear(self.norm(x), self.codes.weight) + self.bias[places]

    # --- sampling ---------------------------------------------------------------------------------------------------

    def _sample(self, text: ClipText, guidance_scale: float, steps: int | None, generators: Noise) -> Tensor:
        """Code by code, with a key-value cache."""
        if steps is not None:
            raise ValueError("an autoregressive prior takes one step per code: leave num_prior_steps out")
        copies = 1 if guidance_scale == 1 else 2
        sequence = Continuation(self.text(text), self.blocks, self.num_codes - 1)  # the last code predicts nothing
        codes = torch.zeros(len(text.embeds) // copies, self.num_codes, dtype=torch.long, device=self.device)
        x = sequence.last
        for i in range(self.num_codes):
            logits = self._logits(x, i)  # (R, K)
            check_probabilities(logits.isfinite().all(), self.dtype)
            if copies == 2:
                logits = guide(*logits.chunk(2), guidance_scale)
            codes[:, i] = sample_tokens(*shortlist(logits), generators)
            if i + 1 < self.num_codes:
                x = sequence.add(self.codes(codes[:, i].repeat(copies)) + self.positions[i])
        return self.decode(codes)
