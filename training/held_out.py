"""Held-out loss of a denoiser by timestep, and the swap test: the loss with conditions of other images.

A model that ignores a condition has the same loss with that of another image.

Shapes: N images · C channels · h, w sides of what is denoised · K bins of timesteps
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from t2i.data.sources import Source
from t2i.data.splits import TEST_SEED, Part
from t2i.data.toybox.dataset import SceneDataset
from t2i.diffusion.objective import DiffusionObjective
from t2i.tables import format_table

BINS = 10
BATCH = 32  # images per forward pass
RIGHT = "right conditions"


def split_held_out(source: Source, num: int) -> tuple[Source, Source]:
    """Items to train on and `num` held-out ones: from another toybox seed, or the last ones, at most a twentieth.

    Raises ValueError for fewer than 3 items: the swap test needs two.
    """
    if isinstance(source, SceneDataset):
        return source, type(source)("train", source.size, TEST_SEED, num)
    count = max(2, min(num, len(source) // 20))
    if len(source) <= count:
        raise ValueError(f"{len(source)} images are too few: there must be one to train on and two to hold out")
    return Part(source, 0, len(source) - count), Part(source, len(source) - count, len(source))


@torch.no_grad()
def errors_by_timestep(
    objective: DiffusionObjective, denoiser: nn.Module, latents: Tensor, given: Mapping[str, Tensor]
) -> Tensor:
    """Squared errors (K, N) of the predictions, each at a random timestep in its bin.

    Noise and timesteps depend on the place of an image alone: with other conditions they are the same.

    Args:
        latents: (N, C, h, w), or pixels.
        given: arguments of `objective.errors`, each with N rows.
    """
    T = objective.schedule.num_train_timesteps
    rng, found = torch.Generator().manual_seed(0), []
    for start, end in pairwise([*bins(T), T]):
        times = start + torch.rand(len(latents), generator=rng) * (end - start)
        times = times if objective.flow else times.floor().long().clamp(max=end - 1)
        noise = torch.randn(latents.shape, generator=rng)
        rows = {"latents": latents, "noise": noise.to(latents), "timesteps": times.to(latents.device), **given}
        batches = zip(*(part.split(BATCH) for part in rows.values()), strict=True)
        errors = [objective.errors(denoiser, **dict(zip(rows, batch, strict=True))) for batch in batches]
        found.append(torch.cat(errors).cpu())
    return torch.stack(found)


def bins(num_train_timesteps: int) -> list[int]:
    """The first timestep of each of ten equal bins."""
    return sorted({i * num_train_timesteps // BINS for i in range(BINS)})


def swap_test(
    errors: Callable[[Mapping[str, Tensor]], Tensor], given: Mapping[str, Tensor], swaps: Mapping[str, tuple[str, ...]]
) -> dict[str, Tensor]:
    """The errors (K, N) with the right conditions, and with each of `swaps`.

    Args:
        errors: of conditions, as `errors_by_timestep` gives them.
        given: the conditions, each with N rows.
        swaps: {what is taken from the next image instead: the names of these conditions}.
    """
    found = {RIGHT: errors(given)}
    for name, taken in swaps.items():
        found[name] = errors({key: x.roll(1, 0) if key in taken else x for key, x in given.items()})
    return found


def scores_of(errors: Mapping[str, Tensor], num_train_timesteps: int) -> dict:
    """Plain data for scores.json: the means of the errors (K, N) by bin and over all bins."""
    means = {name: table.mean(1).tolist() for name, table in errors.items()}
    return {
        "images": errors[RIGHT].shape[1],
        "timesteps": bins(num_train_timesteps),
        "loss_by_timestep": means,
        "loss": {name: table.mean().item() for name, table in errors.items()},
    }


def table_of(scores: Mapping) -> str:
    """`scores_of` as a text table: a row for the right conditions and each swap, a column for each bin."""
    right = scores["loss"][RIGHT]
    head = ["held-out loss, t from", *(f"{t}" for t in scores["timesteps"]), "mean", ""]
    rows = []
    for name, values in scores["loss_by_timestep"].items():
        mean = scores["loss"][name]
        change = "" if name == RIGHT else f"{mean / right - 1:+.1%}"
        rows.append([name, *(f"{value:.4f}" for value in values), f"{mean:.4f}", change])
    return format_table(head, rows, right=range(1, len(head)))
