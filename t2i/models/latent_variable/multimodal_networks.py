"""The networks of the multimodal VAE: convolutional for images, GRUs for captions.

Captions are token ids (B, T), padded with 0. The first 0 is the end; everything after it is ignored.
Shapes: B batch · C channels · S image side · T text length · V vocabulary · D latent dimensions
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.models.autoregressive.characters import END, counted
from t2i.models.base import Generators, uniform
from t2i.models.latent_variable.vae import decoder_levels, encoder_levels


class ImageEncoder(nn.Module):
    """(B, C, S, S) -> (B, outputs)"""

    def __init__(self, image_size: int, channels: int, widths: Sequence[int], blocks: int, outputs: int):
        super().__init__()
        side = image_size // 2 ** (len(widths) - 1)
        self.levels = nn.Sequential(*encoder_levels(channels, widths, blocks, 0.0))
        self.out = nn.Linear(widths[-1] * side * side, outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.levels(images).flatten(1))


class ImageDecoder(nn.Module):
    """(B, D) -> (B, outputs, S, S)"""

    def __init__(self, image_size: int, outputs: int, widths: Sequence[int], blocks: int, latent_dim: int):
        super().__init__()
        side = image_size // 2 ** (len(widths) - 1)
        self.first = nn.Linear(latent_dim, widths[-1] * side * side)
        self.unflatten = nn.Unflatten(1, (widths[-1], side, side))
        self.levels = nn.Sequential(*decoder_levels(widths, blocks, 0.0, outputs))

    def forward(self, latents: Tensor) -> Tensor:
        return self.levels(self.unflatten(self.first(latents)))


class TextEncoder(nn.Module):
    """(B, T) -> (B, outputs): the state of a GRU after a caption's last token."""

    def __init__(self, vocab_size: int, width: int, outputs: int):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, outputs)

    def forward(self, text: Tensor) -> Tensor:
        states, _ = self.gru(self.embed(text))  # (B, T, width)
        last = counted(text).sum(1) - 1  # position of the end, or of the last of T tokens
        return self.out(states[torch.arange(len(text), device=text.device), last])


class TextDecoder(nn.Module):
    """A GRU conditioned on the latents by its initial state and at every token."""

    def __init__(self, vocab_size: int, width: int, latent_dim: int, word_dropout: float):
        super().__init__()
        self.word_dropout = word_dropout
        self.embed = nn.Embedding(vocab_size, width)
        self.start = nn.Linear(latent_dim, width)
        self.gru = nn.GRU(width + latent_dim, width, batch_first=True)
        self.out = nn.Linear(width, vocab_size)

    def forward(self, latents: Tensor, text: Tensor) -> Tensor:
        """(B, D), (B, T) -> logits of each token given the preceding ones (B, T, V)"""
        before = F.pad(text[:, :-1], (1, 0), value=END)  # the padding token also marks the beginning
        embedded = self.embed(before)
        if self.training and self.word_dropout:
            embedded = embedded * (torch.rand_like(embedded[..., :1]) >= self.word_dropout)
        repeated = latents[:, None].expand(-1, text.shape[1], -1)
        states, _ = self.gru(torch.cat([embedded, repeated], dim=2), self.start(latents).tanh()[None])
        return self.out(states)

    def write(self, latents: Tensor, length: int, generator: Generators = None, greedy: bool = False) -> Tensor:
        """(B, D) -> tokens (B, T), sampled with the generators, or greedily; 0 from the end on"""
        n, state = len(latents), self.start(latents).tanh()[None]
        u = None if greedy else uniform((n, length), generator, latents.device, latents.dtype)
        token, going, written = latents.new_zeros(n, dtype=torch.long), latents.new_ones(n, dtype=torch.bool), []
        for i in range(length):
            step = torch.cat([self.embed(token), latents], dim=1)[:, None]
            output, state = self.gru(step, state)
            logits = self.out(output[:, 0]).float()  # (B, V)
            shares = logits.softmax(1).cumsum(1)
            token = logits.argmax(1) if u is None else (shares[:, :-1] <= u[:, i : i + 1]).sum(1)
            token = token * going
            going = going & (token != END)
            written.append(token)
        return torch.stack(written, dim=1)
