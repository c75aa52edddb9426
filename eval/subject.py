"""What an evaluation scores and what it compares with: pictures and their features, each made once.

Shapes: N pictures · S image side
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from PIL import Image

import t2i
from t2i.checks import UsageError
from t2i.data.folder import captions_of
from t2i.data.image_file import ImageError
from t2i.data.toybox import Scene
from t2i.eval import bias
from t2i.eval.ask import OPTIONS, Ask
from t2i.eval.features import Extractor, Features
from t2i.eval.folders import check_outside, image_files, left_out
from t2i.eval.generation import describe, generate_on_all
from t2i.eval.image_sets import Source, extract, read_image, to_picture, why_unreadable
from t2i.eval.manifest import find_manifest
from t2i.eval.processes import FAILURES
from t2i.eval.prompts import CATEGORIES, Prompt, entropy, open_prompts
from t2i.eval.references import Reference, load_reference
from t2i.eval.tools import Tools, is_folder_of_pictures
from t2i.eval.training_data import TrainingData, check, training_data, what_trained

COPIES = 4  # reference pictures of each scene that a prompt describes
PAIRS, BARE = 0.05, 0.25  # of --num: counterfactual pairs of each swap, and bare prompts
PICTURES, LECTURE, BIAS = "pictures", "lecture", "bias"  # what may be drawn; the latter two in folders of their own


class Subject:
    """The pictures that are scored, drawn by a pipeline or found in a folder, and the real ones beside them.

    Args:
        like: another subject with the same pipeline, prompts and reference, whose networks and features are shared.

    Raises as `image_files` does for a folder that is no set of pictures, and UsageError for --out inside of one.
    """

    def __init__(self, ask: Ask, like: Subject | None = None):
        self.ask, self.out = ask, Path(ask.out)
        self.found = is_folder_of_pictures(ask.pipeline)
        self.tools = Tools(ask) if like is None else like.tools
        self._features: dict[tuple[str, int | None], Features] = {}
        self._drawn: dict[str, dict | Exception] = {}
        for folder in (ask.pipeline if self.found else "", ask.reference, ask.training or ""):
            if folder and Path(folder).is_dir():
                check_outside(self.out, Path(folder))
        if self.found:
            self.files  # noqa: B018 - raises

    # --- what is scored ---------------------------------------------------------------------------------------------

    @property
    def pipeline(self):
        """Raises UsageError for a folder of pictures, which cannot draw more."""
        return self.tools.pipeline

    @cached_property
    def options(self) -> dict:
        return {name: getattr(self.ask, name) for name in OPTIONS if getattr(self.ask, name) is not None}

    @property
    def unused(self) -> list[str]:
        """Flags that were given and have no meaning for a folder of pictures."""
        kind = {field.name: field.default for field in fields(Ask)}
        names = [name for name in ("prompts", "num", "dtype", *OPTIONS) if getattr(self.ask, name) != kind[name]]
        return [f"--{name.replace('_', '-')}" for name in names] if self.found else []

    @property
    def left_out(self) -> list[str]:
        """Which images of the folders are not read, a sentence for each folder that has some."""
        folders = [name for name in (self.ask.pipeline if self.found else "", self.ask.reference) if name]
        return [said for name in folders if Path(name).is_dir() and (said := left_out(name, self.ask.allow_mixed))]

    @cached_property
    def prompts(self) -> list[Prompt]:
        """One for each picture. Raises ValueError for a folder that does not say what its pictures show."""
        if self.found:
            return _prompts_of_folder(Path(self.ask.pipeline), self.files)
        num = self.ask.num
        if self.ask.prompts == "toybox":
            num = max(1, num // len(CATEGORIES))
        return open_prompts(self.ask.prompts, num, self.ask.seed)

    def prompts_of(self, what: str) -> list[Prompt]:
        """Those of PICTURES, LECTURE or BIAS."""
        if what == PICTURES:
            return self.prompts
        if what == LECTURE:
            return open_prompts("lecture", seed=self.ask.seed)
        return bias.pair_prompts(self.some(PAIRS), self.ask.seed) + bias.bare_prompts(self.some(BARE))

    def drawn(self, what: str) -> dict:
        """The manifest of PICTURES, LECTURE or BIAS, which are drawn where they are missing.

        All processes of `accelerate launch` must call this once, and draw together. Afterwards each has the manifest,
        or the error, which is raised again.
        """
        if what not in self._drawn:
            try:
                self._drawn[what] = self._draw(what)
            except FAILURES as error:
                self._drawn[what] = error
        if isinstance(made := self._drawn[what], Exception):
            raise made
        return made

    def _draw(self, what: str) -> dict:
        ask, out = self.ask, self.out if what == PICTURES else self.out / what
        prompts, how = self.prompts_of(what), {"name": ask.pipeline, **self.options}
        return generate_on_all(self.pipeline, prompts, [ask.seed], out, ask.batch_size, **how)

    def images(self, what: str) -> list[Image.Image]:
        """The pictures of LECTURE or BIAS, in the order of their prompts."""
        return [to_picture(read_image(self.out / what / entry["file"])) for entry in self.drawn(what)["images"]]

    @cached_property
    def header(self) -> dict:
        """What the pictures follow from: as their manifest says it, or as it would where none were drawn."""
        if self.found:
            return {"pipeline": self.ask.pipeline, "versions": {"t2i": t2i.__version__}}
        if PICTURES in self._drawn:
            return self.drawn(PICTURES)["header"]
        return describe(self.pipeline, self.ask.pipeline, self.options)

    @cached_property
    def files(self) -> list[Path]:
        """The pictures, in the order of the prompts."""
        if self.found:
            return image_files(self.ask.pipeline, self.ask.allow_mixed)
        return [self.out / entry["file"] for entry in self.drawn(PICTURES)["images"]]

    @property
    def named(self) -> dict[str, Path]:
        """`files` by their paths in their folder, in the order of these."""
        folder = Path(self.ask.pipeline) if self.found else self.out
        return {file.relative_to(folder).as_posix(): file for file in sorted(self.files, key=Path.as_posix)}

    def pictures(self) -> Iterator[tuple[Path, Image.Image | str]]:
        """Each of `files` with its picture, or "name: why" where it cannot be read."""
        names = {file: name for name, file in self.named.items()}
        for file in self.files:
            try:
                yield file, to_picture(read_image(file))
            except ImageError as error:
                yield file, f"{names[file]}: {why_unreadable(error, file, names[file])}"

    @cached_property
    def side(self) -> int:
        """S: the shorter side of the first picture that can be read. Raises ValueError where there is none."""
        for _, picture in self.pictures():
            if not isinstance(picture, str):
                return min(picture.size)
        raise ValueError(f"none of the {len(self.files)} pictures can be read; make them again")

    @property
    def texts(self) -> list[str]:
        """What is said of each of `files`; nothing where nothing is known."""
        try:
            return [prompt.text for prompt in self.prompts]
        except UsageError:
            return [""] * len(self.files)

    def captions(self, features: Features) -> list[str]:
        """The prompt of each row of features."""
        prompts, named = {file: p.text for file, p in zip(self.files, self.prompts, strict=True)}, self.named
        return [prompts[named[name]] for name in features.names]

    def features(self, extractor: Extractor, side: int | None = None) -> Features:
        """Of all pictures, in the order of their names; those that cannot be read have no row. `side`: see `extract`.

        A picture that `side` does not change has the features that it has without.
        """
        if (key := (extractor.name, side)) not in self._features:
            self._features[key] = self.extract(self.named, extractor, side, keep=True)
        return self._features[key]

    # --- what it is compared with -----------------------------------------------------------------------------------

    def reference(self, extractor: Extractor) -> Features | Reference:
        """Features or statistics of `--reference`."""
        found = self.tools.references
        if extractor.name not in found:
            name = self.ask.reference
            if name == "toybox":
                made = self.extract(self.real_pictures(COPIES, stream=0), extractor)
            elif name.endswith(".npz"):
                made = load_reference(name, extractor, allow_mismatch=self.ask.allow_mismatch)
            else:
                made = self.extract(Path(name), extractor, keep=True)
            found[extractor.name] = made
        return found[extractor.name]

    def real(self, extractor: Extractor) -> Features | None:
        """As many other real pictures of the same scenes; None where they are not toybox's."""
        found = self.tools.real
        if self.ask.reference != "toybox":
            return None
        if extractor.name not in found:
            found[extractor.name] = self.extract(self.real_pictures(1, stream=1), extractor)
        return found[extractor.name]

    def real_pictures(self, copies: int, stream: int) -> dict[str, Source]:
        """Each prompt's scene `copies` times, in other sizes and places each time.

        Raises UsageError as `check_reference` does.
        """
        self.check_reference()
        again = [(p, copy) for copy in range(copies) for p in self.prompts]
        return {f"{p.key}, {copy}": partial(_rendered, p, copy, stream, self.side) for p, copy in again}

    def check_reference(self) -> None:
        """Raise UsageError where toybox, which `--reference` is by default, has no scenes to compare with."""
        if self.ask.reference == "toybox" and (self.found or any(prompt.scene is None for prompt in self.prompts)):
            shown = f"{self.ask.pipeline} does not say what its pictures show as" if self.found else ""
            shown = shown or f"the prompts of {self.ask.prompts} are no"
            raise UsageError(
                f"{shown} scenes of toybox, the default of --reference: give real pictures to compare with by "
                "--reference FOLDER, or a .npz of statistics"
            )

    @cached_property
    def training(self) -> TrainingData:
        """What near copies are looked for in; raises as `training_data` does."""
        ask, name = self.ask, self._drawn_by
        how = {"most": ask.training_num, "seed": ask.seed, "allow_mixed": ask.allow_mixed}
        return training_data(ask.training, name, self.side, len(self.files), **how)

    def check_training(self) -> None:
        """Raise at once what `training` would raise when the pictures are there."""
        check(self.ask.training, self._drawn_by, what_trained(self._drawn_by))

    @property
    def _drawn_by(self) -> str:
        """Name of the pipeline, empty where nothing tells it."""
        if not self.found:
            return self.ask.pipeline
        return (find_manifest(Path(self.ask.pipeline)) or {}).get("header", {}).get("pipeline", "")

    def extract(
        self, source: Path | Mapping[str, Source], extractor: Extractor, side: int | None = None, keep: bool = False
    ) -> Features:
        """Features of other pictures; `keep` them in the folder's cache."""
        cache, mixed = self.out / ".features" if keep else None, self.ask.allow_mixed
        return extract(source, extractor, self.ask.batch_size, cache, allow_mixed=mixed, side=side)

    def some(self, share: float) -> int:
        return max(2, round(share * self.ask.num))


