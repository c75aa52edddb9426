"""Regional compilation: `torch.compile` of the blocks that a model is a list of, not of the whole.

One block is compiled for all that are like it, so that it takes seconds where the whole takes minutes; and what
surrounds the blocks may look at values, as checks and quantisers do, which a compiled graph would break at.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

RECOMPILATIONS = 64  # of one block: for its sizes on each level, and in training and not


def compile_blocks(model: nn.Module) -> int:
    """Compile every repeated block of a model, in place, at its next call; return how many there are."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILATIONS)
    blocks = list(repeated_blocks(model))
    for block in blocks:
        block.compile()
    return len(blocks)


def repeated_blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules in lists and sequences, torch's own layers left out."""
    for child in model.children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            own = [part for part in child if _is_block(part)]
            yield from own
            for part in child:
                if part not in own:
                    yield from repeated_blocks(part)
        else:
            yield from repeated_blocks(child)


def _is_block(module: nn.Module) -> bool:
    return not type(module).__module__.startswith("torch.nn.") and any(True for _ in module.children())
