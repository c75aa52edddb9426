"""The Fréchet distance, compared with torch-fidelity's and torchmetrics' on the same features.

Shapes: N samples of each set · D dimensions
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.memory import peak_mb
from benchmarks.timing import Benchmark, Row, clock, compare
from t2i.checks import UsageError
from t2i.eval.metrics import frechet_distance

Peer = Literal["torch-fidelity", "torchmetrics"]
Distance = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Frechet(Benchmark):
    """Fréchet distances of random features, from the features to the number: seconds, and peak memory.

    Memory is measured in a fresh process for each, including the features, Python and all imports.

    Args:
        peers: implementations to compare with.
        samples: N of each set; one table row per count and peer.
        dimensions: D; Inception has 2,048.
    """

    peers: tuple[Peer, ...] = ("torch-fidelity", "torchmetrics")
    samples: tuple[int, ...] = (1000, 5000)
    dimensions: int = 2048
    repeats: int = 3

    def __post_init__(self) -> None:
        if self.dimensions < 1 or not self.samples or min(self.samples) < 2:
            raise UsageError("--samples must be at least 2 each, and --dimensions at least 1")

    def run(self) -> list[Row]:
        rows = []
        for n in self.samples:
            x, y = _features(n, self.dimensions, 0), _features(n, self.dimensions, 1)
            mine, ours_mb = clock(lambda x=x, y=y: frechet_distance(x, y)), self._peak("", n)
            for name in self.peers:
                try:
                    theirs = PEERS[name](self.dimensions)
                except ImportError as error:
                    print(f"{name} is missing: {error}")
                    continue
                _check(name, theirs(x, y), frechet_distance(x, y))
                work = f"Frechet distance, {n} x {self.dimensions}"
                timed = clock(lambda x=x, y=y, theirs=theirs: theirs(x, y))
                row = compare(work, mine, {name: timed}, self.repeats)
                rows.append(replace(row, ours_mb=ours_mb, peer_mb=self._peak(name, n)))
        return rows

    def _peak(self, peer: str, n: int) -> float | None:
        return peak_mb("frechet", peer=peer, n=n, d=self.dimensions, threads=torch.get_num_threads())


def peak(peer: str, n: int, d: int, threads: int) -> None:
    """One distance by a peer, or by ours if the name is empty; `memory` runs this in a separate process."""
    torch.set_num_threads(threads)
    distance = PEERS[peer](d) if peer else frechet_distance
    with torch.inference_mode():
        distance(_features(n, d, 0), _features(n, d, 1))


def _features(n: int, d: int, seed: int) -> Tensor:
    """Correlated and positive, like a network's pooled features: float32 (N, D)."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(2)) / math.sqrt(d)
    return (torch.randn(n, d, generator=g) @ mix + 0.1 * seed).relu()


def _check(name: str, theirs: float, ours: float) -> None:
    """Raise if the results differ: a wrong result has no valid timing."""
    if not math.isclose(theirs, ours, rel_tol=1e-3):
        raise RuntimeError(f"{name} gives {theirs}, we give {ours}")


def _torch_fidelity(d: int) -> Distance:
    from torch_fidelity import metric_fid

    def distance(x: Tensor, y: Tensor) -> float:
        statistics = [metric_fid.fid_features_to_statistics(z) for z in (x, y)]
        return metric_fid.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]

    return distance


def _torchmetrics(d: int) -> Distance:
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Given(nn.Module):
        """Returns its input: the images are features already."""

        num_features = d

        def forward(self, x: Tensor) -> Tensor:
            return x

    def distance(x: Tensor, y: Tensor) -> float:
        fid = FrechetInceptionDistance(feature=Given(), normalize=True)
        fid.update(y, real=True)
        fid.update(x, real=False)
        return fid.compute().item()

    return distance


PEERS = {"torch-fidelity": _torch_fidelity, "torchmetrics": _torchmetrics}
