"""Held-out loss by timestep, row or mask ratio, and the swap test: the loss with conditions of other images.

A model that ignores a condition has the same loss with that of another image.

Shapes: N images · C channels · h, w sides of what is denoised · K bins of timesteps, rows or mask ratios
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from t2i.checks import check_whole
from t2i.data.mixture import Mixture
from t2i.data.sources import Source
from t2i.data.splits import TEST_SEED, Part
from t2i.data.toybox.dataset import SceneDataset
from t2i.data.unreadable import beneath
from t2i.diffusion.objective import DiffusionObjective
from t2i.tables import format_table
from t2i.training.task import Evaluation

BINS = 10
BATCH = 32  # images per forward pass
RIGHT = "right conditions"


def check_held_out(num: int) -> None:
    """Raise ValueError for a number of held-out images that is neither 0 nor at least 2, which the swap test needs."""
    if num != 0:
        check_whole("held_out_images", num, least=2)


def split_held_out(source: Source, num: int, needed: bool = False) -> tuple[Source, Source]:
    """Items to train on and `num` held-out ones: from another toybox seed, or the last ones, at most a twentieth.

    Each source of a mixture is split, as the mixture repeats the items of some.

    Args:
        needed: whether the recipe needs them; otherwise `num` may be 0.

    Raises ValueError for fewer than 3 items: the swap test needs two.
    """
    if num == 0:
        return source, Part(source, 0, 0)
    if isinstance(source, SceneDataset):
        return source, type(source)("train", source.size, TEST_SEED, num)
    if isinstance(source, Mixture):
        parts = zip(*(split_held_out(part, num, needed) for part in source.sources), strict=True)
        train, held_out = (Mixture(part, source.weights) for part in parts)
        return train, Part(held_out, 0, min(num, len(held_out)))
    count = max(2, min(num, len(source) // 20))
    if len(source) <= count:
        remedy = "give more images" if needed else "give more images, or --held-out-images 0"
        raise ValueError(f"{len(source)} images are too few to train on one and hold out two: {remedy}")
    cut = len(source) - count
    train, held_out = (beneath(source, partial(Part, start=a, stop=b)) for a, b in ((0, cut), (cut, len(source))))
    return train, held_out


def loaded(source: Source) -> tuple[Tensor, list[str]]:
    """All items of a source: images, uint8 (N, S, S, 3), and captions."""
    items = [source[i] for i in range(len(source))]
    return torch.from_numpy(np.stack([item["image"] for item in items])), [item["text"] for item in items]


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
    rng, by_bin = torch.Generator().manual_seed(0), []
    for start, end in pairwise([*bins(T), T]):
        times = start + torch.rand(len(latents), generator=rng) * (end - start)
        times = times if objective.flow else times.floor().long().clamp(max=end - 1)
        noise = torch.randn(latents.shape, generator=rng)
        rows = {"latents": latents, "noise": noise.to(latents), "timesteps": times.to(latents.device), **given}
        batches = zip(*(part.split(BATCH) for part in rows.values()), strict=True)
        errors = [objective.errors(denoiser, **dict(zip(rows, batch, strict=True))) for batch in batches]
        by_bin.append(torch.cat(errors).cpu())
    return torch.stack(by_bin)


def bins(total: int, count: int = BINS) -> list[int]:
    """The first timestep (or row) of each of `count` bins, as equal as can be; at most `total`."""
    return sorted({i * total // count for i in range(count)})


def swap_test(
    errors: Callable[[Mapping[str, Tensor]], Tensor], given: Mapping[str, Tensor], swaps: Mapping[str, tuple[str, ...]]
) -> dict[str, Tensor]:
    """The errors (K, N) with the right conditions, and with each of `swaps`.

    Args:
        errors: of conditions, as `errors_by_timestep` gives them.
        given: the conditions, each with N rows.
        swaps: {what is taken from the next image instead: the names of these conditions}.
    """
    tables = {RIGHT: errors(given)}
    for name, taken in swaps.items():
        tables[name] = errors({key: x.roll(1, 0) if key in taken else x for key, x in given.items()})
    return tables


def scores_of(errors: Mapping[str, Tensor], starts: Sequence[float], by: str = "timestep") -> dict:
    """Plain data for scores.json: the means of the errors (K, N) by bin and over all bins.

    Args:
        starts: where each bin begins.
        by: what is binned.
    """
    means = {name: table.mean(1).tolist() for name, table in errors.items()}
    return {
        "images": errors[RIGHT].shape[1],
        f"{by}s": list(starts),
        f"loss_by_{by}": means,
        "loss": {name: table.mean().item() for name, table in errors.items()},
    }


def printed(scores: dict, by: str = "timestep") -> Evaluation:
    """Print `scores_of` as a table, and return them as an evaluation."""
    tqdm.write(table_of(scores, by))
    return Evaluation({"held_out": scores})


def table_of(scores: Mapping, by: str = "timestep") -> str:
    """`scores_of` as a text table: a row for the right conditions and each swap, a column for each bin."""
    right = scores["loss"][RIGHT]
    head = [f"held-out loss, {by.replace('_', ' ')} from", *(f"{start:g}" for start in scores[f"{by}s"]), "mean", ""]
    rows = []
    for name, values in scores[f"loss_by_{by}"].items():
        mean = scores["loss"][name]
        change = "" if name == RIGHT else f"{mean / right - 1:+.1%}"
        rows.append([name, *(f"{value:.4f}" for value in values), f"{mean:.4f}", change])
    return format_table(head, rows, right=range(1, len(head)))
