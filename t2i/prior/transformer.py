"""A decoder-only transformer over [text tokens, image codes], as in DALL·E (Ramesh et al. 2021, arXiv 2102.12092).

The sequence is BOS, T text tokens, then N = s² image codes in raster order. Text and codes have separate vocabularies
and output layers: text token t is predicted from the preceding tokens over the text vocabulary, code n from the whole
text and the preceding codes over the codebook.

Shapes: B batch · T text length · N codes of an image · s grid side · V text vocabulary · K codebook size · C width
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from t2i.nn.attention import CausalSelfAttention, KVCache, SelfAttention, check_backend
from t2i.nn.linear import MLP, Linear, linear

PAD = 0  # the text tokenizer's padding id


class Block(nn.Module):
    """Pre-norm transformer block (Radford et al. 2019)."""

    def __init__(self, width: int, heads: int, dropout: float, attention: type[SelfAttention] = CausalSelfAttention):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor, *cache: KVCache) -> Tensor:
        """(B, L, C) -> (B, L, C); causal attention takes a cache."""
        x = x + self.dropout(self.attention(self.norm1(x), *cache))
        return x + self.dropout(self.mlp(self.norm2(x)))

    def decoding_step(self, rows: int) -> Callable[[Tensor, KVCache], Tensor]:
        """`forward` for the position (rows, C) after those in a cache, without dropout and gradients.

        It has looked up all weights, which takes a small model longer than to compute with them. A block with parts
        that are not its own, such as a LoRA, or that is compiled, is called as it is.
        """
        if not self._is_plain():
            return lambda x, cache: self(x[:, None], cache)[:, 0]
        heads = self.attention.heads
        norm1, norm2 = _bound_norm(self.norm1), _bound_norm(self.norm2)
        qkv, out = self.attention.qkv.bound(rows), self.attention.out.bound(rows)
        up, down = self.mlp[0].bound(rows, F.gelu), self.mlp[2].bound(rows)

        def step(x: Tensor, cache: KVCache) -> Tensor:
            R, C = x.shape
            new = qkv(norm1(x)).view(R, 3, heads, 1, C // heads).transpose(0, 1)
            k, v = cache.append(new[1:])
            x = x + out(F.scaled_dot_product_attention(new[0], k, v).view(R, C))
            return x + down(up(norm2(x)))

        return step

    def _is_plain(self) -> bool:
        """Whether all parts are as the constructor made them, and nothing else happens when they are called."""
        layers = self.attention.qkv, self.attention.out, self.mlp[0], self.mlp[2]
        own = all(type(layer) is Linear for layer in layers) and self.attention.backend == "sdpa"
        called = (m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in self.modules())
        return own and self._compiled_call_impl is None and not any(called)


def _bound_norm(norm: nn.LayerNorm) -> Callable[[Tensor], Tensor]:
    shape, weight, bias, eps = norm.normalized_shape, norm.weight, norm.bias, norm.eps
    return lambda x: F.layer_norm(x, shape, weight, bias, eps)


def initialise(model: nn.Module, *embeddings: nn.Parameter) -> None:
    """Initialise a transformer with `blocks` as GPT-2 (Radford et al. 2019), with further embeddings."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    for embedding in embeddings:
        nn.init.normal_(embedding, std=0.02)
    for block in model.blocks:  # the residual stream's variance does not grow with depth
        for last in (block.attention.out, block.mlp[2]):
            nn.init.normal_(last.weight, std=0.02 / math.sqrt(2 * len(model.blocks)))


def place_padding(text: Tensor, vocab_size: int) -> Tensor:
    """Replace the padding at position t by token V + t: (B, T) -> a new tensor (B, T)."""
    own = torch.arange(text.shape[1], device=text.device) + vocab_size
    return torch.where(text == PAD, own, text)


