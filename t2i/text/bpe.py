"""Byte-pair encoding of captions (Sennrich et al. 2016, arXiv 1508.07909), trained with the `tokenizers` library."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from t2i.checks import shortened
from t2i.notes import count

logger = logging.getLogger(__name__)
PAD_TOKEN = "<pad>"  # id 0
MAX_WARNINGS = 5  # maximum number of warnings per call
MAX_WORDS = 10  # maximum number of words of a prompt in a warning
MAX_KNOWN_WORDS = 20_000  # longer lists contain words too rare to be informative
# What follows a capital between quotation marks: the next mark is a closing one, which no letter follows.
_CLOSED = r'[^"]*"(?:[^\w"]|$)'
_CAPITALS = [chr(i) for i in range(0x180) if chr(i).isupper() and len(chr(i).lower()) == 1]  # of Latin alphabets
# One quoted text; and in it, one character after the other: from the opening mark on, each where the last match ended.
_QUOTED, _SPELT = r' ?"[^"]*"', r'\A ?"(?=[^"]*"\z)|\G(?!\A).'


class Encoded(NamedTuple):
    """Tokenised prompts, and what was truncated."""

    ids: Tensor  # (B, T) int64, padded with 0
    dropped: list[str]  # for each prompt, the end that was truncated ("" if none was)


def train_bpe(captions: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a lower-casing byte-level tokenizer with at most `vocab_size` tokens; no text is out of vocabulary.

    What stands between quotation marks keeps its capitals and is tokenised letter by letter, so that a model can learn
    to spell inscriptions: a word has the letters of other words, even if it was never seen.

    The tokenizer also stores the words of the captions (`known_words`, saved with it), to warn of unknown ones.
    """
    captions = [str(c) for c in captions]
    if not any(c.strip() for c in captions):
        raise ValueError("there is no text to learn a vocabulary from: every caption is empty")
    tokenizer = Tokenizer(models.BPE())
    lower = [normalizers.Replace(Regex(f"{letter}(?!{_CLOSED})"), letter.lower()) for letter in _CAPITALS]
    trimmed = normalizers.Strip(), normalizers.Prepend(" ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), *lower, *trimmed])
    quoted, spelt = (pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in (_QUOTED, _SPELT))
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([quoted, spelt, words])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[PAD_TOKEN], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    known = known_words(captions)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD_TOKEN, known_words=known)


def encode(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], length: int) -> Encoded:
    """Token ids of each prompt, truncated or padded to `length`, and what was truncated."""
    batch = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    ids = torch.zeros(len(prompts), length, dtype=torch.long)
    for row, tokens in zip(ids, batch, strict=True):
        kept = torch.tensor(tokens[:length], dtype=torch.long)
        row[: len(kept)] = kept
    dropped = [tokenizer.decode(tokens[length:]).strip() if len(tokens) > length else "" for tokens in batch]
    return Encoded(ids, dropped)


def known_words(captions: Iterable[str]) -> list[str]:
    """The words of captions, to be stored with a tokenizer; empty if there are more than MAX_KNOWN_WORDS.

    They are its `init_kwargs["known_words"]`, which `save_pretrained` writes.
    """
    words = sorted({word for caption in captions for word in split_words(caption)})
    return words if len(words) <= MAX_KNOWN_WORDS else []


def unknown_words(tokenizer: PreTrainedTokenizerBase, prompt: str) -> dict[str, str | None]:
    """The words of a prompt that no training caption contains, in order, each with the most similar one that does.

    Empty if the tokenizer stores no list of words.
    """
    known = set(tokenizer.init_kwargs.get("known_words") or [])
    unknown = dict.fromkeys(word for word in split_words(prompt) if word not in known) if known else {}
    return {word: next(iter(get_close_matches(word, sorted(known), 1, 0.75)), None) for word in unknown}


def warn_of_unknown_words(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> None:
    """Log a warning for each prompt with words that do not occur in training captions, at most MAX_WARNINGS."""
    found = {prompt: words for prompt in dict.fromkeys(prompts) if (words := unknown_words(tokenizer, prompt))}
    for prompt, words in list(found.items())[:MAX_WARNINGS]:
        hints = [f"{word} (did you mean {near}?)" if near else shortened(word)[1:-1] for word, near in words.items()]
        listed = ", ".join(hints[:MAX_WORDS]) + (", …" if len(hints) > MAX_WORDS else "")
        logger.warning("the prompt %s has words never seen in training: %s", shortened(prompt, 100), listed)
    if more := list(found)[MAX_WARNINGS:]:
        verb = "has" if len(more) == 1 else "have"
        logger.warning("%s %s words never seen in training", count(more, "more prompt"), verb)


def split_words(text: str) -> list[str]:
    """Lower-cased runs of letters, digits and apostrophes."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())
