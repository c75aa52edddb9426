"""Regional compilation: `torch.compile` of a model's repeated blocks instead of the whole model.

Identical blocks are compiled once, in seconds rather than minutes; and the code around the blocks may depend on tensor
values (checks, quantizers), which would cause graph breaks in a compiled whole model.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

RECOMPILATIONS = 64  # per block: one for each input size, in training and in evaluation mode


def compile_blocks(model: nn.Module) -> int:
    """Compile every repeated block of a model at its next call; returns the number of blocks."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILATIONS)
    blocks = list(repeated_blocks(model))
    for block in blocks:
        block.compile()
    return len(blocks)


def repeated_blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules in ModuleLists and Sequentials, except torch's own layers."""
    for child in model.children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            blocks = [part for part in child if _is_block(part)]
            yield from blocks
            for part in child:
                if part not in blocks:
                    yield from repeated_blocks(part)
        else:
            yield from repeated_blocks(child)


def _is_block(module: nn.Module) -> bool:
    return not type(module).__module__.startswith("torch.nn.") and any(True for _ in module.children())