class CodeTransformer(nn.Module):
    """What the transformers over text and codes share: a stack of `blocks`, and positions as `rows` and `columns`."""

    _supports_gradient_checkpointing = True

    gradient_checkpointing: bool = False
    blocks: nn.ModuleList
    rows: nn.Parameter
    columns: nn.Parameter

    def set_attention_backend(self, backend: str) -> None:
        """Select "sdpa" or "xformers"; raises ValueError for any other, or one that is not installed."""
        check_backend(backend)
        for block in self.blocks:
            block.attention.backend = backend

    def code_positions(self) -> Tensor:
        """Embeddings of the positions of codes in raster order, (N, C)."""
        return (self.rows + self.columns).flatten(0, 1)

    def _through_blocks(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, C)"""
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


class TextImageTransformer(CodeTransformer, ModelMixin, ConfigMixin):
    """The prior p(text, codes) = p(text) p(codes | text).

    Args:
        text_vocab_size: Number of text tokens, V.
        image_vocab_size: Number of image codes, K.
        text_length: Text tokens per image, T; longer captions are truncated.
        grid_size: Side of the grid of codes, s.
        width: Width of the transformer, in channels.
        layers: Number of transformer layers.
        heads: Number of attention heads per layer.
        dropout: Dropout probability in the transformer.
        text_loss_weight: Weight of the text tokens' loss (1 in the paper, §2.2).
        image_loss_weight: Weight of the image tokens' loss (7 in the paper, §2.2).
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
        text_loss_weight: float = 1.0,
        image_loss_weight: float = 7.0,
        attention_backend: str = "sdpa",
    ):
        super().__init__()
        self.image_length = grid_size**2
        # One padding token per text position (§2.2).
        self.text_tokens = nn.Embedding(text_vocab_size + text_length, width)
        self.bos = nn.Parameter(torch.zeros(width))
        self.text_positions = nn.Parameter(torch.zeros(text_length, width))
        self.image_tokens = nn.Embedding(image_vocab_size, width)
        self.rows = nn.Parameter(torch.zeros(grid_size, 1, width))
        self.columns = nn.Parameter(torch.zeros(1, grid_size, width))
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.text_bias = nn.Parameter(torch.zeros(text_vocab_size + text_length))
        self.image_bias = nn.Parameter(torch.zeros(image_vocab_size))
        initialise(self, self.bos, self.text_positions, self.rows, self.columns)
        self.set_attention_backend(attention_backend)

    # ------------------------------------------------------------------------------------------------- training

    def forward(self, text: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Text (B, T) and the first n ≤ N codes (B, n) -> text logits (B, T, V + T), code logits (B, min(n + 1, N), K).

        Text logits t predict text token t, code logits i predict code i.
        """
        n = min(codes.shape[1], self.image_length - 1)  # the last code predicts nothing
        x = torch.cat([self.embed_text(text), self.embed_codes(codes[:, :n])], dim=1)  # (B, 1 + T + n, C)
        x = self.norm(self._through_blocks(x))
        T = self.config.text_length
        return self.text_logits(x[:, :T]), self.image_logits(x[:, T:])

    def loss(self, text: Tensor, codes: Tensor) -> dict[str, Tensor]:
        """Text (B, T), codes (B, N) -> scalars: `loss` to minimise; `text` and `image`, nats/token.

        A dropped caption (all padding) counts as 0 in the mean of the text loss.
        """
        text_logits, image_logits = self(text, codes)
        target = self.place_padding(text)
        per_token = F.cross_entropy(text_logits.transpose(1, 2).float(), target, reduction="none")  # (B, T)
        present = (text != PAD).any(1, keepdim=True)
        text_loss = (per_token * present).mean()
        image_loss = F.cross_entropy(image_logits.transpose(1, 2).float(), codes)
        wt, wi = self.config.text_loss_weight, self.config.image_loss_weight
        loss = (wt * text_loss + wi * image_loss) / (wt + wi)
        return {"loss": loss, "text": text_loss.detach(), "image": image_loss.detach()}

    def log_likelihood(self, text: Tensor, codes: Tensor) -> Tensor:
        """Text (B, T), codes (B, N) -> log p(codes | text) in nats, (B,)."""
        return self.log_likelihoods(text, codes)[1]

    @torch.no_grad()
    def log_likelihoods(self, text: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Text (B, T), codes (B, N) -> log p(text) and log p(codes | text) in nats, both (B,).

        As in the loss, a text is all of its T tokens, padding included.
        """
        text_logits, image_logits = self(text, codes)
        pairs = (text_logits, self.place_padding(text)), (image_logits, codes)
        log_text, log_codes = (
            -F.cross_entropy(logits.transpose(1, 2).float(), target, reduction="none").sum(1)
            for logits, target in pairs
        )
        return log_text, log_codes

    def mask_impossible_text(self, logits: Tensor, index: int) -> Tensor:
        """Logits (B, V + T) of text token `index` -> the same, with −∞ for tokens that no caption has there.

        These are the padding of other positions, and the padding of the first: no caption is empty. What follows
        padding is padding, which is the caller's to see to.
        """
        V = self.config.text_vocab_size
        possible = torch.arange(logits.shape[-1], device=logits.device)
        possible = (possible != PAD) & ((possible < V) | ((possible == V + index) & (index > 0)))
        return logits.masked_fill(~possible, -torch.inf)

    # The output layers share their weights with the embeddings (Press and Wolf 2017, arXiv 1608.05859).

    def text_logits(self, x: Tensor) -> Tensor:
        """(…, C) -> (…, V + T)"""
        return F.linear(x, self.text_tokens.weight, self.text_bias)

    def image_logits(self, x: Tensor) -> Tensor:
        """(…, C) -> (…, K)"""
        return linear(x, self.image_tokens.weight, self.image_bias)

    # ------------------------------------------------------------------------------------------------ embedding

    def place_padding(self, text: Tensor) -> Tensor:
        """Replace the padding at position t by token V + t: (B, T) -> a new tensor (B, T)."""
        if text.ndim != 2 or text.shape[1] != self.config.text_length:
            raise ValueError(f"text must have the shape (B, {self.config.text_length}), not {tuple(text.shape)}")
        return place_padding(text, self.config.text_vocab_size)

    def embed_text(self, text: Tensor) -> Tensor:
        """Text (B, T) -> BOS and text (B, 1 + T, C)"""
        tokens = self.text_tokens(self.place_padding(text)) + self.text_positions  # (B, T, C)
        return torch.cat([self.bos.expand(len(text), 1, -1), tokens], dim=1)  # (B, 1 + T, C)

    def embed_codes(self, codes: Tensor) -> Tensor:
        """The first codes (B, n) -> (B, n, C)"""
        return self.image_tokens(codes) + self.code_positions()[: codes.shape[1]]
