"""Features of a folder of images, compared with clean-fid's, using the same network.

The network accepts images of any size, so that both can skip resizing: our extractors and clean-fid resize differently,
and different pixels give different features. With `--resize clean` both use clean-fid's resize, which shows the benefit
of reading ahead when preparing an image takes longer than the network.

Shapes: N images · S side · D dimensions
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import Benchmark, Row, clock, compare, cores
from t2i.checks import UsageError
from t2i.data.toybox_v1.dataset import export
from t2i.eval.features import Extractor
from t2i.eval.features.small import RandomExtractor
from t2i.eval.images.folders import image_files
from t2i.eval.images.sets import extract
from t2i.eval.metrics import frechet_distance

Resize = Literal["none", "clean"]
SIDE = 299  # clean-fid's resize target


@dataclass(frozen=True)
class Features(Benchmark):
    """Features of a folder of images, from the files to the array, and agreement of the Fréchet distances.

    Args:
        images: folder to use instead of toybox images; they must have one size for --resize none.
        num: number of toybox images to render. Their two halves are compared by a Fréchet distance in 512 dimensions,
            which clean-fid computes accurately only for more images than that in each.
        size: side of the toybox images in pixels.
        resize: resizing before the network, one row of the table each.
        batch_size: images per forward pass.
        workers: number of our threads, and of clean-fid's processes; default: the cores available to this process.
    """

    images: Path | None = None
    num: int = 1040
    size: int = 256
    resize: tuple[Resize, ...] = ("none", "clean")
    batch_size: int = 32
    workers: int | None = None
    repeats: int = 3

    def __post_init__(self) -> None:
        if self.num < 4 or self.size < 8 or self.batch_size < 1 or (self.workers is not None and self.workers < 1):
            raise UsageError("--num must be at least 4, --size 8, --batch-size and --workers 1")

    def run(self) -> list[Row]:
        try:
            from cleanfid import fid
        except ImportError as error:
            print(f"clean-fid is missing: {error}; pip install clean-fid==0.1.35")
            return []
        with tempfile.TemporaryDirectory() as made:
            folder = self.images or export(Path(made) / "toybox", self.num, size=self.size)
            files = len(image_files(folder))
            return [self._row(fid, folder, files, resize) for resize in self.resize]

    def _row(self, fid, folder: Path, files: int, resize: Resize) -> Row:
        network, workers = SameNetwork(resize), self.workers or cores()

        def ours() -> Tensor:
            return extract(folder, network, self.batch_size, workers=workers, progress=False).values

        def theirs() -> Tensor:
            how = {"num_workers": workers, "batch_size": self.batch_size, "device": torch.device("cpu")}
            how |= {"custom_fn_resize": network.resize, "verbose": False}
            return torch.from_numpy(fid.get_folder_features(str(folder), network.of_levels, **how))

        x, y = ours(), theirs()
        if not torch.allclose(x, y, rtol=1e-4, atol=1e-4):
            raise RuntimeError(f"clean-fid's features are others: they differ by {(x - y).abs().max():.3g}")
        halves = x[::2], x[1::2]
        with contextlib.redirect_stdout(io.StringIO()):  # it prints if a covariance is singular
            peer_distance = fid.fid_from_feats(*(half.numpy() for half in (y[::2], y[1::2])))
        distance = frechet_distance(*halves)
        apart = abs(peer_distance - distance) / max(abs(distance), 1e-12)
        work = f"features, {files} images, resize {resize}"
        row = compare(work, clock(ours), {"clean-fid": clock(theirs)}, self.repeats)
        print(
            f"{work}: {files / row.ours_s:.0f} images/s, clean-fid {files / row.peer_s:.0f}; the distances of two "
            f"halves, {distance:.6g} and {peer_distance:.6g}, have a relative difference of {apart:.1e}"
        )
        return row


class SameNetwork(Extractor):
    """The network of the extractor `random`, as our extractor and, through `of_levels`, as clean-fid's; never resizes.

    clean-fid passes floats from 0 to 255 to its network after resizing, which `resize` replaces: by none, or by
    clean-fid's, which we then use too.
    """

    def __init__(self, resize: Resize = "none"):
        self.network, self.resize = RandomExtractor(), _clean() if resize == "clean" else _as_it_is
        network = self.network
        super().__init__("random", network.dim, f"resize-{resize}", network.weights_sha256)

    def prepare(self, images: Tensor) -> Tensor:
        resized = [self.resize(np.ascontiguousarray(image)) for image in images.permute(0, 2, 3, 1).numpy()]
        return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 127.5 - 1

    def forward(self, prepared: Tensor) -> Tensor:
        return self.network.forward(prepared)

    def of_levels(self, levels: Tensor) -> Tensor:
        """Floats (N, 3, S, S) from 0 to 255 -> (N, D)."""
        return self.network.forward(levels / 127.5 - 1)


def _as_it_is(image: np.ndarray) -> np.ndarray:
    return image


def _clean() -> Callable[[np.ndarray], np.ndarray]:
    """clean-fid's resize: bicubic in floats, by Pillow (Parmar et al. 2022, arXiv 2104.11222)."""
    from cleanfid.resize import make_resizer

    return make_resizer("PIL", False, "bicubic", (SIDE, SIDE))
