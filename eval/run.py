"""One evaluation: the images of a target, the real images to compare them with, and their features.

Evaluators run on the main process. Work that needs a network or many images is distributed over all processes by
`on_all` (see `Distributed`): an evaluator reads as if for a single process.

Shapes: S image side
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import cached_property
from pathlib import Path

from PIL import Image

import t2i
from t2i.checks import UsageError
from t2i.data.image_file import ImageError
from t2i.data.labelled import Splits
from t2i.data.splits import open_splits
from t2i.data.toybox_v1.classifier import Prediction, predict
from t2i.eval.config import EvalConfig
from t2i.eval.distributed import FAILURES, Distributed
from t2i.eval.evaluators import IMAGES, UNCONDITIONAL
from t2i.eval.features import Features
from t2i.eval.generation.images import describe, generate_on_all
from t2i.eval.generation.manifest import find_manifest
from t2i.eval.generation.prompt import Prompt
from t2i.eval.generation.prompts import SUITES_V1, open_prompts, prompts_of_files
from t2i.eval.generation.suites import SUITES
from t2i.eval.images.folders import check_outside, image_files, left_out
from t2i.eval.images.real import renders, split_images
from t2i.eval.images.references import Reference, load_reference
from t2i.eval.images.sets import Source, collect, extract_items, items_of, read_image, to_image, why_unreadable
from t2i.eval.images.training import (
    NEW_PER_IMAGE,
    SEARCHED_PER_IMAGE,
    TrainingData,
    check_training_data,
    training_data,
    what_trained,
)
from t2i.eval.model_cache import ModelCache, UnconditionalSampler
from t2i.models.base import GenerativeModel
from t2i.pipelines.sampling_options import SAMPLING_OPTIONS
from t2i.runs import open_training_data

BATCH_SIZE = 32  # default
COPIES = 4  # reference renders per prompt
GENERATED, REFERENCE, REAL = "generated", "reference", "real"  # image sets
TRAINING, NEW = "training", "new"  # the set searched for near copies, and one not trained on
# Number of categories of each suite, over which --num-images is spread.
CATEGORY_COUNTS = {name: len(categories) for name, categories in (SUITES_V1 | SUITES).items()}


class EvalRun(Distributed):
    """The data of one evaluation; everything is computed on first access and kept.

    Args:
        models: those of another run with the same target, prompts and reference, to share them.

    Attributes:
        kind: of the target: PIPELINE, IMAGES or UNCONDITIONAL (see `t2i.eval.evaluators`).

    Raises as `image_files` does for a folder that is not a set of images, and UsageError for --out inside one.
    """

    def __init__(self, config: EvalConfig, models: ModelCache | None = None):
        self.config, self.out, self.target = config, Path(config.out), config.targets[0]
        self.models = ModelCache(config) if models is None else models
        self.kind = self.models.kind
        self._features: dict[tuple[str, str, int | None], Features] = {}
        self._manifests: dict[str, dict | Exception] = {}
        for folder in (self.target if self.kind == IMAGES else "", config.reference, config.training_data):
            if folder and Path(folder).is_dir():
                check_outside(self.out, Path(folder))
        if self.kind == IMAGES:  # before any work
            self.files = image_files(self.target, config.allow_mixed)

    # --- the evaluated images ---------------------------------------------------------------------------------------

    @property
    def pipeline(self):
        """Raises UsageError for a folder of images, which cannot generate more."""
        return self.models.pipeline

    @property
    def model(self) -> GenerativeModel:
        """The unconditional model, whether or not it can sample."""
        return self.models.unconditional(self.target)

    @property
    def num_images(self) -> int:
        """`--num-images`; default: 500, for an unconditional model 1000."""
        return self.config.num_images or (1000 if self.kind == UNCONDITIONAL else 500)

    @property
    def batch_size(self) -> int:
        """`--batch-size`; default: BATCH_SIZE."""
        return self.config.batch_size or BATCH_SIZE

    def fraction(self, share: float) -> int:
        """A fraction of `num_images`, at least 2."""
        return max(2, round(share * self.num_images))

    @cached_property
    def prompts(self) -> list[Prompt]:
        """One prompt per image. Raises UsageError for a folder without captions."""
        if self.kind == IMAGES:
            return prompts_of_files(Path(self.target), self.files)
        if self.kind == UNCONDITIONAL:
            return self._class_prompts()
        num = max(1, self.num_images // CATEGORY_COUNTS.get(self.config.prompts, 1))
        return open_prompts(self.config.prompts, num, self.config.seed)

    def _class_prompts(self) -> list[Prompt]:
        """The classes of the test images in turn, for a class-conditional model; "" for others."""
        texts = [""]
        if self.model.conditional:
            test = self.splits.test
            texts = [str(test[i].get("label", 0)) for i in range(min(len(test), self.num_images))]
        return [Prompt(texts[i % len(texts)], "sample", None, f"sample/{i:05}") for i in range(self.num_images)]

    def generate(self, name: str, prompts: Sequence[Prompt]) -> list[Path]:
        """Generate images of other prompts than the target's, in the folder `name` of the output folder.

        Raises UsageError for an unconditional model and for a folder of images.
        """
        if self.kind == UNCONDITIONAL:
            raise UsageError(f"{self.target} is an unconditional model; this metric needs a pipeline with prompts")
        return self._generated(name, prompts)

    def _generated(self, name: str, prompts: Sequence[Prompt] | None = None) -> list[Path]:
        if name not in self._manifests:
            try:
                self.on_all(_generate, name, prompts)
            except FAILURES as error:
                self._manifests[name] = error
        if isinstance(manifest := self._manifests[name], Exception):
            raise manifest
        return [self._folder(name) / entry["file"] for entry in manifest["images"]]

    def _folder(self, name: str) -> Path:
        return self.out if name == GENERATED else self.out / name

    @property
    def generation_failed(self) -> bool:
        """Whether the target's images could not be generated."""
        return isinstance(self._manifests.get(GENERATED), Exception)

    @property
    def has_images(self) -> bool:
        """Whether the target is a folder of images, or its images have been generated."""
        return self.kind == IMAGES or isinstance(self._manifests.get(GENERATED), dict)

    @cached_property
    def header(self) -> dict:
        """What determines the images, as stated in their manifest."""
        if self.kind == IMAGES:
            return {"pipeline": self.target, "versions": {"t2i": t2i.__version__}}
        if isinstance(manifest := self._manifests.get(GENERATED), dict):
            return manifest["header"]
        pipeline = UnconditionalSampler(self.model) if self.kind == UNCONDITIONAL else self.pipeline
        return describe(pipeline, self.target, self.config.sampling_options())

    @cached_property
    def files(self) -> list[Path]:
        """The target's images, in the order of the prompts; missing ones are generated."""
        return self._generated(GENERATED)

    @property
    def named(self) -> dict[str, Path]:
        """`files` by relative path, sorted by it."""
        folder = Path(self.target) if self.kind == IMAGES else self.out
        return {file.relative_to(folder).as_posix(): file for file in sorted(self.files, key=Path.as_posix)}

    def load(self, file: Path) -> Image.Image:
        """Raises ImageError for a damaged file."""
        return to_image(read_image(file))

    def readable(self) -> Iterator[tuple[Path, Image.Image]]:
        """All readable images of `files`."""
        for file in self.files:
            with suppress(ImageError):
                yield file, self.load(file)

    @cached_property
    def side(self) -> int:
        """S: the shorter side of the first readable image. Raises ValueError if there is none."""
        for _, image in self.readable():
            return min(image.size)
        raise ValueError(f"none of the {len(self.files)} images can be read; copy them again")

    @property
    def texts(self) -> list[str]:
        """The prompt of each of `files`; "" if unknown."""
        try:
            return [prompt.text for prompt in self.prompts]
        except UsageError:
            return [""] * len(self.files)

    def captions(self, features: Features) -> list[str]:
        """The prompt of each row of features."""
        prompts, named = {file: p.text for file, p in zip(self.files, self.prompts, strict=True)}, self.named
        return [prompts[named[name]] for name in features.names]

    def predictions(self, files: Sequence[Path]) -> list[Prediction | str]:
        """The toybox classifier's prediction for each image; for an unreadable one, "name: why"."""
        return self.on_all(_predict, list(files))

    def predict_readable(self, files: Sequence[Path], classify: Callable[[list[Image.Image]], list]) -> list:
        """`classify` of the readable images, on this process; for an unreadable one, "name: why"."""
        images: list[Image.Image] = []
        errors: list[str] = []  # one per file, "" for a readable one
        for file in files:
            try:
                images.append(self.load(file))
                errors.append("")
            except ImageError as error:
                name = file.relative_to(self.target if self.kind == IMAGES else self.out).as_posix()
                errors.append(f"{name}: {why_unreadable(error, file, name)}")
        predictions = iter(classify(images))
        return [error or next(predictions) for error in errors]

    @property
    def world(self) -> str:
        """The world of toybox that the prompts belong to: "toybox" or "toybox-v1"."""
        return "toybox" if self.config.prompts in SUITES else "toybox-v1"

    @property
    def notes(self) -> list[str]:
        """Notes on unread images of the folders, and on options without effect for a folder of images."""
        folders = [name for name in (self.target if self.kind == IMAGES else "", self.config.reference or "") if name]
        notes = [note for name in folders if Path(name).is_dir() and (note := left_out(name, self.config.allow_mixed))]
        defaults = {field.name: field.default for field in fields(EvalConfig)}
        names = ("prompts", "num_images", "dtype", *SAMPLING_OPTIONS)
        given = [f"--{n.replace('_', '-')}" for n in names if getattr(self.config, n) != defaults[n]]
        if given and self.kind == IMAGES:
            notes.append(f"{', '.join(given)} had no effect: all of the folder's images were scored as they are.")
        return notes

    # --- real images ------------------------------------------------------------------------------------------------

    @property
    def from_toybox(self) -> bool:
        """Whether the reference is toybox renders of the prompts' scenes."""
        return self.kind != UNCONDITIONAL and self.config.reference in (None, "renders")

    def data_of(self, folder: str) -> Splits:
        """Training and test data for the unconditional model in `folder`: `--reference`, or its run's data.

        Raises as `open_training_data` and `open_splits` do.
        """
        if (name := self.config.reference) is None:
            return open_training_data(folder, "name its data with --reference, as for `t2i train`")
        return open_splits(name, self.models.unconditional(folder).shape[1])

    @cached_property
    def splits(self) -> Splits:
        """`data_of` the target."""
        return self.data_of(self.target)

    @cached_property
    def training(self) -> TrainingData:
        """The images to search for near copies; raises as `training_data` does."""
        config = self.config
        if self.kind == UNCONDITIONAL and config.training_data is None:
            num = config.num_training_images or SEARCHED_PER_IMAGE * len(self.files)
            images = split_images(self.model, "training", self.splits.train, num)
            new = split_images(self.model, "test", self.splits.test, NEW_PER_IMAGE * len(self.files))
            return TrainingData(images, new, f"Near copies are searched among {len(images):,} training images.")
        options = {"most": config.num_training_images, "seed": config.seed, "allow_mixed": config.allow_mixed}
        return training_data(config.training_data, self._pipeline_name, self.side, len(self.files), **options)

    def check_training(self) -> None:
        """Raise before generating what `training` would raise afterwards."""
        if self.kind != UNCONDITIONAL:
            check_training_data(self.config.training_data, self._pipeline_name, what_trained(self._pipeline_name))

    @property
    def _pipeline_name(self) -> str:
        """Name of the pipeline that generated the images; "" if unknown."""
        if self.kind != IMAGES:
            return self.target
        return (find_manifest(Path(self.target)) or {}).get("header", {}).get("pipeline", "")

    def images(self, name: str) -> Path | Mapping[str, Source]:
        """An image set: GENERATED, REFERENCE (a folder as its path), REAL, TRAINING or NEW."""
        if name == GENERATED:
            return self.named
        if name in (TRAINING, NEW):
            return self.training.images if name == TRAINING else self.training.new
        if self.kind == UNCONDITIONAL:
            part, source = ("test", self.splits.test) if name == REFERENCE else ("training", self.splits.train)
            return split_images(self.model, part, source, self.num_images)
        if self.from_toybox:
            copies, stream = (COPIES, 0) if name == REFERENCE else (1, 1)
            return renders(self.prompts, copies, stream, self.side)
        return Path(self.config.reference)

    def check_reference(self, least: int) -> None:
        """Raise UsageError for fewer than `least` images, and if the reference cannot be compared with.

        That is the case if it is toybox (the default) and the prompts have no scenes; a damaged statistics file raises
        as `load_reference` does.
        """
        if self.from_toybox and (self.kind == IMAGES or any(prompt.scene is None for prompt in self.prompts)):
            images = f"{self.target} is a folder of images"
            cause = images if self.kind == IMAGES else f"{self.config.prompts} has other prompts than toybox's"
            raise UsageError(
                f"{cause}, so there are no toybox scenes to compare with: give real images with --reference FOLDER, or "
                "a .npz of statistics"
            )
        num = len(self.files if self.kind == IMAGES else self.prompts)
        if num < least:
            raise UsageError(
                f"{num} image{'s are' if num > 1 else ' is'} too few to compare sets: give at least {least}"
            )
        if (self.config.reference or "").endswith(".npz"):
            self.reference(self.config.extractor)

    def features(self, name: str, extractor: str, side: int | None = None) -> Features:
        """Features of an image set, computed by all processes together; unreadable images have no row.

        Args:
            side: first centre-crop to a square of this side; an image of that size keeps its features.
        """
        key = (name, extractor, side)
        if key not in self._features:
            self.images(name)  # generates missing images before the other processes take part
            self._features[key] = collect(self.on_all(_extract, *key), self.models.extractor(extractor))
        return self._features[key]

    def reference(self, extractor: str) -> Features | Reference:
        """Features or statistics of `--reference`."""
        return self._shared(REFERENCE, extractor)

    def real(self, extractor: str) -> Features | None:
        """Features of as many other real images, whose score is the ceiling; None unless the reference is toybox
        renders or an unconditional model's data."""
        return self._shared(REAL, extractor) if self.from_toybox or self.kind == UNCONDITIONAL else None

    def _shared(self, name: str, extractor: str) -> Features | Reference:
        known, file = self.models.references, self.config.reference or ""
        if (name, extractor) not in known:
            if file.endswith(".npz"):
                model, allow = self.models.extractor(extractor), self.config.allow_mismatch
                known[name, extractor] = load_reference(file, model, allow_mismatch=allow)
            else:
                known[name, extractor] = self.features(name, extractor)
        return known[name, extractor]


# --- work of all processes ------------------------------------------------------------------------------------------


def _generate(run: EvalRun, rows: slice, name: str, prompts: Sequence[Prompt] | None) -> list:
    config, prompts = run.config, run.prompts if prompts is None else prompts
    options = {"name": run.target, **config.sampling_options()}
    folder = run._folder(name)
    run._manifests[name] = generate_on_all(run.pipeline, prompts, [config.seed], folder, run.batch_size, **options)
    return []


def _extract(run: EvalRun, rows: slice, name: str, extractor: str, side: int | None) -> list:
    images = run.images(name)
    keep = name == GENERATED or isinstance(images, Path)  # whether to cache; renders are not created twice
    items = items_of(images, run.config.allow_mixed)[rows]
    cache, first = run.out / ".features" if keep else None, rows.start == 0
    return extract_items(items, run.models.extractor(extractor), run.batch_size, cache, progress=first, side=side)


def _predict(run: EvalRun, rows: slice, files: Sequence[Path]) -> list[Prediction | str]:
    return run.predict_readable(files[rows], lambda images: predict(run.models.classifier, images, run.batch_size))
