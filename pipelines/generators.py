"""A generator for each picture: given, or made from one that is given for all."""

from __future__ import annotations

from collections.abc import Sequence

import torch

Generators = torch.Generator | Sequence[torch.Generator] | None


def seeded_from(generator: torch.Generator, count: int) -> list[torch.Generator]:
    """So many new generators, whose seeds the given one draws; it goes on from there."""
    seeds = torch.randint(2**63 - 1, (count,), generator=generator, device=generator.device).tolist()
    return [torch.Generator(generator.device).manual_seed(seed) for seed in seeds]


def copied(generator: torch.Generator) -> torch.Generator:
    """Another that will draw the same numbers."""
    return torch.Generator(generator.device).set_state(generator.get_state())


def one_each(generator: Generators, count: int) -> list[torch.Generator] | None:
    """A generator for each image; one that is given alone serves them all, image by image, as in diffusers."""
    if generator is None or isinstance(generator, torch.Generator):
        return generator and [generator] * count
    if len(generator) != count:
        raise ValueError(f"{count} images need {count} generators (or one), not {len(generator)}")
    return list(generator)


def for_steps(generator: Generators, generators: list[torch.Generator] | None) -> list[torch.Generator] | None:
    """A generator of each image's own for the noise of later steps: else it would depend on how batches are cut.

    Those of several images that share one are seeded from a copy of it: it stays where diffusers' own pipelines, by
    samplers without noise, leave it. A single image goes on with its own, as there.
    """
    if not isinstance(generator, torch.Generator) or len(generators) == 1:
        return generators
    return seeded_from(copied(generator), len(generators))
