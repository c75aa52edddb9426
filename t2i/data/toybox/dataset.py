"""Toybox as a map-style dataset, and its export to disk by several processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from t2i.checks import check_choice
from t2i.data.fingerprint import combine
from t2i.data.toybox.label_maps import layout_image
from t2i.data.toybox.render import check_size
from t2i.data.toybox.scene import Scene
from t2i.data.toybox.split import SPLITS

VERSION = 1  # of the images and captions: increment it when a change of the code changes any of them
LAYOUTS = ("folder", "array")
_CHUNK = 256  # items per task: enough to amortise the cost of dispatching it


class Toybox:
    """A map-style dataset of `num` scenes.

    Item i depends only on (seed, split, i), not on `num` or the order of access.

    Args:
        split: "train", "zero_shot" or "all".
        size: image side in pixels.
        seed: non-negative; different seeds give unrelated scenes.
        num: number of items.
        family: "single", "count", "relation", or None for a mixture of the three.
    """

    def __init__(
        self, split: str = "train", size: int = 64, seed: int = 0, num: int = 100_000, family: str | None = None
    ):
        check_choice("split", split, SPLITS)
        check_size(size)
        if seed < 0 or num < 0:
            raise ValueError(f"seed and num must not be negative: {seed=}, {num=}")
        self.split, self.size, self.seed, self.num, self.family = split, size, seed, num, family

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> dict:
        """dict(image=uint8 array (size, size, 3), text=caption, scene=Scene); IndexError beyond the end."""
        scene, text = self.scene(index)
        return {"image": np.array(scene.render(self.size)), "text": text, "scene": scene}

    def scene(self, index: int) -> tuple[Scene, str]:
        """Scene and caption of an item, without rendering it; IndexError beyond the end."""
        if not -self.num <= index < self.num:
            raise IndexError(f"index {index} is out of range for {self.num} items")
        rng = np.random.default_rng((self.seed, SPLITS.index(self.split), index % self.num))
        scene = Scene.sample(rng, self.split, self.family)
        return scene, scene.caption(rng)

    def captions(self, limit: int) -> Iterator[str]:
        """The captions of the first `limit` items."""
        return (self.scene(i)[1] for i in range(min(limit, self.num)))

    def fingerprint(self) -> str:
        """Fingerprint of everything that determines the images and captions; see `t2i.data.fingerprint`."""
        return combine(type(self).__name__, VERSION, self.split, self.size, self.seed, self.num, self.family)


def export(
    out: str | os.PathLike,
    num: int,
    split: str = "train",
    size: int = 64,
    seed: int = 0,
    workers: int = 1,
    layout: str = "folder",
    layouts: bool = False,
) -> Path:
    """Render `num` items of `Toybox(split, size, seed)` to disk; return the folder.

    The output does not depend on `workers`. Files are written to a hidden folder next to `out`, which is renamed at the
    end: `out` is complete or absent. Workers are spawned: call this under `if __name__ == "__main__"` in a script.

    Args:
        out: a folder that does not exist or is empty.
        layout: "folder" writes PNG files and metadata.jsonl with file_name, text, scene (what Hugging Face's
            `imagefolder` reads); "array" writes images.npy (uint8, num × size × size × 3) and metadata.jsonl.
        layouts: also write the label map of each image, `Scene.layout` as a PNG file with a palette, and its name to
            metadata.jsonl as layout_file_name (which `imagefolder` reads as an image column called layout).

    Raises:
        FileExistsError: `out` exists and is not an empty folder.
        ValueError: an unknown layout or split, or label maps with an array.
    """
    check_choice("layout", layout, LAYOUTS)
    if layouts and layout != "folder":
        raise ValueError("maps of labels are files beside pictures: choose layout 'folder' with layouts")
    out, data = Path(out), Toybox(split, size, seed, num)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not an empty folder; remove it or choose another")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial_out = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.partial")
    partial_out.mkdir()
    try:
        if layout == "array":
            shape = (num, size, size, 3)
            np.lib.format.open_memmap(partial_out / "images.npy", mode="w+", dtype=np.uint8, shape=shape).flush()
        chunks = [range(i, min(i + _CHUNK, num)) for i in range(0, num, _CHUNK)]
        write = partial(_write_chunk, data, partial_out, layout, layouts)
        with (
            (partial_out / "metadata.jsonl").open("w", encoding="utf-8") as metadata,
            tqdm(total=num, desc=f"toybox {split}", unit="image") as progress,
            _mapper(workers) as run,
        ):
            for records in run(write, chunks):  # in order, so that line i describes item i
                metadata.writelines(json.dumps(record) + "\n" for record in records)
                progress.update(len(records))
        if out.exists():
            out.rmdir()
        partial_out.rename(out)
    except BaseException:  # also on Ctrl-C: leave no incomplete folder behind
        shutil.rmtree(partial_out, ignore_errors=True)
        raise
    return out


@contextmanager
def _mapper(workers: int) -> Iterator:
    """`map`, in this process or in order over `workers` processes."""
    if workers <= 1:
        yield map
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:  # fork is unsafe with torch's threads
        yield pool.imap


def _write_chunk(data: Toybox, folder: Path, layout: str, layouts: bool, indices: Iterable[int]) -> list[dict]:
    """Render items into `folder`; return their metadata, one record per item."""
    images = np.lib.format.open_memmap(folder / "images.npy", mode="r+") if layout == "array" else None
    records = []
    for i in indices:
        item = data[i]
        record = {"text": item["text"], "scene": item["scene"].to_dict()}
        if images is not None:
            images[i] = item["image"]
        else:
            record = {"file_name": f"{i:07d}.png", **record}
            Image.fromarray(item["image"]).save(folder / record["file_name"])
        if layouts:
            record["layout_file_name"] = f"{i:07d}.layout.png"
            layout_image(item["scene"].layout(data.size)).save(folder / record["layout_file_name"])
        records.append(record)
    if images is not None:
        images.flush()
    return records
