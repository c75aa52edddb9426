"""The pictures that near copies are looked for in: those that the pipeline has seen, as far as its folder says so.

A checkpoint of `t2i train` does: its run's recipe.json names the data and the seed, its state the number of samples
behind it, and the order of samples is a function of the two (`t2i.data.sampling`).

Shapes: S side of the pictures
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from t2i.checks import UsageError
from t2i.data.sampling import NumberedSamples
from t2i.data.sources import TOYBOX_ITEMS
from t2i.data.toybox import Toybox
from t2i.eval.folders import image_files
from t2i.eval.image_sets import Source
from t2i.files import read_json
from t2i.folders import newest_in_run
from t2i.pipelines.loading.auto import PIPELINES, embedded

TRAINING, NEW = 10, 2  # for each picture drawn: toybox pictures that are searched for near copies, and new ones
WORLD = 0  # seed of the world that recipes train on by default


@dataclass(frozen=True)
class TrainingData:
    """
    Attributes:
        pictures: what is searched, by name, in random order.
        new: pictures of the same kind that were not trained on; None where there are none.
        note: which pictures are searched, as a sentence.
    """

    pictures: Mapping[str, Source]
    new: Mapping[str, Source] | None
    note: str


@dataclass(frozen=True)
class Trained:
    """What a checkpoint was trained on: the data, the seed, and how many samples it has seen of how many items.

    A run that keeps latents goes round the first `items` of toybox; another has all of them.
    """

    data: str
    seed: int
    samples: int
    items: int = TOYBOX_ITEMS


def what_trained(pipeline: str) -> Trained | None:
    """What a checkpoint's folder says; None for anything else, embedded systems and models of the Hub included."""
    if pipeline in embedded() or not Path(pipeline).is_dir():
        return None
    folder = newest_in_run(pipeline, "model_index.json").resolve()  # `latest` is a link
    recipe, progress = folder.parent / "recipe.json", folder / "state" / "progress.json"
    if not recipe.is_file() or not progress.is_file():
        return None
    asked, done = read_json(recipe), read_json(progress, "steps", "global_batch")
    if not {"data", "seed"} <= asked.keys():
        return None
    cached = asked.get("cache", "none") != "none"
    items = min(asked["cached_pictures"], TOYBOX_ITEMS) if cached else TOYBOX_ITEMS
    return Trained(asked["data"], asked["seed"], done["steps"] * done["global_batch"], items)


def training_data(
    asked: str | None,
    pipeline: str,
    side: int,
    drawn: int,
    most: int | None = None,
    seed: int = 0,
    allow_mixed: bool = False,
) -> TrainingData:
    """The pictures to search for near copies of what `pipeline` has drawn.

    Args:
        asked: "toybox", a folder, or None for what the pipeline was trained on.
        pipeline: its name or folder, which may be empty where nobody knows.
        side: S of toybox pictures.
        drawn: how many pictures were drawn.
        most: pictures that are searched, at most; by default TRAINING for each drawn one, and all of a folder.
        seed: which ones are taken, and the order of a folder's.

    Raises UsageError where nothing says what the pipeline was trained on, or where that must be given as a folder;
    and as `image_files` does.
    """
    if asked not in (None, "toybox"):
        return _folder(Path(asked), most, seed, allow_mixed)
    trained = what_trained(pipeline)
    check(asked, pipeline, trained)
    limit = TRAINING * drawn if most is None else most
    if trained is not None and trained.data == "toybox":
        return _seen(pipeline, trained, side, limit, NEW * drawn, seed)
    return _world(pipeline, side, limit, NEW * drawn)


def check(asked: str | None, pipeline: str, trained: Trained | None) -> None:
    """Raise UsageError for a pipeline of which nothing says that it was trained on toybox, unless toybox is asked."""
    if asked is not None:
        return
    if trained is not None and trained.data != "toybox":
        raise UsageError(
            f"{pipeline} was trained on {trained.data}: to look for near copies, give it with --training FOLDER"
        )
    if trained is None and pipeline not in embedded() and not _may_be_ours(pipeline):
        raise UsageError(
            f"nothing says what {pipeline or 'the pipeline'} was trained on: to look for near copies, give --training "
            "FOLDER, or --training toybox"
        )


def _may_be_ours(pipeline: str) -> bool:
    """Whether a folder holds a pipeline of t2i's own making, which may well have been trained on toybox."""
    index = newest_in_run(pipeline, "model_index.json") / "model_index.json"
    said = read_json(index) if pipeline and index.is_file() else {}
    name = said.get("_class_name")
    return said.get("_made_by") == "t2i" or (name in PIPELINES and PIPELINES[name].__name__ == name)


def _folder(folder: Path, most: int | None, seed: int, allow_mixed: bool) -> TrainingData:
    files = image_files(folder, allow_mixed)
    order = np.random.default_rng(seed).permutation(len(files))[:most]
    pictures = {files[i].relative_to(folder).as_posix(): files[i] for i in order}
    return TrainingData(
        pictures, None, f"Near copies are looked for among {_of(len(order), len(files))} of --training."
    )


def _seen(pipeline: str, trained: Trained, side: int, limit: int, new: int, seed: int) -> TrainingData:
    """Of the samples that a run has seen, as many as wanted; after its first round it has seen every item."""
    source = Toybox("train", side, trained.seed, trained.items)
    samples = NumberedSamples(source, _as_it_is, trained.seed)
    seen = min(trained.samples, len(source))
    numbers = np.random.default_rng(seed).permutation(seen)[:limit]
    pictures = {f"sample {n}": partial(_picture, samples, int(n)) for n in numbers}
    note = f"Near copies are looked for among {_of(len(numbers), seen)} that {pipeline} was trained on."
    return TrainingData(pictures, _items(side, trained.seed + 1, new), note)


def _world(pipeline: str, side: int, limit: int, new: int) -> TrainingData:
    note = (
        f"Near copies are looked for among {limit:,} pictures of the world that recipes train on by default; nothing "
        f"says which of its pictures {pipeline or 'the pipeline'} has seen."
    )
    return TrainingData(_items(side, WORLD, limit), _items(side, WORLD + 1, new), note)


def _items(side: int, seed: int, num: int) -> dict[str, Callable[[], np.ndarray]]:
    """The first items of a world of toybox, each drawn when it is asked for."""
    world = Toybox("train", side, seed, num)
    return {f"item {i} of world {seed}": partial(_picture, world, i) for i in range(num)}


def _picture(source: Toybox | NumberedSamples, i: int) -> np.ndarray:
    return source[i]["image"]


def _as_it_is(item: dict, rng: np.random.Generator) -> dict:
    return item


def _of(some: int, all_: int) -> str:
    return f"{some:,} of the {all_:,} pictures" if some < all_ else f"all {all_:,} pictures"
