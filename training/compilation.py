"""Regional compilation: `torch.compile` of a model's repeated blocks, not of the whole.

Equal blocks are compiled once, in seconds where the whole model would take minutes; and the code around the blocks may
look at values, as checks and quantizers do, which would break the graph of a whole model.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

RECOMPILATIONS = 64  # of one block: one for each input size, in training and in evaluation mode


def compile_blocks(model: nn.Module) -> int:
    """Have every repeated block of a model be compiled at its next call; return how many there are."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILATIONS)
    blocks = list(repeated_blocks(model))
    for block in blocks:
        block.compile()
    return len(blocks)


def repeated_blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules in ModuleLists and Sequentials, except torch's own layers."""
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
