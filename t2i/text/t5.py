"""T5 (Raffel et al. 2020, arXiv 1910.10683): training of tokenizer and model, with transformers' classes.

Shapes: B texts · T tokens of a corrupted text · U tokens of the target
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from t2i.text.bpe import train_bpe

END = "</s>"
IGNORED = -100  # target label without loss
MIN_VOCABULARY = 258  # all bytes, padding and end tokens, without the sentinels


def train_t5_tokenizer(captions: Iterable[str], vocab_size: int, length: int) -> PreTrainedTokenizerFast:
    """Train a byte-pair tokenizer (see bpe.py) with at most `vocab_size` tokens, including an end token and length / 2
    sentinels.

    Padding is 0, as in T5. The end token closes every text; texts are truncated to `length` tokens including it.

    Raises ValueError for captions that are all empty, a length below 3, and fewer than 258 tokens besides the
    sentinels, which could not encode every text.
    """
    if length < 3:
        raise ValueError(f"a text needs room for words and an end: length must be at least 3, not {length}")
    sentinels = [f"<extra_id_{i}>" for i in range(length // 2)]
    if vocab_size < (least := MIN_VOCABULARY + len(sentinels)):
        raise ValueError(f"a T5 vocabulary for texts of {length} tokens has at least {least} tokens, not {vocab_size}")
    tokenizer = train_bpe(captions, vocab_size - len(sentinels) - 1)
    tokenizer.add_special_tokens({"eos_token": END, "extra_special_tokens": sentinels})
    end = [(END, tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(f"$A {END}", special_tokens=end)
    tokenizer.model_max_length = length
    return tokenizer


def sentinel_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The ids of the sentinel tokens, in order."""
    return [tokenizer.convert_tokens_to_ids(f"<extra_id_{i}>") for i in range(tokenizer.model_max_length // 2)]


def make_t5(
    tokenizer: PreTrainedTokenizerFast,
    width: int = 160,
    hidden: int = 384,
    layers: int = 4,
    decoder_layers: int = 1,
    heads: int = 5,
) -> T5ForConditionalGeneration:
    """A new T5 with gated GELU and tied input and output embeddings.

    Args:
        tokenizer: The tokenizer, which sets the size of the vocabulary.
        width: Width of the transformer, in channels.
        hidden: Width of the feed-forward layers, in channels.
        layers: Number of encoder layers.
        decoder_layers: Number of decoder layers; the decoder is used in training only.
        heads: Attention heads per layer.

    Raises ValueError if the heads do not divide the width.
    """
    if width % heads:
        raise ValueError(f"{heads} heads do not divide a width of {width}")
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=width // heads,
        d_ff=hidden,
        num_layers=layers,
        num_decoder_layers=decoder_layers,
        num_heads=heads,
        dropout_rate=0.0,  # texts do not repeat with the same wording and the same spans
        feed_forward_proj="gated-gelu",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    return T5ForConditionalGeneration(config)


def corrupt_spans(
    tokens: Sequence[int],
    rng: np.random.Generator,
    sentinels: Sequence[int],
    end: int,
    rate: float,
    mean_span: float,
) -> tuple[list[int], list[int]]:
    """Span corruption of a text (§3.1.4): "a [0] on top of [1] car end", "[0] red cat [1] a blue end".

    A fraction `rate` of the tokens, at least one, is removed in spans of mean length `mean_span`, which are never
    adjacent. Unlike in T5's code, the text may begin with a span and need not end with one: a single span would always
    be at the end.

    Args:
        tokens: tokens of one text, without special ones.
        rng: the only source of randomness.
        sentinels: the ids [0], [1], …, an upper limit on the number of spans.

    Returns:
        The corrupted text and the target, each closed by `end`. An empty text is unchanged.
    """
    L = len(tokens)
    if L == 0:
        return [end], [end]
    taken = min(L, max(1, round(L * rate)))
    spans = max(1, min(round(taken / mean_span), taken, L - taken + 1, len(sentinels)))
    lengths = _parts(taken - spans, spans, rng) + 1  # every span has at least one token
    gaps = _parts(L - taken - (spans - 1), spans + 1, rng)
    gaps[1:-1] += 1  # and so has every gap between two spans
    left, out, at = [], [], 0
    for gap, length, sentinel in zip(gaps, lengths, sentinels, strict=False):
        left += [*tokens[at : at + gap], sentinel]
        out += [sentinel, *tokens[at + gap : at + gap + length]]
        at += gap + length
    return [*left, *tokens[at:], end], [*out, end]


def _parts(total: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """A random partition of `total` into `n` ordered non-negative integers, all equally likely."""
    bars = np.sort(rng.choice(total + n - 1, n - 1, replace=False)) if n > 1 else np.zeros(0, int)
    edges = np.concatenate([[-1], bars, [total + n - 1]])
    return np.diff(edges) - 1


def denoising_loss(
    model: T5ForConditionalGeneration, ids: Tensor, targets: Tensor, sentinels: Sequence[int]
) -> dict[str, Tensor]:
    """Cross-entropy and accuracy of the removed tokens.

    Args:
        ids: (B, T), padded with 0.
        targets: (B, U), padded with -100.
        sentinels: their ids; they and the end token count in the loss, not in the accuracy.

    Returns:
        Scalars: `loss`, the mean over texts of the mean over tokens, so that the mean over two half batches equals that
        of the batch; `accuracy` of the text's own tokens.
    """
    ids = ids[:, : int((ids != model.config.pad_token_id).sum(1).max())]
    targets = targets[:, : int((targets != IGNORED).sum(1).max())]
    logits = predict(model, ids, targets)  # (B, U, V)
    real = targets != IGNORED
    each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
    special = torch.tensor([*sentinels, model.config.eos_token_id], device=ids.device)
    words = real & ~torch.isin(targets, special)
    right = (logits.argmax(-1) == targets) & words
    return {
        "loss": (each.view_as(targets).sum(1) / real.sum(1)).mean(),
        "accuracy": right.sum() / words.sum().clamp(min=1),
    }


def predict(model: T5ForConditionalGeneration, ids: Tensor, targets: Tensor) -> Tensor:
    """Logits (B, U, V) in float32 of each target, given the text and the targets before it."""
    pad, start = model.config.pad_token_id, model.config.decoder_start_token_id
    before = F.pad(targets[:, :-1].masked_fill(targets[:, :-1] == IGNORED, pad), (1, 0), value=start)
    out = model(input_ids=ids, attention_mask=(ids != pad).long(), decoder_input_ids=before)
    return out.logits.float()
