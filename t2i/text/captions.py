"""A warning, before training, about captions longer than a text encoder's maximum length."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import islice

from transformers import PreTrainedTokenizerBase

from t2i.checks import shortened
from t2i.notes import are

logger = logging.getLogger(__name__)
LOOKED_AT = 500  # number of captions checked, which takes 0.1 s


def warn_of_long_captions(captions: Iterable[str], tokenizer: PreTrainedTokenizerBase, room: int) -> None:
    """Log how many of the first captions have more than `room` tokens, not counting special ones, and are truncated."""
    first = list(islice(captions, LOOKED_AT))
    tokens = tokenizer(first, add_special_tokens=False, verbose=False)["input_ids"] if first else []
    long = [caption for caption, ids in zip(first, tokens, strict=True) if len(ids) > room]
    if long:
        logger.warning(
            "%d of the first %d captions %s longer than the %d tokens that the model reads, and what is beyond is "
            "dropped, as of %s",
            *(len(long), len(first), are(long), room, shortened(long[0], 100)),
        )
