"""What identifies a model's weights, and a tokenizer."""

from __future__ import annotations

import hashlib

from torch import nn
from transformers import PreTrainedTokenizerFast


def digest(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers as float32, in the order of their names."""
    state, found = model.state_dict(), hashlib.sha256()
    for name in sorted(state):
        found.update(state[name].detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def tokenizer_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 of all that a tokenizer of transformers does to a text."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
