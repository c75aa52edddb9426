"""Rendering a dataset to disk with all cores: an image folder, Parquet files, or one memory-mapped array."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from t2i.checks import check_choice
from t2i.data.toybox.dataset import Toybox
from t2i.data.toybox.render import label_image
from t2i.files import check_new, read_json, reserve, write_json, write_whole

FORMATS = ("folder", "parquet", "array")
SETTINGS = "export.json"  # what an unfinished export was started with
_CHUNK = 512  # items per task, and images per Parquet file


def export(
    data: Toybox, out: str | os.PathLike, workers: int = 1, file_format: str = "folder", layouts: bool = False
) -> Path:
    """Render a dataset to disk; return the folder.

    The output does not depend on `workers`. Files are written to a hidden folder next to `out`, which is renamed at the
    end: `out` is complete or absent. An export that was interrupted goes on where it stopped, if called again with the
    same dataset. Workers are spawned: call this under `if __name__ == "__main__"` in a script.

    Args:
        out: a folder that does not exist or is empty.
        file_format: "folder" writes PNG files and metadata.jsonl with file_name, text, scene (what Hugging Face's
            `imagefolder` reads); "parquet" writes Parquet files with the columns image, text, scene, as `load_dataset`
            reads them; "array" writes images.npy (uint8, num × size × size × 3) and metadata.jsonl.
        layouts: also write the label map of each image, `Scene.layout` as a PNG file with a palette, and its name to
            metadata.jsonl as layout_file_name (which `imagefolder` reads as an image column called layout).

    Raises:
        FileExistsError: `out` exists and is not an empty folder, or an export of other data was interrupted.
        ValueError: an unknown format, or label maps with another format than "folder".
    """
    check_choice("format", file_format, FORMATS)
    if layouts and file_format != "folder":
        raise ValueError("label maps are files next to the images: choose the format 'folder' with layouts")
    out = Path(out)
    check_new(out)
    part = out.with_name(f".{out.name}.partial")
    chunks = _started(data, part, file_format, layouts)
    write = partial(_write_chunk, data, part, file_format, layouts, len(chunks))
    left = [(i, chunk) for i, chunk in enumerate(chunks) if not _chunk_file(part, i).exists()]
    done = sum(len(chunk) for chunk in chunks) - sum(len(chunk) for _, chunk in left)
    with tqdm(total=data.num, initial=done, desc=f"toybox {data.split}", unit="image") as bar, _mapper(workers) as run:
        for count in run(write, left):
            bar.update(count)
    _finish(part, out, len(chunks), file_format)
    return out


def _started(data: Toybox, part: Path, file_format: str, layouts: bool) -> list[range]:
    """The chunks of an export, after preparing or checking its unfinished folder."""
    settings = {"data": data.fingerprint(), "format": file_format, "layouts": layouts}
    if part.exists() and (part / SETTINGS).exists():
        if read_json(part / SETTINGS) != settings:
            raise FileExistsError(
                f"{part} holds an unfinished export of other data; remove it, or choose another --out"
            )
    else:
        part.mkdir(parents=True, exist_ok=True)
        if file_format == "array":
            reserve(part / "images.npy", np.uint8, (data.num, data.size, data.size, 3))
        write_json(part / SETTINGS, settings)
    return [range(i, min(i + _CHUNK, data.num)) for i in range(0, data.num, _CHUNK)]


def _finish(part: Path, out: Path, chunks: int, file_format: str) -> None:
    """Join the metadata of all chunks and give the folder its name."""
    files = [_chunk_file(part, i) for i in range(chunks)]
    if file_format != "parquet":
        with (part / ".metadata.part").open("w", encoding="utf-8") as whole:
            for file in files:
                whole.write(file.read_text(encoding="utf-8"))
        (part / ".metadata.part").replace(part / "metadata.jsonl")
    for file in [*files, part / SETTINGS]:
        file.unlink()
    if out.exists():
        out.rmdir()
    part.rename(out)


@contextmanager
def _mapper(workers: int) -> Iterator[Callable]:
    """`map`, in this process or over `workers` processes, in any order."""
    if workers <= 1:
        yield map
        return
    # fork is unsafe with torch's threads; Ctrl-C is for the parent, which ends the workers
    ignore = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    with multiprocessing.get_context("spawn").Pool(workers, initializer=ignore) as pool:
        yield pool.imap_unordered


def _chunk_file(part: Path, chunk: int) -> Path:
    """The file whose existence says that a chunk is complete."""
    return part / f".chunk-{chunk:06d}.jsonl"


def _write_chunk(
    data: Toybox, part: Path, file_format: str, layouts: bool, chunks: int, task: tuple[int, Iterable[int]]
) -> int:
    """Render the items of a chunk into `part`; return their number."""
    chunk, indices = task
    images = np.lib.format.open_memmap(part / "images.npy", mode="r+") if file_format == "array" else None
    rows, records = [], []
    for i in indices:
        item = data[i]
        record = {"text": item["text"], "scene": item["scene"].to_dict()}
        if images is not None:
            images[i] = item["image"]
        elif file_format == "parquet":
            rows.append({"image": _png(item["image"]), "text": item["text"], "scene": json.dumps(record["scene"])})
        else:
            record = {"file_name": f"{i:07d}.png", **record}
            Image.fromarray(item["image"]).save(part / record["file_name"])
        if layouts:
            record["layout_file_name"] = f"{i:07d}.layout.png"
            label_image(item["scene"].layout(data.size)).save(part / record["layout_file_name"])
        records.append(record)
    if images is not None:
        images.flush()
    if file_format == "parquet":
        _write_parquet(part / f"data-{chunk:05d}-of-{chunks:05d}.parquet", rows)
    write_whole(_chunk_file(part, chunk), "".join(json.dumps(record) + "\n" for record in records), durable=False)
    return len(records)


def _png(image: np.ndarray) -> dict:
    """An image (H, W, 3) as `datasets.Image` stores it."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return {"bytes": buffer.getvalue(), "path": None}


def _write_parquet(path: Path, rows: list[dict]) -> None:
    import pyarrow as pa  # with datasets it takes a second to import
    import pyarrow.parquet as pq
    from datasets import Features, Value
    from datasets import Image as ImageFeature

    features = Features({"image": ImageFeature(), "text": Value("string"), "scene": Value("string")})
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=features.arrow_schema), buffer)
    write_whole(path, buffer.getvalue(), durable=False)
