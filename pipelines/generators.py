"""Random generators: one per image, given or seeded from a single one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

Generators = torch.Generator | Sequence[torch.Generator] | None


def seeded_from(generator: torch.Generator, count: int) -> list[torch.Generator]:
    """`count` new generators with seeds sampled from the given one, which advances."""
    seeds = torch.randint(2**63 - 1, (count,), generator=generator, device=generator.device).tolist()
    return [torch.Generator(generator.device).manual_seed(seed) for seed in seeds]


def copied(generator: torch.Generator) -> torch.Generator:
    """A copy in the same state."""
    return torch.Generator(generator.device).set_state(generator.get_state())


def one_each(generator: Generators, count: int) -> list[torch.Generator] | None:
    """A generator per image; a single one serves all images in turn, as in diffusers. Raises ValueError otherwise."""
    if generator is None or isinstance(generator, torch.Generator):
        return generator and [generator] * count
    if len(generator) != count:
        raise ValueError(f"{count} images need {count} generators (or one), not {len(generator)}")
    return list(generator)


def own_each(generator: Generators, count: int) -> list[torch.Generator] | None:
    """A generator per image, so that none depends on another; a single one seeds them. Raises ValueError otherwise."""
    return one_each(seeded_from(generator, count) if isinstance(generator, torch.Generator) else generator, count)


def for_steps(generator: Generators, generators: list[torch.Generator] | None) -> list[torch.Generator] | None:
    """A generator per image for the noise of later steps, which must not depend on the batch size.

    If several images share one, theirs are seeded from a copy of it, so that it ends in the same state as in diffusers'
    pipelines with deterministic samplers. A single image continues with its own, as there.
    """
    if not isinstance(generator, torch.Generator) or len(generators) == 1:
        return generators
    return seeded_from(copied(generator), len(generators))
