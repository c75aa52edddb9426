"""A character-level language model with dilated causal convolutions (van den Oord et al. 2016, WaveNet,
arXiv 1609.03499, §2).

Shapes: B texts · T maximum length in characters · A size of the alphabet · W width
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from t2i.checks import shortened
from t2i.models.base import Generators, uniform

END = 0  # end of a text, also used before its first character


class DilatedConv(nn.Module):
    """A convolution over time whose output at t depends on t, t - d, … t - (k - 1)·d."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int):
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, dilation=dilation)
        self.reach = (kernel - 1) * dilation

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, T) -> (B, O, T)"""
        return self.conv(F.pad(x, (self.reach, 0)))

    def step(self, past: dict[nn.Module, Tensor], x: Tensor) -> Tensor:
        """The next input (B, I, 1) -> the output at its position (B, O, 1); `past` caches the earlier inputs."""
        before = past[self] if self in past else x.new_zeros(*x.shape[:2], self.reach)
        seen = torch.cat([before, x], dim=2)
        past[self] = seen[:, :, 1:]
        return self.conv(seen)


class GatedBlock(nn.Module):
    """tanh(a) · σ(b), eq. 2, then one 1×1 layer to the next block and one to the output (fig. 4)."""

    def __init__(self, width: int, kernel: int, dilation: int, dropout: float):
        super().__init__()
        self.conv = DilatedConv(width, 2 * width, kernel, dilation)
        self.out = nn.Conv1d(width, 2 * width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, past: dict[nn.Module, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """(B, W, T), or with a past (B, W, 1) -> residual and skip outputs, each of the same shape"""
        a, b = (self.conv(x) if past is None else self.conv.step(past, x)).chunk(2, dim=1)
        on, out = self.out(self.dropout(a.tanh() * b.sigmoid())).chunk(2, dim=1)
        return x + on, out


class CharacterModel(ModelMixin, ConfigMixin):
    """P(text) = Π P(character | preceding characters), including the end of the text.

    Args:
        alphabet: Every character, each once; character i has the id i + 1, and 0 is the end of a text.
        length: Maximum length of a text in characters, T; longer texts are truncated.
        width: Channels, W.
        blocks: Number of gated convolutions, with dilations 1, 2, 4, … repeated every `cycle` blocks.
        cycle: Number of blocks after which the dilations start again at 1.
        kernel: Kernel size of the convolutions, in characters.
        dropout: Dropout probability within blocks.

    Raises ValueError for an alphabet that is empty or has a character twice, and for sizes below 1.
    """

    @register_to_config
    def __init__(
        self,
        alphabet: str,
        length: int = 96,
        width: int = 96,
        blocks: int = 10,
        cycle: int = 5,
        kernel: int = 3,
        dropout: float = 0.0,
    ):
        super().__init__()
        if not alphabet or len(set(alphabet)) != len(alphabet):
            raise ValueError(f"the alphabet must have each of its characters once, and some, not {alphabet!r}")
        if min(length, width, blocks, cycle) < 1 or kernel < 2:
            raise ValueError(f"must be at least 1, the kernel 2: {length=}, {width=}, {blocks=}, {cycle=}, {kernel=}")
        self.embedding = nn.Embedding(len(alphabet) + 1, width)
        self.stack = nn.ModuleList(GatedBlock(width, kernel, 2 ** (i % cycle), dropout) for i in range(blocks))
        self.last = nn.Sequential(
            nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, len(alphabet) + 1, 1)
        )

    def encode(self, texts: Sequence[str]) -> Tensor:
        """See `encode`."""
        return encode(texts, self.config.alphabet, self.config.length)

    def decode(self, ids: Tensor) -> list[str]:
        """(B, t) -> texts, each up to its end"""
        letters = self.config.alphabet
        return ["".join(letters[i - 1] for i in row[: [*row, END].index(END)]) for row in ids.tolist()]

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (B, t) -> logits (B, A + 1, t); those at t depend on the ids before t."""
        before = F.pad(ids, (1, 0), value=END)[:, :-1]
        return self._run(self.embedding(before).transpose(1, 2))

    def log_prob(self, ids: Tensor) -> Tensor:
        """ln P of each text including its end: ids (B, t) -> nats (B,).

        Without an end, it is ln P that a text begins with these characters. Raises ValueError for other ids.
        """
        self._check(ids)
        nats = -F.cross_entropy(self(ids).float(), ids, reduction="none")
        return (nats * counted(ids)).sum(1)

    def loss(self, ids: Tensor) -> dict[str, Tensor]:
        """Ids (B, t) -> scalars: `loss`, nats/character, counting ends; `bits`/character."""
        nats = -self.log_prob(ids).sum() / counted(ids).sum()
        return {"loss": nats, "bits": (nats / torch.tensor(2.0).log()).detach()}

    @torch.no_grad()
    def sample(
        self, n: int, generator: Generators = None, prompt: str = "", temperature: float = 1.0, cached: bool = True
    ) -> list[str]:
        """n texts of at most T characters that begin with the prompt; the i-th depends only on the i-th generator.

        Without `cached`, every character takes a full forward pass, with the same result. Raises ValueError for a
        prompt with unknown characters or longer than T, and a temperature of 0 or below.
        """
        length = self.config.length
        if len(prompt) > length or not temperature > 0:
            raise ValueError(f"a prompt has at most {length} characters, and temperature is above 0, not {temperature}")
        ids = self.encode([prompt] * n).to(self.device)
        u = uniform((n, length), generator, self.device, torch.float32)
        done = torch.zeros(n, dtype=torch.bool, device=self.device)
        past: dict[nn.Module, Tensor] = {}
        before = torch.full_like(ids[:, :1], END)
        for t in range(length):
            if cached:
                logits = self._run(self.embedding(before).transpose(1, 2), past)[:, :, 0]
            elif t >= len(prompt):
                logits = self(ids[:, : t + 1])[:, :, t]
            if t >= len(prompt):
                below = (logits.float() / temperature).softmax(1).cumsum(1)[:, :-1] <= u[:, t, None]
                ids[:, t] = below.sum(1).masked_fill(done, END)
                done |= ids[:, t] == END
            before = ids[:, t : t + 1]
            if done.all():
                break
        return self.decode(ids)

    def _run(self, x: Tensor, past: dict[nn.Module, Tensor] | None = None) -> Tensor:
        """Embedded characters (B, W, t) -> logits (B, A + 1, t) of the next ones; with a past, of one more."""
        out = 0
        for block in self.stack:
            x, part = block(x, past)
            out = out + part
        return self.last(out)

    def _check(self, ids: Tensor) -> None:
        letters = len(self.config.alphabet)
        if ids.ndim != 2 or not 1 <= ids.shape[1] <= self.config.length or ids.is_floating_point():
            raise ValueError(f"ids must be integers (B, 1 to {self.config.length}), not {ids.dtype} {tuple(ids.shape)}")
        if len(ids) and not 0 <= ids.min() <= ids.max() <= letters:
            raise ValueError(f"ids must lie in [0, {letters}], not [{int(ids.min())}, {int(ids.max())}]")


def counted(ids: Tensor) -> Tensor:
    """Mask of what belongs to a text: characters (or tokens) and the first 0 after them, bool (B, t)"""
    return F.pad((ids == END).cumsum(1), (1, 0))[:, :-1] == 0


def alphabet_of(texts: Iterable[str]) -> str:
    """All distinct characters of the texts, sorted. Raises ValueError if there are none."""
    letters = "".join(sorted(set().union(*texts)))
    if not letters:
        raise ValueError("there is no text to learn from: every line is empty")
    return letters


def encode(texts: Sequence[str], alphabet: str, length: int) -> Tensor:
    """Texts -> ids (B, T), 0 from a text's end on. Raises ValueError for a character that is not in the alphabet."""
    places = {character: i + 1 for i, character in enumerate(alphabet)}
    ids = torch.full((len(texts), length), END)
    for row, text in zip(ids, texts, strict=True):
        if unknown := set(text) - set(places):
            raise ValueError(
                f"{shortened(text)} has characters that the model has never seen: {' '.join(sorted(unknown))}"
            )
        known = [places[character] for character in text[:length]]
        row[: len(known)] = torch.tensor(known, dtype=torch.long)
    return ids
