"""Writing a data source as WebDataset shards, which `shards.py` reads back as the same images and captions."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from t2i.checks import check_text
from t2i.data.base import ItemError, Source
from t2i.data.image_file import FORMATS, suffix_of, to_rgb
from t2i.data.image_source import ImageSource
from t2i.data.tables import caption_of
from t2i.files import check_new, replaced, sync, writing
from t2i.notes import are, count, note


def write_shards(source: Source, out: Path, shard_size: int = 10_000, num: int | None = None) -> int:
    """Write a source's images and captions to tar files in a folder; return the number of images written.

    Image files are written as they are, and images without files as PNG. A caption is written as NAME.txt; several
    captions, and one that a text file would not keep, such as one with line ends, as "text" in NAME.json. NAME is the
    image's number in the source. Items without an image or a valid caption are left out, with a note. The same source
    gives the same bytes. The folder is complete or absent: it is written under another name and renamed.

    Args:
        out: a folder that does not exist or is empty.
        shard_size: number of images per shard, including those that are left out.
        num: number of images, the first ones; default: all.

    Raises FileExistsError if `out` is not empty, ItemError if all items are left out.
    """
    check_new(out)
    num = len(source) if num is None else min(num, len(source))
    starts = range(0, num, shard_size)
    left_out: list[str] = []  # and why
    with writing(out), replaced(out) as part, tqdm(total=num, desc="shards", unit=" images") as bar:
        for shard, start in enumerate(starts):
            path = part / f"{shard:0{max(5, len(str(len(starts) - 1)))}}.tar"  # sorted by name, they keep their order
            with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
                for i in range(start, min(start + shard_size, num)):
                    bar.update()
                    try:
                        image, suffix, texts = _sample(source, i)
                    except ItemError as error:
                        left_out.append(str(error))
                        continue
                    _add(tar, f"{i:09}{suffix}", image)
                    _add(tar, *_captions(f"{i:09}", texts))
            sync(path)
        if left_out and len(left_out) == num:
            raise ItemError(left_out[0])
    if left_out:
        note(f"{count(left_out, 'image')} {are(left_out)} left out; the first: {left_out[0]}")
    return num - len(left_out)


def _sample(source: Source, index: int) -> tuple[bytes, str, tuple[str, ...]]:
    """An image's file, its suffix, and the image's captions. Raises ItemError if it has none or no valid caption."""
    if not isinstance(source, ImageSource):
        item = source[index]
        return _png(Image.fromarray(item["image"])), ".png", item.get("texts", (item["text"],))
    texts = source.texts_of(index)
    file, name = source.file(index)
    if isinstance(file, Image.Image):
        return _png(to_rgb(file, name)), ".png", texts
    content = file if isinstance(file, bytes) else Path(file).read_bytes()
    suffix = Path(name).suffix.lower()
    return content, suffix if suffix in FORMATS else suffix_of(content), texts


def _captions(name: str, texts: tuple[str, ...]) -> tuple[str, bytes]:
    """The name and content of the member that holds an image's captions."""
    for text in texts:
        check_text("the caption", text)
    content = texts[0].encode()
    if len(texts) == 1 and caption_of(content.decode("utf-8-sig")) == texts[0]:
        return f"{name}.txt", content
    return f"{name}.json", json.dumps({"text": texts if len(texts) > 1 else texts[0]}).encode()


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "png")
    return content.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # without owner and time
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
