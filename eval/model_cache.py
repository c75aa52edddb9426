"""The models that an evaluation uses, each loaded once: pipeline, feature extractors, toybox classifier."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import torch

from t2i.checks import UsageError, nearest
from t2i.data.toybox.classifier import FactClassifier
from t2i.data.toybox.classifier import load_classifier as load_fact_classifier
from t2i.data.toybox_v1.classifier import ToyboxClassifier, load_classifier
from t2i.devices import PipelineDtype
from t2i.eval.config import EvalConfig
from t2i.eval.distributed import usable_device
from t2i.eval.evaluators import IMAGES, PIPELINE, UNCONDITIONAL
from t2i.eval.features import Extractor, Features, open_extractor
from t2i.eval.images.references import Reference
from t2i.files import read_json
from t2i.folders import may_be_on_hub, newest_in_run
from t2i.models import load_pretrained
from t2i.models.base import GenerativeModel
from t2i.pipelines.loading.auto import embedded, open_pipeline
from t2i.runs import BEST


class ModelCache:
    """The models of an evaluation on this process's device, and the features of real images.

    Attributes:
        references: features or statistics by (image set, extractor), shared by the runs of a sweep.
    """

    def __init__(self, config: EvalConfig):
        self.config, self.target, self.kind = config, config.targets[0], kind_of(config.targets[0])
        self.references: dict[tuple[str, str], Features | Reference] = {}
        self._extractors: dict[str, Extractor] = {}
        self._unconditional: dict[str, GenerativeModel] = {}

    @cached_property
    def device(self) -> str:
        """The pipeline's device; for other targets the one given by `--device`."""
        return str(self.pipeline.device) if self.kind == PIPELINE else usable_device(self.config.device)

    @cached_property
    def pipeline(self):
        """Raises UsageError for a folder of images, which cannot generate more."""
        if self.kind == IMAGES:
            raise UsageError(f"{self.target} is a folder of images, and this needs a pipeline to generate with")
        if self.kind == UNCONDITIONAL:
            if not (model := self.unconditional(self.target)).samples:
                raise UsageError(f"{type(model).__name__} models cannot sample: there are no images to evaluate")
            return UnconditionalSampler(model)
        return open_for_eval(self.target, self.config.device, self.config.dtype)

    def unconditional(self, folder: str) -> GenerativeModel:
        """The unconditional model in `folder`, or the best one of a run."""
        if folder not in self._unconditional:
            self._unconditional[folder] = load_pretrained(folder).to(self.device)
        return self._unconditional[folder]

    def extractor(self, name: str) -> Extractor:
        """The extractor called `name`; raises as `open_extractor` does."""
        if name not in self._extractors:
            self._extractors[name] = open_extractor(name, self.device)
        return self._extractors[name]

    @cached_property
    def classifier(self) -> ToyboxClassifier:
        """The classifier of toybox-v1."""
        return load_classifier(self.config.classifier).to(self.device).eval()

    @cached_property
    def fact_classifier(self) -> FactClassifier:
        """The classifier of toybox."""
        return load_fact_classifier(self.config.classifier).to(self.device).eval()


class UnconditionalSampler:
    """An unconditional model, called as a pipeline; prompts of a class-conditional one are class numbers."""

    def __init__(self, model: GenerativeModel):
        self.model, self.components, self.device, self.dtype = model, {"model": model}, model.device, model.dtype

    def __call__(
        self, prompt: Sequence[str], generator: Sequence[torch.Generator], output_type: str = "np"
    ) -> SimpleNamespace:
        """`images`: float32 (n, S, S, C) in [0, 1], image i sampled with generator i."""
        y = torch.tensor([int(text) for text in prompt], device=self.device) if self.model.conditional else None
        with torch.no_grad():
            images = self.model.sample(len(prompt), y, generator)  # (n, C, S, S) in [-1, 1]
        return SimpleNamespace(images=((images.float().cpu() + 1) / 2).permute(0, 2, 3, 1).numpy())


def kind_of(target: str) -> str:
    """The kind of target that a name denotes: PIPELINE, IMAGES or UNCONDITIONAL."""
    folder = Path(target)
    if target in embedded() or not folder.is_dir() or _file(folder, "model_index.json").is_file():
        return PIPELINE
    for config in (_file(folder, "config.json"), folder / BEST / "config.json"):
        if config.is_file() and "_class_name" in read_json(config):
            return UNCONDITIONAL
    return IMAGES


def _file(folder: Path, name: str) -> Path:
    return newest_in_run(folder, name) / name


def open_for_eval(name: str, device: str, dtype: PipelineDtype = "float32"):
    """`open_pipeline` on this process's device, without a progress bar, as the evaluation shows one for all images.

    Raises FileNotFoundError for a mistyped folder, instead of requesting it from the Hub.
    """
    path = Path(name)
    if name not in embedded() and not path.exists() and not may_be_on_hub(name):
        there = [str(path.parent / p.name) for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
        near = nearest(name, [*embedded(), *there])
        hint = f"did you mean {near}? " if near else ""
        raise FileNotFoundError(
            f"there is no folder {name}: {hint}give a folder of images, a pipeline, a run, a model of the Hub as "
            f"OWNER/NAME, or one of {', '.join(embedded())}"
        )
    pipe = open_pipeline(name, usable_device(device), dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe
