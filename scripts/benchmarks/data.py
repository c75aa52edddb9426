"""Reading image folders, compared with torchvision's ImageFolder, and the time to open a folder.

Measures CPU seconds of one process without data workers, so that other programs on the machine matter little. Our
images are resampled with Lanczos's filter (3 lobes), torchvision's by default bilinearly, which takes less than half
the time; both are measured, and each row names its filter.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.timing import Benchmark, Row, Timed, compare
from t2i.checks import UsageError
from t2i.data import open_source
from t2i.data.base import Source
from t2i.data.loading import load_batches
from t2i.data.shard_writer import write_shards
from t2i.data.toybox_v1 import export

BATCH = 64


@dataclass(frozen=True)
class Data(Benchmark):
    """CPU seconds for reading a folder's images in batches, compared with torchvision and with the same images in
    shards; and for opening a folder.

    Args:
        num: number of images to read.
        image_size: side of the images in pixels.
        sizes: sides to resize to, in pixels.
        files: number of one-pixel images in the folder that is only opened.
    """

    num: int = 2000
    image_size: int = 128
    sizes: tuple[int, ...] = (128, 64)
    files: int = 10_000

    def __post_init__(self) -> None:
        if min(self.num, self.image_size, self.files, *self.sizes) < 1:
            raise UsageError("--num, --image-size, --sizes and --files must be at least 1")

    def run(self) -> list[Row]:
        with tempfile.TemporaryDirectory() as made:
            os.environ["XDG_CACHE_HOME"] = made  # for the index of the shards
            opened = Path(made) / "many"
            _fill(opened, self.files)
            start = time.perf_counter()
            source = open_source(str(opened), 8)
            took = time.perf_counter() - start
            start = time.perf_counter()
            source.fingerprint()
            print(f"{self.files} files: opened in {took:.2f} s, fingerprint in {time.perf_counter() - start:.2f} s")
            folder = export(Path(made) / "images" / "toybox", self.num, size=self.image_size)
            shards = Path(made) / "shards"
            write_shards(open_source(str(folder), self.image_size), shards)
            return [row for size in self.sizes for row in self._rows(folder, shards, size)]

    def _rows(self, folder: Path, shards: Path, size: int) -> list[Row]:
        from torch.utils.data import DataLoader
        from torchvision import transforms as T
        from torchvision.datasets import ImageFolder

        ours, of_shards = (_reading(open_source(str(data), size)) for data in (folder, shards))
        work = f"{self.num} images of {self.image_size} px to {size} px, from shards"
        rows = [compare(work, of_shards, {"our image folder": ours}, self.repeats)]
        print(f"{work}: {self.num / rows[0].ours_s:.0f} images/CPU second, {self.num / rows[0].peer_s:.0f}")
        for kind in ("bilinear", "lanczos"):
            resize = T.Resize(size, T.InterpolationMode(kind))
            theirs = ImageFolder(str(folder.parent), T.Compose([resize, T.CenterCrop(size), T.ToTensor()]))
            peer = cpu_clock(lambda theirs=theirs: [len(y) for _, y in DataLoader(theirs, batch_size=BATCH)])
            work = f"{self.num} images of {self.image_size} px to {size} px, {kind}"
            rows.append(compare(work, ours, {"torchvision ImageFolder": peer}, self.repeats))
            print(f"{work}: {self.num / rows[-1].ours_s:.0f} images/CPU second, {self.num / rows[-1].peer_s:.0f}")
        return rows


def _reading(source: Source) -> Timed:
    return cpu_clock(lambda: [len(batch["text"]) for batch in load_batches(source, batch_size=BATCH)])


def cpu_clock(work: Callable[[], object]) -> Timed:
    """Wrap `work` as a function that returns the CPU seconds it took."""

    def timed() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return timed


def _fill(folder: Path, files: int) -> None:
    """One-pixel images with captions."""
    from PIL import Image

    folder.mkdir()
    Image.new("RGB", (1, 1)).save(folder / "0.png")
    content = (folder / "0.png").read_bytes()
    for i in range(files):
        (folder / f"{i}.png").write_bytes(content)
    lines = [json.dumps({"file_name": f"{i}.png", "text": f"thing {i}"}) + "\n" for i in range(files)]
    (folder / "metadata.jsonl").write_text("".join(lines))
