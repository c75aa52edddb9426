"""Sources of captioned images: toybox, an image folder, shards, Parquet and Arrow files, or a dataset on the Hub.

Every source implements `t2i.data.base.Source`.
Shapes: S image side
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from PIL import Image

from t2i.checks import shortened
from t2i.data.base import ItemError, Source
from t2i.data.fingerprint import combine, of_dataset
from t2i.data.folder import ImageFolder, tables_in
from t2i.data.image_file import ImageError
from t2i.data.image_source import NO_AUGMENTATION, Augmentation, Encoded, ImageSource, check_captions, texts_or_none
from t2i.data.labelled import is_labelled, open_labelled
from t2i.data.rendered import Rendered, is_rendered
from t2i.data.shard_names import shards_of
from t2i.data.toybox.dataset import Toybox
from t2i.data.toybox_v1.dataset import Toybox as ToyboxV1
from t2i.folders import may_be_on_hub
from t2i.notes import line_of

__all__ = ["TOYBOX_ITEMS", "WORLDS", "ImageDataset", "Source", "open_source"]

TOYBOX_ITEMS = 1_000_000  # items cost nothing until they are rendered
WORLDS = {"toybox": Toybox, "toybox-v1": ToyboxV1}
PATIENCE = 5  # seconds to wait for the Hub to answer whether a dataset exists


class ImageDataset(ImageSource):
    """Images and captions of a Hugging Face dataset.

    Args:
        dataset: a `datasets.Dataset` with an image column and a text column, of strings or lists of strings.
        size: side S of the returned images.
        captions: whether a text column is required; otherwise the texts are "" if it is missing.
        name: name of the dataset in error messages.

    Raises ValueError, listing the existing columns, if a required column is missing.
    """

    def __init__(
        self,
        dataset,
        size: int,
        image_column: str = "image",
        caption_column: str = "text",
        captions: bool = True,
        augmentation: Augmentation = NO_AUGMENTATION,
        name: str = "the data set",
    ):
        needed = ((image_column, "--image-column"), (caption_column, "--caption-column"))
        for column, flag in needed if captions else needed[:1]:
            if column not in dataset.column_names:
                known = ", ".join(dataset.column_names)
                raise ValueError(f"the data have no column {column!r} but: {known}; choose one with {flag}")
        self.dataset, self.size, self.augmentation, self.name = dataset, size, augmentation, name
        self.image_column = image_column
        self.caption_column = caption_column if caption_column in dataset.column_names else None
        self._rows = _undecoded(dataset, image_column)

    def __len__(self) -> int:
        return len(self.dataset)

    def file(self, index: int) -> tuple[Encoded, str]:
        return self._image(self._rows[index][self.image_column], index)

    def texts_of(self, index: int) -> tuple[str, ...]:
        return self._texts(self._rows[index], index)

    def caption_lists(self, limit: int) -> Iterator[tuple[str, ...]]:
        if self.caption_column is None:
            return iter([("",)] * min(limit, len(self)))
        rows = ({self.caption_column: text} for text in islice(self.dataset[self.caption_column], limit))
        return (texts_or_none(partial(self._texts, row, i)) for i, row in enumerate(rows))

    def fingerprint(self) -> str:
        columns = [self.caption_column] if self.caption_column else []
        return combine(self.size, of_dataset(self.dataset, self.image_column, *columns))

    def _record(self, index: int) -> tuple[Encoded, str, tuple[str, ...]]:
        row = self._rows[index]  # read once
        return *self._image(row[self.image_column], index), self._texts(row, index)

    def _image(self, value: object, index: int) -> tuple[Encoded, str]:
        name = f"image {index} of {self.name}"
        if isinstance(value, Image.Image):
            return value, name
        if isinstance(value, dict) and value.get("bytes"):
            return value["bytes"], name
        if isinstance(value, dict) and (path := value.get("path")):
            if "://" in path:  # inside an archive, which `datasets` opens
                return self.dataset[index][self.image_column], name
            return path, path
        raise ImageError(f"{name} in column {self.image_column!r} is no image; choose another with --image-column")

    def _texts(self, row: dict, index: int) -> tuple[str, ...]:
        if self.caption_column is None:
            return ("",)
        value = row[self.caption_column]
        texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ItemError(
                f"the caption of image {index} in column {self.caption_column!r} is no text but {shortened(value)}; "
                "drop that image, or choose another column with --caption-column"
            )
        return texts


def open_source(
    name: str | Path,
    size: int,
    image_column: str = "image",
    caption_column: str = "text",
    seed: int = 0,
    captions: bool = True,
    augmentation: Augmentation = NO_AUGMENTATION,
) -> Source:
    """Open the data source `name`.

    Args:
        name: "toybox" or "toybox-v1" (their training splits); a folder of images (see `folder.py`) or with one array of
            images (see `rendered.py`); tar files or URLs of them (see `shard_names.py`); a folder of Parquet files, or
            one saved by `datasets`; a dataset on the Hub, OWNER/NAME; or the training split of "digits", "mnist",
            "fashion", "cifar10" or a folder of IDX files (see `labelled.py`).
        size: image side in pixels.
        image_column, caption_column: column names in metadata files and datasets.
        seed: seed of toybox.
        captions: whether every image must have a caption; otherwise missing captions are "".
        augmentation: of images read from files, for training; others are returned as they are.

    Raises FileNotFoundError or ValueError, with the remedy, if `name` is none of these.
    """
    name = str(name)
    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    if name in WORLDS:
        return WORLDS[name]("train", size=size, seed=seed, num=TOYBOX_ITEMS)
    if is_labelled(name):
        return open_labelled(name, size).train
    columns = {"image_column": image_column, "caption_column": caption_column, "captions": captions}
    columns |= {"augmentation": augmentation}
    if (shards := shards_of(name)) is not None:
        from t2i.data.shards import open_shards  # slow to import

        return open_shards(shards, size, **columns)
    folder = Path(name)
    if is_rendered(folder):
        return Rendered(folder, size)
    if folder.is_dir():
        dataset = _saved(folder)
        if dataset is None:
            return ImageFolder(folder, size, **columns)
    else:
        dataset = _from_hub(name)
    source = ImageDataset(dataset, size, name=name, **columns)
    if captions:
        check_captions(source)
    return source


def _saved(folder: Path):
    """The dataset in a folder saved by `datasets` or made of Parquet files; None for any other folder."""
    if tables_in(folder):
        return None
    parquet = sorted(str(path) for path in folder.glob("*.parquet"))
    saved = (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()
    if not saved and not parquet:
        return None
    import datasets  # slow to import, and not needed for image folders

    try:
        if not saved:
            return datasets.concatenate_datasets([datasets.Dataset.from_parquet(_literal(path)) for path in parquet])
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # raised by pyarrow, the dataset builders or the file system
        raise ValueError(f"{folder} cannot be read by datasets ({line_of(error)}); save it again") from error
    if isinstance(found, datasets.DatasetDict) and "train" not in found:
        raise ValueError(f"{folder} has no split 'train' but {', '.join(found)}; give the folder of one of them")
    return found["train"] if isinstance(found, datasets.DatasetDict) else found


def _literal(path: str) -> str:
    """Escape a path, so that `datasets` does not read it as a glob pattern."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)


