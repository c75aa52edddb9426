"""Byte-pair encoding of captions (Sennrich et al. 2016, arXiv 1508.07909), trained with the `tokenizers` library."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

PAD_TOKEN = "<pad>"  # id 0
MAX_KNOWN_WORDS = 20_000  # beyond this a vocabulary knows words too rare for the list to mean anything


class Encoded(NamedTuple):
    """Prompts as a model takes them, and what of them it does not see."""

    ids: Tensor  # (B, T) int64, padded with 0
    dropped: list[str]  # for each prompt, the end that did not fit ("" where all did)


def train_bpe(captions: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Learn at most `vocab_size` tokens; lower-cased, byte-level, so that no text is out of vocabulary.

    The tokenizer also remembers which words it has seen (`known_words`, saved with it), to warn of those it has not.
    """
    captions = [str(c) for c in captions]
    if not any(c.strip() for c in captions):
        raise ValueError("there is no text to learn a vocabulary from: every caption is empty")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[PAD_TOKEN], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    words = sorted({w for c in captions for w in split_words(c)})
    known = words if len(words) <= MAX_KNOWN_WORDS else []
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD_TOKEN, known_words=known)


def encode(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], length: int) -> Encoded:
    """Token ids of each prompt, cut or padded to `length`, and what was cut."""
    batch = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    ids = torch.zeros(len(prompts), length, dtype=torch.long)
    for row, tokens in zip(ids, batch, strict=True):
        kept = torch.tensor(tokens[:length], dtype=torch.long)
        row[: len(kept)] = kept
    dropped = [tokenizer.decode(tokens[length:]).strip() if len(tokens) > length else "" for tokens in batch]
    return Encoded(ids, dropped)


def unknown_words(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> list[str]:
    """Words that no training caption contained, in order, each once; none where the tokenizer keeps no list."""
    known = set(tokenizer.init_kwargs.get("known_words") or [])
    unknown = [w for p in prompts for w in split_words(p) if w not in known] if known else []
    return list(dict.fromkeys(unknown))


def split_words(text: str) -> list[str]:
    """Lower-cased runs of letters, digits and apostrophes."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())
