"""A bidirectional transformer that predicts masked image codes from the others and the text, as in MaskGIT (Chang et
al. 2022, arXiv 2202.04200) and Muse (Chang et al. 2023, arXiv 2301.00704).

A masked code has the number K, one past the codebook. `t2i.prior.parallel_decoding` generates images with it.

Shapes: B batch · T text length · N = s² codes of an image · s grid side · V text vocabulary · K codebook size · C width
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from t2i.nn.attention import SelfAttention
from t2i.prior.transformer import Block, CodeTransformer, TextImageTransformer, initialise, place_padding

MEAN_MASK_RATIO = 2 / math.pi  # ∫ cos(π r / 2) dr over [0, 1]


class MaskedTransformer(CodeTransformer, ModelMixin, ConfigMixin):
    """The conditionals p(code n | text, the codes that are not masked).

    Text and codes are one bidirectional sequence through the autoregressive prior's blocks, where Muse cross-attends to
    a frozen T5: it needs no further layers, so that the two systems compare at equal size, and makes a sequence of 256
    codes longer by 24.

    Args:
        text_vocab_size: Number of text tokens, V.
        image_vocab_size: Number of image codes, K.
        text_length: Text tokens per image, T; longer captions are truncated.
        grid_size: Side of the grid of codes, s.
        width: Width of the transformer, in channels.
        layers: Number of transformer layers.
        heads: Number of attention heads per layer.
        dropout: Dropout probability in the transformer.
        label_smoothing: Label smoothing of the cross-entropy (0.1 in MaskGIT).
        attention_backend: "sdpa" or "xformers".
    """

    @register_to_config
    def __init__(
        self,
        text_vocab_size: int,
        image_vocab_size: int,
        text_length: int = 24,
        grid_size: int = 8,
        width: int = 256,
        layers: int = 6,
        heads: int = 8,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        attention_backend: str = "sdpa",
    ):
        super().__init__()
        self.image_length = grid_size**2
        self.text_tokens = nn.Embedding(text_vocab_size + text_length, width)  # one padding token per position
        self.text_positions = nn.Parameter(torch.zeros(text_length, width))
        self.image_tokens = nn.Embedding(image_vocab_size + 1, width)  # the last is the mask
        self.rows = nn.Parameter(torch.zeros(grid_size, 1, width))
        self.columns = nn.Parameter(torch.zeros(1, grid_size, width))
        self.blocks = nn.ModuleList(Block(width, heads, dropout, SelfAttention) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.image_bias = nn.Parameter(torch.zeros(image_vocab_size))
        initialise(self, self.text_positions, self.rows, self.columns)
        self.set_attention_backend(attention_backend)

    @property
    def mask_code(self) -> int:
        """The number of a masked code, K."""
        return self.config.image_vocab_size

    def forward(self, text: Tensor, codes: Tensor) -> Tensor:
        """Text (B, T), codes (B, N) of which some are masked -> logits of every code, (B, N, K)."""
        T, N = self.config.text_length, self.image_length
        if text.shape[1:] != (T,) or codes.shape[1:] != (N,):
            given = tuple(text.shape), tuple(codes.shape)
            raise ValueError(
                f"text and codes must have the shapes (B, {T}) and (B, {N}), not {given[0]} and {given[1]}"
            )
        words = self.text_tokens(place_padding(text, self.config.text_vocab_size)) + self.text_positions  # (B, T, C)
        patches = self.image_tokens(codes) + self.code_positions()  # (B, N, C)
        x = self._through_blocks(torch.cat([words, patches], dim=1))  # (B, T + N, C)
        x = self.norm(x[:, T:])  # (B, N, C)
        # The output layer shares its weights with the codes' embeddings (Press and Wolf 2017, arXiv 1608.05859).
        return F.linear(x, self.image_tokens.weight[: self.mask_code], self.image_bias)

    def loss(self, text: Tensor, codes: Tensor, masked: Tensor) -> dict[str, Tensor]:
        """Text (B, T), codes (B, N), which of them are masked (bool, B, N) -> scalars: `loss` to minimise; `masked`,
        nats/token of the masked codes.

        MaskGIT's eq. 1. The sum over masked codes is divided by their expected number and not by the number in this
        batch, so that the gradient of a batch is the mean of its parts' gradients.
        """
        logits = self(text, torch.where(masked, self.mask_code, codes)).transpose(1, 2).float()  # (B, K, N)
        per_code = F.cross_entropy(logits, codes, reduction="none", label_smoothing=self.config.label_smoothing)
        total = (per_code * masked).sum()
        expected = MEAN_MASK_RATIO * codes.numel()
        return {"loss": total / expected, "masked": total.detach() / masked.sum().clamp(min=1)}


def copy_from_causal(causal: TextImageTransformer, masked: MaskedTransformer) -> None:
    """Copy the weights of an autoregressive prior over the same tokens; only the embedding of the mask stays.

    Raises ValueError if sizes differ.
    """
    given, own = causal.state_dict(), masked.state_dict()
    try:
        given["image_tokens.weight"] = torch.cat([given["image_tokens.weight"], own["image_tokens.weight"][-1:]])
        masked.load_state_dict({name: given[name] for name in own})
    except (KeyError, RuntimeError) as error:
        raise ValueError("the prior has other sizes than this transformer; give both the same") from error


def mask_ratio(r: float) -> float:
    """The cosine schedule γ(r) = cos(π r / 2) of MaskGIT, § 3.3: the fraction of codes that are masked, from 1 to 0."""
    return math.cos(math.pi * r / 2)


def random_mask(num_codes: int, rng: np.random.Generator) -> Tensor:
    """The mask of a training image, bool (N,): ⌈γ(r) N⌉ codes at random, with r uniform in [0, 1); at least one."""
    masked = torch.zeros(num_codes, dtype=torch.bool)
    num_masked = math.ceil(mask_ratio(rng.random()) * num_codes)
    masked[torch.from_numpy(rng.permutation(num_codes)[:num_masked])] = True
    return masked
