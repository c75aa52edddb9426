"""What an evaluation opens once, however many sets of pictures it scores: pipeline, extractors, reader."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from t2i.checks import UsageError, nearest
from t2i.data.toybox.reader import Reader, load_reader
from t2i.devices import Dtype
from t2i.eval.ask import Ask
from t2i.eval.features import Extractor, Features, open_extractor
from t2i.eval.processes import usable_device
from t2i.eval.references import Reference
from t2i.folders import may_be_on_hub, newest_in_run
from t2i.pipelines.loading.auto import embedded, open_pipeline


class Tools:
    """The networks that `ask` names, each opened when it is first asked for, and the features of real pictures.

    Attributes:
        references, real: features by the name of their extractor, which `Subject` fills.
    """

    def __init__(self, ask: Ask):
        self.ask = ask
        self.references: dict[str, Features | Reference] = {}
        self.real: dict[str, Features] = {}
        self._extractors: dict[str, Extractor] = {}

    @cached_property
    def pipeline(self):
        """Raises UsageError for a folder of pictures, which cannot draw more."""
        if is_folder_of_pictures(self.ask.pipeline):
            raise UsageError(f"{self.ask.pipeline} is a folder of pictures, and this needs a pipeline to draw with")
        return open_to_draw(self.ask.pipeline, self.ask.device, self.ask.dtype)

    @cached_property
    def device(self) -> str:
        """That of the pipeline; for a folder of pictures what `--device` says."""
        found = is_folder_of_pictures(self.ask.pipeline)
        return usable_device(self.ask.device) if found else str(self.pipeline.device)

    def extractor(self, name: str) -> Extractor:
        """On `device`."""
        if name not in self._extractors:
            self._extractors[name] = open_extractor(name, self.device)
        return self._extractors[name]

    @cached_property
    def reader(self) -> Reader:
        """The network that reads toybox pictures."""
        return load_reader(self.ask.reader).to(self.device)


def open_to_draw(name: str, device: str, dtype: Dtype = "float32"):
    """`open_pipeline` on this process's own device, without a progress bar: the evaluation has one over all pictures.

    Raises FileNotFoundError for a mistyped folder, which the Hub is not asked for.
    """
    path = Path(name)
    if name not in embedded() and not path.exists() and not may_be_on_hub(name):
        there = [str(path.parent / p.name) for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
        near = nearest(name, [*embedded(), *there])
        hint = f"did you mean {near}? " if near else ""
        known = ", ".join(embedded())
        raise FileNotFoundError(
            f"there is no folder {name}: {hint}give a folder of pictures or of a pipeline, a model of the Hub as "
            f"OWNER/NAME, or one of {known}"
        )
    pipe = open_pipeline(name, usable_device(device), dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def is_folder_of_pictures(name: str) -> bool:
    """A folder that is no pipeline, and no run of one."""
    index = newest_in_run(name, "model_index.json") / "model_index.json"
    return name not in embedded() and Path(name).is_dir() and not index.is_file()
