"""What identifies a model's weights."""

from __future__ import annotations

import hashlib

from torch import nn


def digest(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers as float32, in the order of their names."""
    state, found = model.state_dict(), hashlib.sha256()
    for name in sorted(state):
        found.update(state[name].detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
