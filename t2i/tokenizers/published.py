"""Reading the weights of published checkpoints without running code that such a file may hold."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from t2i.weights import UNUSABLE

Model = TypeVar("Model", bound=nn.Module)


class StandIn:
    """An object of a class that checkpoints name; it keeps the object's state and has no behaviour."""

    def __init__(self, *args: object, **kwargs: object):
        self.state: object = {}

    def __setstate__(self, state: object) -> None:
        self.state = state


# Classes in the checkpoints that are read here; StandIn takes their place, so none of their code is imported.
REPLACED = (
    *("dall_e.encoder.Encoder", "dall_e.encoder.EncoderBlock"),  # OpenAI's pickles are of whole modules
    *("dall_e.decoder.Decoder", "dall_e.decoder.DecoderBlock", "dall_e.utils.Conv2d"),
    *("torch.nn.modules.container.Sequential", "torch.nn.modules.linear.Identity"),
    *("torch.nn.modules.activation.ReLU", "torch.nn.modules.pooling.MaxPool2d"),
    "torch.nn.modules.upsampling.Upsample",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",  # Lightning stores callbacks by their class
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype"),  # the callbacks' scores
)


def read_tensors(file: str | Path) -> dict[str, Tensor]:
    """The tensors, by name, of a state dict (.safetensors, or pickled by torch), a Lightning checkpoint or a pickled
    module.

    Raises FileNotFoundError if there is no file, and ValueError, naming it, if it is damaged, holds no tensors, or
    needs a class or function that is not in the lists of torch and of this module.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged or incomplete ({error}): get it again") from None
    content = _unpickle(file)
    if isinstance(content, StandIn):
        return _tensors_of_module(content)
    if isinstance(content, Mapping):
        content = content.get("state_dict", content)
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{file} holds no tensors by name: give a state dict, or a file as it was published")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def fill(model: Model, tensors: Mapping[str, Tensor]) -> Model:
    """The model with these weights, in eval mode. Raises ValueError unless they are all its weights in their shapes."""
    wanted = model.state_dict()
    kind = type(model).__name__
    for name in [*wanted, *tensors]:
        if name not in tensors:
            raise ValueError(f"the weights lack {name} of {kind}: the file is of another architecture, or incomplete")
        if name not in wanted:
            raise ValueError(f"{kind} has no weight {name}: the file is of another architecture")
        if tensors[name].shape != wanted[name].shape:
            shapes = f"{tuple(tensors[name].shape)}, not {tuple(wanted[name].shape)}"
            raise ValueError(f"{name} is {shapes} as in {kind}: the file is of another architecture")
    model.load_state_dict(dict(tensors))
    return model.eval()


def _unpickle(file: Path) -> object:
    """What is in a file of torch.save, read by torch's restricted unpickler."""
    try:
        with torch.serialization.safe_globals([(StandIn, name) for name in REPLACED]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other pickle protocols: what torch cannot read raises
            # Mapped: what is not used, such as the optimizer's state, is not read.
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (*UNUSABLE, pickle.UnpicklingError, EOFError, AssertionError) as error:
        if named := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{file} holds {named[1].rstrip('.')}, which could run code and is not opened: save its state dict "
                "alone with safetensors, where you trust it"
            ) from None
        raise ValueError(
            f"{file} cannot be read as weights: it is damaged, or holds other things than tensors, which are not "
            "opened, as they could run code"
        ) from None


def _tensors_of_module(module: object, prefix: str = "") -> dict[str, Tensor]:
    """Parameters and buffers of a pickled module and those in it, by the names of its state dict."""
    state = module.state if isinstance(module, StandIn) else None
    if not isinstance(state, Mapping):
        raise ValueError(f"the pickled module {prefix.rstrip('.') or 'in the file'} is not one of torch.nn")
    found = {}
    for name, value in {**state.get("_parameters", {}), **state.get("_buffers", {})}.items():
        if isinstance(value, Tensor):
            found[f"{prefix}{name}"] = value.detach()
    for name, child in state.get("_modules", {}).items():
        if child is not None:
            found |= _tensors_of_module(child, f"{prefix}{name}.")
    return found
