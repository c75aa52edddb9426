"""Frozen text encoders behind one face: prompts in, the states that a denoiser attends to out.

    encoder = open_text_encoder("runs/clip-toybox/latest")
    states, mask, pooled, dropped = encoder.encode(["a red cat on top of a blue car"])

Shapes: B prompts · T tokens · C width · D width of the pooled vector · P pieces of a long prompt
"""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    CLIPModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5EncoderModel,
)

from t2i.checks import shortened
from t2i.folders import newest_in_run
from t2i.text.pretrained import check_tokenizer, load, load_tokenizer, open_open_clip
from t2i.weights import digest, tokenizer_digest

logger = logging.getLogger(__name__)

LONG_PROMPTS = ("truncate", "chunk")
TEXTS = 256  # encoded at once
T5_LENGTH = 128  # tokens, where the tokenizer does not say fewer: T5 itself knows no longest text


class TextStates(NamedTuple):
    """Prompts as a denoiser takes them."""

    states: Tensor  # (B, T, C), of the encoder's dtype
    mask: Tensor  # (B, T) bool: True for tokens, special ones included, False for padding
    pooled: Tensor | None  # (B, D), one vector for the whole prompt, where the model has one
    dropped: list[str]  # for each prompt, the end that the model did not see ("" where it saw all)


class TextEncoder(ABC):
    """What CLIP, open_clip's towers and T5 have in common.

    Attributes:
        name: what it was opened from.
        model: in eval mode.
        tokenizer: that of transformers or open_clip.
        length: tokens of one piece of text, special ones included; every result is padded to it.
        room: tokens of one piece without the special ones.
        long_prompts: "truncate" drops what does not fit, and warns of it the first time; "chunk" encodes pieces that
            end between words, and joins their states one after the other, T = P · length.

    Raises ValueError for another `long_prompts`.
    """

    def __init__(self, name: str, model: nn.Module, tokenizer, length: int, room: int, long_prompts: str):
        if long_prompts not in LONG_PROMPTS:
            raise ValueError(f"long_prompts is one of {', '.join(LONG_PROMPTS)}, not {long_prompts!r}")
        if room < 1:
            raise ValueError(f"{name} has no room for words in {length} tokens; give a greater length")
        self.name, self.model, self.tokenizer = name, model.eval(), tokenizer
        self.length, self.room, self.long_prompts = length, room, long_prompts
        self._warned = False

    @property
    def device(self) -> torch.device:
        """Where ids are put: of a model whose weights are brought for each pass, the hooks take them from anywhere."""
        device = next(self.model.parameters()).device
        return torch.device("cpu") if device.type == "meta" else device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    @abstractmethod
    def split(self, text: str) -> list[int]:
        """The ids of a text of any length, without special tokens."""

    @abstractmethod
    def join(self, ids: list[int]) -> str:
        """The text that ids stand for."""

    @abstractmethod
    def tokenize(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """-> ids (B, length) and mask (B, length), cut where too long, with the model's special tokens."""

    @abstractmethod
    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, length) and (B, length) on the model's device -> states (B, length, C) and pooled (B, D) or None."""

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextStates:
        """Prompts -> their states. A prompt's states do not depend on the others in the batch.

        Raises ValueError for no prompts or one that is no text, FloatingPointError where a state is not finite.
        """
        if isinstance(prompts, str) or len(prompts) == 0 or not all(isinstance(p, str) for p in prompts):
            raise ValueError("encode takes a list with at least one text")
        if self.long_prompts == "chunk":
            return self._encode_pieces([self.pieces(p) for p in prompts])
        return self._encode_whole(list(prompts))

    def null(self) -> TextStates:
        """The states of the empty prompt, B = 1: what guidance leads away from."""
        return self.encode([""])

    def key(self) -> str:
        """SHA-256 of all that the states follow from: weights, precision, tokenizer, length, long prompts."""
        parts = [digest(self.model), str(self.dtype), self._vocabulary(), str(self.length), self.long_prompts]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _vocabulary(self) -> str:
        return tokenizer_digest(self.tokenizer)

    def pieces(self, prompt: str) -> list[str]:
        """The prompt as texts that fit, cut between words; at least one. A single word may still be too long."""
        pieces = [""]
        for word in prompt.split():
            longer = f"{pieces[-1]} {word}".strip()
            if pieces[-1] and len(self.split(longer)) > self.room:
                pieces.append(word)
            else:
                pieces[-1] = longer
        return pieces if len(pieces) > 1 else [prompt]

    def _encode_whole(self, texts: list[str]) -> TextStates:
        tokens = [self.split(text) for text in texts]
        dropped = [self.join(t[self.room :]).strip() if len(t) > self.room else "" for t in tokens]
        self._warn(texts, dropped)
        parts = []
        for i in range(0, len(texts), TEXTS):
            ids, mask = (x.to(self.device) for x in self.tokenize(texts[i : i + TEXTS]))
            parts.append((*self.forward(ids, mask.long()), mask.bool()))
        states, pooled, mask = (None if p[0] is None else torch.cat(p) for p in zip(*parts, strict=True))
        if not (fine := states.isfinite().flatten(1).all(1)).all():
            row = int((~fine).nonzero()[0])
            raise FloatingPointError(
                f"{self.name} gives states that are not finite in {self.dtype} for {texts[row]!r}; open it in float32"
            )
        return TextStates(states, mask, pooled, dropped)

    def _encode_pieces(self, prompts: list[list[str]]) -> TextStates:
        """Prompts with fewer pieces than the longest are filled up with masked empty ones. `pooled` is the first's."""
        most = max(len(pieces) for pieces in prompts)
        filled = [piece for pieces in prompts for piece in pieces + [""] * (most - len(pieces))]
        out, B = self._encode_whole(filled), len(prompts)
        real = torch.tensor([[i < len(pieces) for i in range(most)] for pieces in prompts], device=out.mask.device)
        mask = out.mask.view(B, most, self.length) & real[:, :, None]
        return TextStates(
            out.states.view(B, most * self.length, -1),
            mask.flatten(1),
            None if out.pooled is None else out.pooled.view(B, most, -1)[:, 0],
            [" ".join(filter(None, out.dropped[i * most : (i + 1) * most])) for i in range(B)],
        )

    def _warn(self, texts: list[str], dropped: list[str]) -> None:
        for text, end in zip(texts, dropped, strict=True):
            if end and not self._warned:
                logger.warning(
                    "the prompt %s is longer than the %d tokens that %s reads; its end was dropped: %s "
                    "(said once; `dropped` tells of every prompt)",
                    *(shortened(text, 100), self.length, self.name, shortened(end, 100)),
                )
                self._warned = True


