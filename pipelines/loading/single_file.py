"""Pipelines whose weights are a single file, as Stable Diffusion and its fine-tuned versions are often distributed."""

from __future__ import annotations

import pickle
from pathlib import Path

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders import FromSingleFileMixin
from diffusers.loaders.single_file_utils import (
    SingleFileComponentError,
    fetch_diffusers_config,
    load_single_file_checkpoint,
)

SUFFIXES = (".safetensors", ".ckpt")
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")


def is_single_file(name: str) -> bool:
    """Whether `name` has the suffix of a weights file, and is not a folder."""
    return name.lower().endswith(SUFFIXES) and not Path(name).is_dir()


def open_single_file(file: str, config: str | None = None, **kwargs) -> DiffusionPipeline:
    """See `AutoPipeline.from_single_file`."""
    hub_options = {k: kwargs[k] for k in HUB_OPTIONS if k in kwargs}
    if not file.startswith("https://") and not Path(file).is_file():
        raise FileNotFoundError(f"there is no file {file}")
    weights = _read(file, hub_options)
    if any("lora" in name for name in weights):
        raise ValueError(f"{file} holds a LoRA: open the pipeline it was trained on, and add the file with --lora")
    config = str(config or fetch_diffusers_config(weights)["pretrained_model_name_or_path"])
    del weights  # mapped from the file, and read again below
    try:
        name = DiffusionPipeline.load_config(config, **hub_options)["_class_name"]
    except OSError as error:
        raise FileNotFoundError(
            f"{file} holds only weights, and the pipeline config {config} cannot be read: {str(error).splitlines()[0]} "
            "In Python give config=FOLDER, a pipeline of the same architecture in diffusers' layout; save_pretrained "
            "then makes a folder that the command line opens"
        ) from error
    cls = getattr(diffusers, name, None)
    if cls is None or not issubclass(cls, FromSingleFileMixin):
        raise ValueError(f"{config} is for a {name}, which diffusers does not open from a single file")
    try:
        return cls.from_single_file(file, config=config, **kwargs)
    except (SingleFileComponentError, KeyError, RuntimeError, ValueError) as error:
        why = str(getattr(error, "message", error)).strip().splitlines()[0][:200]
        raise ValueError(f"{file} does not hold the weights of a {name} as {config} has them: {why}") from error


def _read(file: str, hub_options: dict) -> dict[str, torch.Tensor]:
    """The weights; diffusers reads pickled files with torch's `weights_only`, which does not run code in them."""
    try:
        return load_single_file_checkpoint(file, **hub_options)
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{file} cannot be read as weights: it is damaged, or (a .ckpt) holds other things than tensors, which are "
            "not opened, as they could run code"
        ) from error
