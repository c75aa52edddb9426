"""What identifies a model's weights, and a tokenizer."""

from __future__ import annotations

import hashlib
import json

from torch import nn
from transformers import PreTrainedTokenizerFast


def digest(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers as float32, in the order of their names."""
    state, found = model.state_dict(), hashlib.sha256()
    for name in sorted(state):
        found.update(state[name].detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def tokenizer_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 of how a tokenizer of transformers turns a text into numbers.

    What it was last told to cut and to pad to is left out: the tokenizer keeps it, and it changes as it is used.
    """
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = {name: told[name] for name in ("normalizer", "pre_tokenizer", "model", "post_processor")}
    kept["added"] = sorted((token["content"], token["id"]) for token in told["added_tokens"])
    return hashlib.sha256(json.dumps([kept, tokenizer.pad_token_id], sort_keys=True).encode()).hexdigest()