def _drawn_anew(prompt: Prompt, copy: int, stream: int) -> Scene:
    """The prompt's scene with other sizes, places and tints, by (key, copy, stream)."""
    seed = np.random.SeedSequence(entropy(copy, f"{prompt.key}, reference {stream}")).generate_state(1)[0]
    return replace(prompt.scene, jitter_seed=int(seed))


def _rendered(prompt: Prompt, copy: int, stream: int, side: int) -> np.ndarray:
    """uint8 (S, S, 3)"""
    return np.array(_drawn_anew(prompt, copy, stream).render(side))


def _prompts_of_folder(folder: Path, files: Sequence[Path]) -> list[Prompt]:
    """From manifest.json (written with generated pictures), or the captions of a folder (see `t2i.data.folder`)."""
    if (manifest := find_manifest(folder)) is not None:
        texts = {entry["file"]: entry["prompt"] for entry in manifest["images"]}
    else:
        texts = captions_of(folder)
    if not texts:
        raise UsageError(f"{folder} does not say what its pictures show: add metadata.jsonl with file_name and text")
    names = [path.relative_to(folder).as_posix() for path in files]
    if missing := [name for name in names if name not in texts]:
        raise UsageError(f"{folder} has no prompt for {missing[0]}; add it to its metadata.jsonl")
    return [Prompt(texts[name], "file", None, path.stem) for name, path in zip(names, files, strict=True)]
