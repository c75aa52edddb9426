"""Base class and data of tasks that train on captions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from t2i.data.base import caption_lists
from t2i.data.fingerprint import of_texts
from t2i.data.sources import Source
from t2i.data.toybox.dataset import SceneDataset
from t2i.strings import Strings
from t2i.text.captions import LOOKED_AT, warn_of_long_captions
from t2i.training.task import Task
from t2i.weights import tokenizer_digest

BPE_CAPTIONS = 50_000  # number of captions to learn a vocabulary from
NEW_SEED = 2**20  # seed of held-out toybox scenes; runs use seeds from 0 up
HELD_OUT = 1024  # captions
Tokenizer = TypeVar("Tokenizer", bound=PreTrainedTokenizerBase)


class TextTask(Task):
    """Trains a transformers model and its tokenizer.

    Args:
        source: the data; its first captions determine the vocabulary.
        train_tokenizer: captions -> a tokenizer.
        room: maximum caption length in tokens, without special tokens; a warning reports longer captions.
    """

    def __init__(self, source: Source, train_tokenizer: Callable[[Iterator[str]], Tokenizer], room: int):
        self.tokenizer = learn_tokenizer(source, train_tokenizer, room)
        self.fingerprint = {"text_tokenizer_sha256": tokenizer_digest(self.tokenizer)}

    def enable_gradient_checkpointing(self) -> None:
        self.model.gradient_checkpointing_enable()


def learn_tokenizer(source: Source, train: Callable[[Iterator[str]], Tokenizer], room: int) -> Tokenizer:
    """Train a tokenizer on the data's captions; see `TextTask`."""
    tokenizer = train(chain.from_iterable(caption_lists(source, BPE_CAPTIONS)))
    warn_of_long_captions(source.captions(LOOKED_AT), tokenizer, room)
    return tokenizer


class Captions:
    """Captions only, as items {"text": str}."""

    def __init__(self, texts: Iterable[str]):
        self.texts = Strings(texts)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict:
        return {"text": self.texts[index]}

    def captions(self, limit: int) -> Iterator[str]:
        return islice(self.texts, limit)

    def fingerprint(self) -> str:
        return of_texts(self.texts)


class Scenes:
    """Toybox scenes without images, as items {"scene": Scene, "text": str}."""

    def __init__(self, toybox):
        self.toybox = toybox

    def __len__(self) -> int:
        return len(self.toybox)

    def __getitem__(self, index: int) -> dict:
        scene, text = self.toybox.scene(index)
        return {"scene": scene, "text": text}

    def captions(self, limit: int) -> Iterator[str]:
        return self.toybox.captions(limit)

    def fingerprint(self) -> str:
        return self.toybox.fingerprint()


def split_captions(source: Source) -> tuple[Source, list[str]]:
    """Training and held-out captions: held-out ones are from another toybox seed, or the last twentieth of other data.

    Raises ValueError for fewer than two captions.
    """
    if isinstance(source, SceneDataset):
        return Scenes(source), list(type(source)("train", source.size, NEW_SEED, HELD_OUT).captions(HELD_OUT))
    texts = list(chain.from_iterable(caption_lists(source, len(source))))
    count = max(1, min(HELD_OUT, len(texts) // 20))
    if len(texts) <= count:
        raise ValueError(f"{len(texts)} captions are too few: there must be one to train on and one to hold out")
    return Captions(texts[:-count]), texts[-count:]
