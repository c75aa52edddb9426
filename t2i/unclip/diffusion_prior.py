"""The diffusion prior of DALL·E 2: from a caption to a CLIP image embedding (Ramesh et al. 2022, § 2.2).

A causal transformer over [text states, text embedding, timestep, noised image embedding, query] predicts the image
embedding itself (x_0) at the query's position.

Shapes: B prompts · L text positions · D width of the embeddings · C model width
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from t2i.checks import check_whole
from t2i.diffusion.dit import TIME_WIDTH, sines
from t2i.diffusion.guidance import guide
from t2i.diffusion.schedule import BetaSchedule, NoiseSchedule
from t2i.nn.linear import Linear
from t2i.prior.transformer import Block, initialise
from t2i.unclip.base import Continuation, EmbeddingPrior, Noise, SampleNoise, TextInput
from t2i.unclip.clip import ClipText
from t2i.unclip.embeddings import EmbeddingStatistics


class DiffusionPrior(EmbeddingPrior, ModelMixin, ConfigMixin):
    """Denoises image embeddings whose entries are scaled to unit variance.

    Args:
        embedding_dim, text_width, text_length: of the CLIP: D, the width of its text states, and L.
        width: Width of the transformer, in channels.
        layers: Number of transformer layers.
        heads: Number of attention heads per layer.
        dropout: Dropout probability in the transformer.
        num_train_timesteps: Number of diffusion steps in training.
        beta_schedule: Noise schedule: "linear", "scaled_linear" or "squaredcos_cap_v2" (a cosine).
    """

    _supports_gradient_checkpointing = False
    steps = 25

    @register_to_config
    def __init__(
        self,
        embedding_dim: int,
        text_width: int,
        text_length: int,
        width: int = 256,
        layers: int = 6,
        heads: int = 4,
        dropout: float = 0.0,
        num_train_timesteps: int = 1000,
        beta_schedule: BetaSchedule = "squaredcos_cap_v2",
    ):
        super().__init__()
        self.schedule = NoiseSchedule(num_train_timesteps, beta_schedule)
        self.statistics = EmbeddingStatistics(embedding_dim)
        self.text = TextInput(text_width, text_length, embedding_dim, width)
        self.time = nn.Sequential(Linear(TIME_WIDTH, width), nn.SiLU(), Linear(width, width))
        self.noised = Linear(embedding_dim, width)
        self.query = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.out = Linear(width, embedding_dim)
        initialise(self, self.text.padding, self.text.positions, self.query)
        nn.init.zeros_(self.out.weight)  # at first it predicts the mean

    def forward(self, x: Tensor, timesteps: Tensor, text: ClipText) -> Tensor:
        """Noised scaled embeddings (B, D), timesteps (B,), B prompts -> predicted x_0 (B, D)"""
        sequence = torch.cat([self.text(text), torch.stack(self._last(x, timesteps), 1)], 1)  # (B, L + 4, C)
        for block in self.blocks:
            sequence = block(sequence)
        return self.out(self.norm(sequence[:, -1]))

    def _last(self, x: Tensor, timesteps: Tensor) -> list[Tensor]:
        """What follows the text: timestep, noised embedding and query, (B, C) each."""
        time = self.time(sines(timesteps, TIME_WIDTH).to(x.dtype))
        return [time, self.noised(x), self.query.expand(len(x), -1)]

    @property
    def noise(self) -> SampleNoise:
        return partial(sample_noise, self.config.embedding_dim, self.config.num_train_timesteps)

    def errors(self, text: ClipText, image_embeds: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Squared errors of x_0 (eq. 2), by entry: B prompts, (B, D), (B, D), (B,) -> (B, D)"""
        x0 = self.statistics.scale(image_embeds.float())
        predicted = self(self.schedule.add_noise(x0, noise, timesteps), timesteps, text)
        return (predicted.float() - x0).square()

    def _sample(self, text: ClipText, guidance_scale: float, steps: int | None, generators: Noise) -> Tensor:
        """DDIM without noise (Song et al. 2021, arXiv 2010.02502, eq. 12)."""
        steps = self.steps if steps is None else steps
        check_whole("num_prior_steps", steps, most=self.config.num_train_timesteps)
        copies = 1 if guidance_scale == 1 else 2
        sequence = Continuation(self.text(text), self.blocks, room=3)
        x = x0 = _normal(len(text.embeds) // copies, self.config.embedding_dim, generators).to(self.device, self.dtype)
        times = torch.linspace(self.config.num_train_timesteps, 0, steps + 1).round().long() - 1  # T − 1, …, −1
        for t, s in pairwise(times.unbind()):
            sequence.rewind()
            for position in self._last(x.repeat(copies, 1), t.expand(len(text.embeds)).to(x.device)):
                output = sequence.add(position)  # (R, C)
            x0 = self.out(self.norm(output))
            if copies == 2:
                x0 = guide(*x0.chunk(2), guidance_scale)
            if s >= 0:
                _, noise = self.schedule.split("sample", x0, x, t.expand(len(x)))
                x = self.schedule.add_noise(x0, noise, s.expand(len(x)))
        return self.statistics.unscale(x0)


def sample_noise(dim: int, num_train_timesteps: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """-> noise, float32 (D,); timesteps, an int64 scalar"""
    noise = rng.standard_normal(dim, dtype=np.float32)
    return {"noise": noise, "timesteps": rng.integers(num_train_timesteps)}


def _normal(rows: int, dim: int, generators: Noise) -> Tensor:
    """Gaussian noise (rows, dim), each row from its own generator."""
    if generators is None:
        return torch.randn(rows, dim)
    return torch.stack([torch.randn(dim, generator=g, device=g.device) for g in generators])
