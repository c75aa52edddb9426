"""Loading the components of a pipeline's folder: everything missing, damaged or mismatched is an error."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2i.configs import check_config
from t2i.files import read_json
from t2i.notes import with_article
from t2i.text.pretrained import check_tokenizer, load_tokenizer
from t2i.weights import UNUSABLE, load_model, quiet, short

INDEX = "model_index.json"
WEIGHTS = ("*.safetensors", "*.bin", "*.pt")


def read_index(folder: Path) -> dict[str, Any]:
    """model_index.json. Raises ValueError, naming the file, for one that names no pipeline class or no components."""
    path = folder / INDEX
    index = read_json(path, "_class_name")
    if not isinstance(index["_class_name"], str):
        raise ValueError(f"{path} has a _class_name that is no string but {index['_class_name']!r}: it is damaged")
    return index


def load_components(
    cls: type[DiffusionPipeline], folder: Path, given: Collection[str], dtype: torch.dtype | dict[str, torch.dtype]
) -> dict[str, Any]:
    """The models, tokenizers and schedulers of a pipeline of class `cls`, each from its own folder in `folder`.

    Where there are only half-precision weights by diffusers' naming (`*.fp16.safetensors`), they are used. Components
    of other kinds, such as safety checkers, are left to diffusers.

    Args:
        given: components that the caller passes, and that need not be in the folder.
        dtype: of the models' weights in memory; or by component, as in diffusers, "default" for those not named.

    Raises FileNotFoundError or ValueError, naming the file, for what is missing, damaged or mismatched.
    """
    components: dict[str, Any] = {}
    index, (expected, _) = read_index(folder), cls._get_signature_keys(cls)
    own_name = index["_class_name"] == cls.__name__ or index.get("_made_by") == "t2i"
    strict = own_name and cls.__module__.startswith("t2i.")  # public checkpoints may hold unused entries
    for name in sorted(set(expected) - set(given)):
        entry = index.get(name)
        if entry in (None, [None, None]):
            if name in cls._optional_components:
                continue
            raise ValueError(f"{folder / INDEX} names no {name}, which a {cls.__name__} needs: copy or train it again")
        if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(part, str) for part in entry):
            raise ValueError(f"{folder / INDEX} names no class for {name!r} but {entry!r}: it is damaged")
        kind = _class_of(*entry, folder / INDEX)
        if kind is None:
            continue
        if not (folder / name).is_dir():
            raise FileNotFoundError(f"{folder} has no folder {name}/, which its {INDEX} names: copy or train it again")
        component_dtype = dtype.get(name, dtype.get("default", torch.float32)) if isinstance(dtype, dict) else dtype
        components[name] = _load(kind, folder / name, component_dtype, strict)
    if "tokenizer" in components and "text_encoder" in components:
        check_tokenizer(components["tokenizer"], components["text_encoder"], folder / "tokenizer", strict)
    return components


def assemble(cls: type[DiffusionPipeline], folder: Path, options: dict[str, Any]) -> DiffusionPipeline:
    """`cls.from_pretrained(folder, **options)`, with the components that `load_components` has loaded.

    Raises ValueError, naming the folder, for components that do not fit together.
    """
    try:
        return cls.from_pretrained(str(folder), **options)
    except UNUSABLE as error:
        raise ValueError(f"{folder} does not open as a {cls.__name__}: {short(error)}") from error


def _class_of(library: str, name: str, index: Path) -> type | None:
    """A model, tokenizer or scheduler of diffusers, transformers or t2i; None for anything else."""
    if library not in ("diffusers", "transformers") and not library.startswith("t2i."):
        return None
    try:
        cls = getattr(importlib.import_module(library), name)
    except ImportError:
        return None
    except AttributeError:
        raise ValueError(f"{index} names {library}.{name}, which this version of {library} does not have") from None
    kinds = (ModelMixin, PreTrainedModel, PreTrainedTokenizerBase, SchedulerMixin)
    return cls if isinstance(cls, type) and issubclass(cls, kinds) else None


def _load(cls: type, folder: Path, dtype: torch.dtype, strict: bool) -> Any:
    if issubclass(cls, PreTrainedTokenizerBase):
        return load_tokenizer(cls, folder)
    needed = _needed(cls) if strict else ()
    if issubclass(cls, SchedulerMixin):
        config = folder / "scheduler_config.json"
        check_config(cls, config, strict, *needed)
        try:
            with quiet():
                return cls.from_pretrained(str(folder))
        except (*UNUSABLE, NotImplementedError) as error:
            raise ValueError(f"{config} does not describe {with_article(cls.__name__)}: {error}") from error
    return load_model(cls, folder, strict, needed, dtype=dtype, variant=_variant(folder))


def _needed(cls: type) -> list[str]:
    """Fields that a config saved by t2i must have: diffusers would replace them by defaults that may be wrong."""
    parameters = inspect.signature(cls).parameters
    return [name for name in ("scaling_factor", "num_train_timesteps", "prediction_type") if name in parameters]


def _variant(folder: Path) -> str | None:
    """ "fp16" where all weights of the folder have that variant's name."""
    names = [file.name for pattern in WEIGHTS for file in folder.glob(pattern)]
    return "fp16" if names and all(".fp16." in name or ".fp16-" in name for name in names) else None