def _from_hub(name: str):
    """The training split of a dataset on the Hub; raises FileNotFoundError unless the Hub soon confirms it exists."""
    path = Path(name)
    if path.is_file():
        raise FileNotFoundError(f"{name} is a file; give the folder that holds the images")
    if not may_be_on_hub(name):
        raise FileNotFoundError(
            f"there is no folder {name!r}{_near(path)}; give 'toybox', 'toybox-v1', a folder or a Hub data set"
        )
    import datasets  # slow to import, and not needed for toybox and image folders
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    instead = "give 'toybox', 'toybox-v1', an image folder, or another data set of the Hub"
    kept = Path(datasets.config.HF_DATASETS_CACHE, name.replace("/", "___")).is_dir()
    try:
        HfApi().dataset_info(name, timeout=PATIENCE)
    except GatedRepoError:
        raise FileNotFoundError(f"the Hub gives {name} to those it knows only; run: hf auth login") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise FileNotFoundError(f"there is no folder {name!r}, and the Hub has no such data set; {instead}") from None
    except Exception as error:  # raised by the HTTP library, which differs between versions
        if not kept:
            reason = line_of(error) if isinstance(error, HfHubHTTPError) else "it cannot be reached"
            raise FileNotFoundError(f"there is no folder {name!r}, and the Hub says: {reason}; {instead}") from error
    try:
        return datasets.load_dataset(name, split="train")
    except (FloatingPointError, KeyboardInterrupt):
        raise
    except Exception as error:  # dataset builders raise any kind of error
        raise ValueError(f"the Hub's {name} cannot be read ({line_of(error)})") from error


def _near(path: Path) -> str:
    """A "did you mean" suffix naming a folder with a similar name, or ""."""
    siblings = [other.name for other in path.parent.iterdir() if other.is_dir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    return f": did you mean {path.parent / near[0]}?" if near else ""


def _undecoded(dataset, column: str):
    """The dataset with undecoded images, which `t2i.data.image_file` reads from their bytes."""
    import datasets

    if isinstance(dataset.features[column], datasets.Image):
        return dataset.cast_column(column, datasets.Image(decode=False))
    return dataset
