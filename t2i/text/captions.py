"""Captions that are longer than a text encoder reads: said once, before training."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import islice

from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)
LOOKED_AT = 500  # captions, which takes a tenth of a second


def warn_of_long_captions(captions: Iterable[str], tokenizer: PreTrainedTokenizerBase, room: int) -> None:
    """Log how many of the first captions have more than `room` tokens, special ones left out, and lose their end."""
    first = list(islice(captions, LOOKED_AT))
    tokens = tokenizer(first, add_special_tokens=False, verbose=False)["input_ids"] if first else []
    long = [caption for caption, ids in zip(first, tokens, strict=True) if len(ids) > room]
    if long:
        logger.warning(
            "%d of the first %d captions are longer than the %d tokens that the model reads, and their ends are "
            "dropped, as of %r",
            *(len(long), len(first), room, long[0] if len(long[0]) <= 100 else long[0][:100] + "…"),
        )
