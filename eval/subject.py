"""What an evaluation scores and what it compares with: pictures and their features, each made once.

Shapes: N pictures · S image side
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from t2i.cli_errors import UsageError
from t2i.data.sources import square
from t2i.data.toybox import Scene, Toybox
from t2i.data.toybox.reader import Reader
from t2i.eval.ask import OPTIONS, Ask
from t2i.eval.binding import load_reader
from t2i.eval.features import Extractor, Features, open_extractor
from t2i.eval.generation import generate_on_all, read_manifest
from t2i.eval.image_sets import extract, image_files, read_image
from t2i.eval.prompts import CATEGORIES, Prompt, entropy, open_prompts
from t2i.eval.references import Reference, load_reference
from t2i.pipelines.auto import embedded, open_pipeline

COPIES = 4  # reference pictures of each scene that a prompt describes
TRAINING, HELD_OUT = 10, 2  # for each picture drawn: toybox pictures that are searched for near copies, and new ones
TRAINED_SEED, HELD_OUT_SEED = 0, 1  # of the world that recipes train on by default, and of another


class Subject:
    """The pictures that are scored, drawn by a pipeline or found in a folder, and the real ones beside them."""

    def __init__(self, ask: Ask):
        self.ask, self.out = ask, Path(ask.out)
        self.found = is_folder_of_pictures(ask.pipeline)
        self._features: dict[str, Features] = {}
        self._references: dict[str, Features | Reference] = {}
        self._real: dict[str, Features] = {}
        self._extractors: dict[str, Extractor] = {}

    # --- what is scored ---------------------------------------------------------------------------------------------

    @cached_property
    def pipeline(self):
        """Raises UsageError for a folder of pictures, which cannot draw more."""
        if self.found:
            raise UsageError(f"{self.ask.pipeline} is a folder of pictures, and this needs a pipeline to draw with")
        pipe = open_pipeline(self.ask.pipeline, self.ask.device)
        pipe.set_progress_bar_config(disable=True)  # the evaluation has one over all pictures
        return pipe

    @cached_property
    def options(self) -> dict:
        return {name: getattr(self.ask, name) for name in OPTIONS if getattr(self.ask, name) is not None}

    @cached_property
    def prompts(self) -> list[Prompt]:
        """One for each picture. Raises ValueError for a folder that does not say what its pictures show."""
        if self.found:
            return _prompts_of_folder(Path(self.ask.pipeline), self.files)
        num = self.ask.num
        if self.ask.prompts == "toybox":
            num = max(1, num // len(CATEGORIES))
        return open_prompts(self.ask.prompts, num, self.ask.seed)

    @cached_property
    def manifest(self) -> dict:
        """Draws what is missing, on all processes of `accelerate launch`."""
        ask = self.ask
        return generate_on_all(
            self.pipeline, self.prompts, [ask.seed], self.out, ask.batch_size, name=ask.pipeline, **self.options
        )

    @cached_property
    def files(self) -> list[Path]:
        """The pictures, in the order of the prompts."""
        if self.found:
            folder = Path(self.ask.pipeline)
            if (folder / "manifest.json").is_file():  # beside its pictures there may be those of a report
                return sorted(folder / entry["file"] for entry in read_manifest(folder)["images"])
            return image_files(folder, self.ask.allow_mixed)
        return [self.out / entry["file"] for entry in self.manifest["images"]]

    @property
    def texts(self) -> list[str]:
        """What is said of each of `files`; nothing where nothing is known."""
        try:
            return [prompt.text for prompt in self.prompts]
        except UsageError:
            return [""] * len(self.files)

    def captions(self, features: Features) -> list[str]:
        """The prompt of each row of features."""
        prompts = {file: p.text for file, p in zip(self.files, self.prompts, strict=True)}
        return [prompts[self.folder / name] for name in features.names]

    @property
    def folder(self) -> Path:
        """The folder that the names of features are relative to."""
        drawn = not self.found or (Path(self.ask.pipeline) / "manifest.json").is_file()
        return self.files[0].parent if drawn else Path(self.ask.pipeline)

    def features(self, extractor: Extractor) -> Features:
        """Of all pictures, in the order of their file names; those that cannot be read have no row."""
        if extractor.name not in self._features:
            self._features[extractor.name] = self._extract(self.folder, extractor)
        return self._features[extractor.name]

    # --- what it is compared with -----------------------------------------------------------------------------------

    def reference(self, extractor: Extractor) -> Features | Reference:
        """Features or statistics of `--reference`."""
        if extractor.name not in self._references:
            name = self.ask.reference
            if name == "toybox":
                made = self._extract(self.real_pictures(COPIES, stream=0), extractor)
            elif name.endswith(".npz"):
                made = load_reference(name, extractor, allow_mismatch=self.ask.allow_mismatch)
            else:
                made = self._extract(Path(name), extractor)
            self._references[extractor.name] = made
        return self._references[extractor.name]

    def real(self, extractor: Extractor) -> Features | None:
        """As many other real pictures of the same scenes; None where they are not toybox's."""
        if self.ask.reference != "toybox":
            return None
        if extractor.name not in self._real:
            self._real[extractor.name] = self._extract(self.real_pictures(1, stream=1), extractor)
        return self._real[extractor.name]

    def real_pictures(self, copies: int, stream: int) -> np.ndarray:
        """Each prompt's scene `copies` times, in other sizes and places each time: uint8 (N · copies, S, S, 3).

        Raises UsageError for prompts that toybox cannot draw.
        """
        scenes = [prompt.scene for prompt in self.prompts]
        if None in scenes:
            raise UsageError("toybox cannot draw these prompts: give real pictures with --reference FOLDER")
        size = read_image(self.files[0]).shape[-1]
        again = [_drawn_anew(p, copy, stream) for copy in range(copies) for p in self.prompts]
        return np.stack([np.array(scene.render(size)) for scene in again])

    def training_pictures(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Pictures that may have been trained on, and new ones of the same kind: uint8 (N, S, S, 3).

        Of toybox: samples of two worlds of scenes. Of a folder: all of it, shuffled, and None.
        """
        size = read_image(self.files[0]).shape[-1]
        if self.ask.training == "toybox":
            n = len(self.files)
            return _toybox(size, TRAINED_SEED, TRAINING * n), _toybox(size, HELD_OUT_SEED, HELD_OUT * n)
        files = image_files(self.ask.training, self.ask.allow_mixed)
        order = np.random.default_rng(self.ask.seed).permutation(len(files))
        return np.stack([square(Image.open(files[i]), size) for i in order]), None

    def _extract(self, source: Path | np.ndarray, extractor: Extractor) -> Features:
        cache = self.out / ".features" if isinstance(source, Path) else None
        return extract(source, extractor, self.ask.batch_size, cache, allow_mixed=self.ask.allow_mixed)

    def open_extractor(self, name: str) -> Extractor:
        """On the device of the pipeline; opened once."""
        if name not in self._extractors:
            self._extractors[name] = open_extractor(name, self._device)
        return self._extractors[name]

    @cached_property
    def reader(self) -> Reader:
        """The network that reads toybox pictures."""
        return load_reader(self.ask.reader).to(self._device)

    @property
    def _device(self) -> str:
        return "cpu" if self.found else str(self.pipeline.device)


def is_folder_of_pictures(name: str) -> bool:
    """A folder that is no pipeline."""
    return name not in embedded() and Path(name).is_dir() and not (Path(name) / "model_index.json").is_file()


def _drawn_anew(prompt: Prompt, copy: int, stream: int) -> Scene:
    """The prompt's scene with other sizes, places and tints, by (key, copy, stream)."""
    seed = np.random.SeedSequence(entropy(copy, f"{prompt.key}, reference {stream}")).generate_state(1)[0]
    return replace(prompt.scene, jitter_seed=int(seed))


def _toybox(size: int, seed: int, num: int) -> np.ndarray:
    """uint8 (N, S, S, 3)"""
    world = Toybox("train", size, seed, num)
    return np.stack([world[i]["image"] for i in range(num)])


def _prompts_of_folder(folder: Path, files: Sequence[Path]) -> list[Prompt]:
    """From manifest.json (written with generated pictures) or metadata.jsonl (file_name, text)."""
    if (folder / "manifest.json").is_file():
        entries = read_manifest(folder)["images"]
        texts = {str(folder / entry["file"]): entry["prompt"] for entry in entries}
    elif (folder / "metadata.jsonl").is_file():
        rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines() if line.strip()]
        if odd := [row for row in rows if not {"file_name", "text"} <= row.keys()]:
            raise UsageError(f"{folder}/metadata.jsonl has a line without file_name and text: {odd[0]}; add them")
        texts = {str(folder / row["file_name"]): row["text"] for row in rows}
    else:
        raise UsageError(f"{folder} does not say what its pictures show: add metadata.jsonl with file_name and text")
    if missing := [path for path in files if str(path) not in texts]:
        raise UsageError(f"{folder} has no prompt for {missing[0].name}; add it to its metadata.jsonl")
    return [Prompt(texts[str(path)], "file", None, path.stem) for path in files]
