"""Are generated samples copies of training data?

Shapes: N generated · T training · M other real samples · D dimensions · B rows of a block
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from t2i.eval.metrics.common import BLOCK, Array, as_features, as_pair, blocks, squared_distances
from t2i.eval.metrics.manifold import radii


@dataclass(frozen=True, eq=False)
class NearCopies:
    """
    Attributes:
        copies: (N,) bool, which generated samples are within `threshold` of a training sample.
        real_copies: (M − M // 2,) bool, the same for real samples that were not trained on: the chance level.
        threshold: a distance.
        nearest: (N,) int, the training sample nearest to each generated one, at `distances` (N,).
    """

    copies: np.ndarray
    real_copies: np.ndarray
    threshold: float
    nearest: np.ndarray
    distances: np.ndarray


def nearest(samples: Array, points: Array, block: int = BLOCK) -> tuple[np.ndarray, np.ndarray]:
    """The nearest of `points` (T, D) to each of `samples` (N, D) -> Euclidean distances (N,), indices (N,).

    Raises ValueError for an empty set, different D, NaN or infinity.
    """
    x, y = as_pair(samples, points, ("samples", "points"), least=1)
    centre = y.mean(0)  # centring keeps distances, and their accuracy
    x, y = x - centre, y - centre
    minima = [squared_distances(rows, y).min(1) for _, rows in blocks(x, len(y), block)]
    squared, indices = torch.cat([m.values for m in minima]), torch.cat([m.indices for m in minima])
    return squared.clamp(min=0).sqrt().cpu().numpy(), indices.cpu().numpy()


def near_copies(generated: Array, training: Array, held_out: Array | None = None, quantile: float = 0.05) -> NearCopies:
    """Generated samples that are nearer to a training sample than new real ones are by chance.

    The threshold is the `quantile` of the distances from the first half of the real samples that were not trained on to
    their nearest training sample. The second half, which does not affect the threshold, is scored alongside the
    generated samples: a generator that copies nothing has the same score. Nearest-neighbour distances, with real data
    as the baseline, follow Meehan et al. 2020 (arXiv 2004.05675).

    Args:
        generated: (N, D).
        training: (T, D), samples of the generator's training data.
        held_out: (M, D), M ≥ 2, of the same distribution, in random order. None if all real samples were trained on:
            then each training sample is compared with the others (M = T, also in random order).
        quantile: between 0 and 1.

    Raises ValueError for arguments out of range, different D, NaN or infinity.
    """
    if not 0 < quantile < 1:
        raise ValueError(f"quantile must lie between 0 and 1, not {quantile}")
    real = _to_the_others(training) if held_out is None else nearest(held_out, training)[0]
    if len(real) < 2:
        raise ValueError(f"held_out must have at least 2 samples, not {len(real)}")
    half = len(real) // 2
    threshold = float(np.quantile(real[:half], quantile))
    distances, indices = nearest(generated, training)
    return NearCopies(distances <= threshold, real[half:] <= threshold, threshold, indices, distances)


def _to_the_others(points: Array) -> np.ndarray:
    """(T, D) -> the distance of each to its nearest other, (T,)."""
    x = as_features(points, "training")
    return radii(x - x.mean(0), 1, BLOCK).clamp(min=0).sqrt().cpu().numpy()