class _TransformersEncoder(TextEncoder):
    """A model and a fast tokenizer of transformers."""

    def split(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def join(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)

    def tokenize(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        cut = {"padding": "max_length", "truncation": True, "max_length": self.length}
        tokens = self.tokenizer(texts, return_tensors="pt", **cut)
        return tokens["input_ids"], tokens["attention_mask"]


class ClipTextEncoder(_TransformersEncoder):
    """The text tower of CLIP (Radford et al. 2021, arXiv 2103.00020) of transformers.

    States are those that Stable Diffusion takes: the last layer's after the final norm, padding included, bit for bit
    what diffusers' StableDiffusionPipeline gets. `pooled` is the end token's state, projected where the folder holds a
    CLIPTextModelWithProjection.

    Args:
        clip_skip: take the states of so many layers before the last, with the final norm; 0 by default. Raises
            ValueError where the model has no more than so many layers.
    """

    def __init__(
        self,
        name: str,
        model,
        tokenizer,
        length: int | None = None,
        long_prompts: str = "truncate",
        clip_skip: int = 0,
    ):
        length = _at_most(length, min(model.config.max_position_embeddings, tokenizer.model_max_length), name)
        super().__init__(name, model, tokenizer, length, length - 2, long_prompts)
        if not 0 <= clip_skip < (layers := model.config.num_hidden_layers):
            raise ValueError(f"clip_skip must lie between 0 and {layers - 1} for {name}, not {clip_skip}")
        self.clip_skip = clip_skip

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        use = getattr(self.model.config, "use_attention_mask", False)  # Stable Diffusion 2.1 unCLIP asks for it
        out = self.model(ids, attention_mask=mask if use else None, output_hidden_states=self.clip_skip > 0)
        pooled = out.text_embeds if isinstance(self.model, CLIPTextModelWithProjection) else out.pooler_output
        if self.clip_skip:
            tower = getattr(self.model, "text_model", self.model)  # CLIPTextModelWithProjection has it inside
            return tower.final_layer_norm(out.hidden_states[-1 - self.clip_skip]), pooled
        return out.last_hidden_state, pooled

    def key(self) -> str:
        return super().key() + (f"-{self.clip_skip}" if self.clip_skip else "")


class T5TextEncoder(_TransformersEncoder):
    """The encoder of T5 (Raffel et al. 2020, arXiv 1910.10683), as Imagen uses it. It has no pooled vector."""

    def __init__(self, name: str, model, tokenizer, length: int | None = None, long_prompts: str = "truncate"):
        known = tokenizer.model_max_length  # an enormous number where it says nothing
        length = min(known, T5_LENGTH) if length is None else length
        super().__init__(name, model, tokenizer, length, length - 1, long_prompts)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        return self.model(input_ids=ids, attention_mask=mask).last_hidden_state, None


class OpenClipTextEncoder(TextEncoder):
    """The text tower of a model of open_clip, with its own tokenizer; the image tower is let go.

    States are those of the last layer after the final norm, `pooled` is what open_clip's `encode_text` gives.
    """

    def __init__(self, name: str, model, tokenizer, length: int | None = None, long_prompts: str = "truncate"):
        if getattr(tokenizer, "tokenizer_mode", ""):
            raise ValueError(f"{name} puts its special tokens after the padding, which this encoder does not know")
        most = tokenizer.context_length
        if length not in (None, most):
            raise ValueError(f"{name} reads texts of {most} tokens, no other length")
        hub = getattr(tokenizer, "tokenizer", None)  # that of transformers inside, for some towers
        special = hub.num_special_tokens_to_add() if hub else 2
        if hasattr(model, "visual"):
            del model.visual
        super().__init__(name, model, tokenizer, most, most - special, long_prompts)

    def split(self, text: str) -> list[int]:
        if hub := getattr(self.tokenizer, "tokenizer", None):
            return hub(self.tokenizer.clean_fn(text), add_special_tokens=False, verbose=False)["input_ids"]
        return self.tokenizer.encode(text)

    def join(self, ids: list[int]) -> str:
        return getattr(self.tokenizer, "tokenizer", self.tokenizer).decode(ids)

    def tokenize(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        lengths = [min(len(self.split(text)), self.room) + self.length - self.room for text in texts]
        return self.tokenizer(texts), torch.arange(self.length) < torch.tensor(lengths)[:, None]

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tower = getattr(self.model, "text", None)
        if hasattr(tower, "pooler"):  # a model of transformers inside
            mask = (ids != tower.config.pad_token_id).long()
            out = tower.transformer(input_ids=ids, attention_mask=mask)
            return out.last_hidden_state, tower.proj(tower.pooler(out, mask))
        how = {"normalize_intermediates": True}
        if tower is None:
            out = self.model.forward_intermediates(text=ids, text_indices=1, normalize=False, **how)
        else:
            out = tower.forward_intermediates(ids, indices=1, **how)
        return out["text_intermediates"][-1], out["text_features"]

    def _vocabulary(self) -> str:
        hub = getattr(self.tokenizer, "tokenizer", None)
        return tokenizer_digest(hub) if hub else repr(sorted(self.tokenizer.encoder.items()))


def open_text_encoder(
    name_or_folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    length: int | None = None,
    long_prompts: Literal["truncate", "chunk"] = "truncate",
) -> TextEncoder:
    """A frozen text encoder.

    Args:
        name_or_folder: "openai/clip-vit-large-patch14", "google/t5-v1_1-base" or another CLIP or T5 of the Hub;
            "open_clip:ARCH/PRETRAINED", such as "open_clip:ViT-B-32/laion2b_s34b_b79k"; a folder of either kind, or
            one in diffusers' layout with text_encoder/ and tokenizer/.
        dtype: of the weights. T5 overflows in float16: it then takes bfloat16 on a GPU and float32 on a CPU.
        length: tokens of a text, special ones included; by default the model's own, at most 128 for T5.
        long_prompts: what to do with longer ones, see `TextEncoder`.

    Raises FileNotFoundError where there is no such model, ValueError where it is neither CLIP nor T5.
    """
    encoder = _open(str(name_or_folder), device, dtype, length, long_prompts)
    encoder.model.requires_grad_(False)
    return encoder


def _open(
    name: str, device: str | torch.device, dtype: torch.dtype, length: int | None, long_prompts: str
) -> TextEncoder:
    if name.startswith("open_clip:"):
        import open_clip

        model, _, arch = open_open_clip(name.removeprefix("open_clip:"))
        tokenizer = open_clip.get_tokenizer(arch)
        return OpenClipTextEncoder(name, model.to(device, dtype), tokenizer, length, long_prompts)
    folder = newest_in_run(name, "model_index.json")
    parts = folder / "text_encoder", folder / "tokenizer"
    source, words = map(str, parts) if parts[0].is_dir() else (name, name)
    config = load(AutoConfig, source)
    if config.model_type == "t5":
        model = load(T5EncoderModel, source, "t5", dtype=_for_t5(dtype, device))
        return T5TextEncoder(name, model.to(device), _tokenizer(words, model), length, long_prompts)
    if config.model_type == "clip":
        model = load(CLIPModel, source, "clip", dtype=dtype).text_model
    else:
        projected = "CLIPTextModelWithProjection" in (config.architectures or [])
        cls = CLIPTextModelWithProjection if projected else CLIPTextModel
        model = load(cls, source, "clip", "clip_text_model", dtype=dtype)
    return ClipTextEncoder(name, model.to(device), _tokenizer(words, model), length, long_prompts)


def _tokenizer(name: str, model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """That of a folder, a run or the Hub, verified against the encoder."""
    folder = newest_in_run(name, "tokenizer_config.json")
    tokenizer = load_tokenizer(AutoTokenizer, folder) if folder.is_dir() else load(AutoTokenizer, name)
    check_tokenizer(tokenizer, model, folder)
    return tokenizer


def _for_t5(dtype: torch.dtype, device: str | torch.device) -> torch.dtype:
    if dtype != torch.float16:
        return dtype
    return torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32


def _at_most(length: int | None, most: int, name: str) -> int:
    if length is not None and length > most:
        raise ValueError(f"{name} reads texts of at most {most} tokens, not {length}")
    return most if length is None else length
