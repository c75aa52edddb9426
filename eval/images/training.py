"""The images to search for near copies: the pipeline's training data, if its folder identifies it.

A checkpoint of `t2i train` does: its run's recipe.json contains the data and the seed, its state the number of samples
seen, and the order of samples is a function of the seed (`t2i.data.sampling`).

Shapes: S image side
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from t2i.checks import UsageError
from t2i.data.sampling import NumberedSamples
from t2i.data.sources import TOYBOX_ITEMS, WORLDS
from t2i.eval.images.folders import image_files
from t2i.eval.images.sets import Source
from t2i.files import read_json
from t2i.folders import newest_in_run
from t2i.pipelines.loading.auto import PIPELINES, embedded

SEARCHED_PER_IMAGE, NEW_PER_IMAGE = 10, 2  # per generated image: training images, and images not trained on
DEFAULT_SEED = 0  # of the toybox data of recipes


@dataclass(frozen=True)
class TrainingData:
    """
    Attributes:
        images: the images to search, by name, in random order.
        new: images of the same distribution that were not trained on; None if there are none.
        note: which images are searched, as a sentence.
    """

    images: Mapping[str, Source]
    new: Mapping[str, Source] | None
    note: str


@dataclass(frozen=True)
class Trained:
    """What a checkpoint was trained on: data, seed, number of samples seen, and number of items in the data.

    A run with cached latents repeats the first `items` of toybox.
    """

    data: str
    seed: int
    samples: int
    items: int = TOYBOX_ITEMS


def what_trained(pipeline: str) -> Trained | None:
    """Training data according to a checkpoint's folder; None for embedded systems, Hub models and anything else."""
    if pipeline in embedded() or not Path(pipeline).is_dir():
        return None
    folder = newest_in_run(pipeline, "model_index.json").resolve()  # `latest` is a link
    recipe, progress = folder.parent / "recipe.json", folder / "state" / "progress.json"
    if not recipe.is_file() or not progress.is_file():
        return None
    options, done = read_json(recipe), read_json(progress, "steps", "global_batch")
    if not {"data", "seed"} <= options.keys():
        return None
    cached = options.get("cache", "none") != "none"
    items = min(options["cached_images"], TOYBOX_ITEMS) if cached else TOYBOX_ITEMS
    return Trained(options["data"], options["seed"], done["steps"] * done["global_batch"], items)


def training_data(
    name: str | None,
    pipeline: str,
    side: int,
    num: int,
    most: int | None = None,
    seed: int = 0,
    allow_mixed: bool = False,
) -> TrainingData:
    """The images to search for near copies of what `pipeline` has generated.

    Args:
        name: "toybox", "toybox-v1", a folder, or None for the pipeline's training data.
        pipeline: its name or folder; "" if unknown.
        side: S of toybox images.
        num: number of generated images.
        most: maximum number of images to search; default: SEARCHED_PER_IMAGE per generated image, and all of a folder.
        seed: of the selection, and of the order of a folder's images.

    Raises UsageError if the pipeline's training data is unknown or must be given as a folder; also as `image_files`.
    """
    if name is not None and name not in WORLDS:
        return _folder(Path(name), most, seed, allow_mixed)
    trained = what_trained(pipeline)
    check_training_data(name, pipeline, trained)
    limit = SEARCHED_PER_IMAGE * num if most is None else most
    if trained is not None and trained.data in WORLDS and name in (None, trained.data):
        return _seen(pipeline, trained, side, limit, NEW_PER_IMAGE * num, seed)
    world = name or "toybox-v1"
    of = "recorded another data set" if trained is not None else "does not record which of them it was trained on"
    note = (
        f"Near copies are searched among {limit:,} images of {world}, the default; {pipeline or 'the pipeline'} {of}."
    )
    new = _items(world, side, DEFAULT_SEED + 1, NEW_PER_IMAGE * num)
    return TrainingData(_items(world, side, DEFAULT_SEED, limit), new, note)


def check_training_data(name: str | None, pipeline: str, trained: Trained | None) -> None:
    """Raise UsageError if neither `name` (see `training_data`) nor the pipeline's folder identifies the data."""
    if name is not None:
        return
    if trained is not None and trained.data not in WORLDS:
        raise UsageError(
            f"{pipeline} was trained on {trained.data}: to search for near copies, give it with --training-data FOLDER"
        )
    if trained is None and pipeline not in embedded() and not _made_by_t2i(pipeline):
        raise UsageError(
            f"the training data of {pipeline or 'the pipeline'} is unknown: to search for near copies, give "
            "--training-data FOLDER, or --training-data toybox-v1"
        )


def _made_by_t2i(pipeline: str) -> bool:
    """Whether a folder contains a pipeline made by t2i, which may have been trained on toybox."""
    path = newest_in_run(pipeline, "model_index.json") / "model_index.json"
    index = read_json(path) if pipeline and path.is_file() else {}
    name = index.get("_class_name")
    return index.get("_made_by") == "t2i" or (name in PIPELINES and PIPELINES[name].__name__ == name)


def _folder(folder: Path, most: int | None, seed: int, allow_mixed: bool) -> TrainingData:
    files = image_files(folder, allow_mixed)
    order = np.random.default_rng(seed).permutation(len(files))[:most]
    images = {files[i].relative_to(folder).as_posix(): files[i] for i in order}
    return TrainingData(
        images, None, f"Near copies are searched among {_of(len(order), len(files))} of --training-data."
    )


def _seen(pipeline: str, trained: Trained, side: int, limit: int, new: int, seed: int) -> TrainingData:
    """A random selection of the samples that a run has seen; after its first epoch it has seen every item."""
    source = WORLDS[trained.data]("train", side, trained.seed, trained.items)
    samples = NumberedSamples(source, lambda item, rng: item, trained.seed)
    seen = min(trained.samples, len(source))
    numbers = np.random.default_rng(seed).permutation(seen)[:limit]
    images = {f"sample {n}": partial(_image, samples, int(n)) for n in numbers}
    note = f"Near copies are searched among {_of(len(numbers), seen)} that {pipeline} was trained on."
    return TrainingData(images, _items(trained.data, side, trained.seed + 1, new), note)


def _items(world: str, side: int, seed: int, num: int) -> dict[str, Callable[[], np.ndarray]]:
    """The first items of a world of toybox with this seed, rendered lazily."""
    data = WORLDS[world]("train", side, seed, num)
    return {f"item {i} of seed {seed}": partial(_image, data, i) for i in range(num)}


def _image(source, i: int) -> np.ndarray:
    return source[i]["image"]


def _of(some: int, all_: int) -> str:
    return f"{some:,} of the {all_:,} images" if some < all_ else f"all {all_:,} images"
