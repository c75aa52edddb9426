"""The state that resumes a run: weights, optimizer and averages as safetensors, random states as JSON. No pickle.

An unsharded state is three files written by the main process. Of a sharded one, each process writes its parts by
torch.distributed.checkpoint as safetensors, not in its default format, whose `.metadata` is a pickle. Both are read in
one way, by any number of processes, sharded or not.

Shapes: a tensor is stored with its own shape, a scalar as (1,).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from t2i.files import read_json, write_json
from t2i.processes import this_process
from t2i.training.averages import AveragedWeights
from t2i.training.sharding import is_sharded

PARTS = ("model", "ema", "optimizer")  # the first part of a tensor's name, and the file of an unsharded state


def save_tensors(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, averages: AveragedWeights) -> None:
    """Write weights, optimizer state and averages; all processes must call this, on a file system they share.

    Raises OSError, RuntimeError or SafetensorError if the disk is full.
    """
    tensors = _tensors(model, optimizer, averages)
    if is_sharded(model):
        try:
            dcp.save(tensors, storage_writer=dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True))
        except CheckpointException as error:  # not an Exception; one error for each process that failed
            raise next(iter(error.failures.values()))[0] from error
    elif this_process().is_main_process:
        write_tensors(folder, tensors)


def copied_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, averages: AveragedWeights) -> dict[str, Tensor]:
    """Copies in CPU memory of the tensors of an unsharded state, for `write_tensors`."""
    return {name: x.to("cpu", copy=True) for name, x in _tensors(model, optimizer, averages).items()}


def write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the files of an unsharded state."""
    for part in PARTS:
        chosen = {name: x.cpu().contiguous() for name, x in tensors.items() if name.startswith(f"{part}.")}
        save_file(chosen, folder / f"{part}.safetensors")


def load_tensors(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, averages: AveragedWeights) -> None:
    """Restore what `save_tensors` wrote, in place; all processes must call this."""
    _prepare(folder, model, optimizer)
    tensors = _tensors(model, optimizer, averages)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # as asked with `no_dist`
        dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=not is_sharded(model))


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer, averages: AveragedWeights) -> dict[str, Tensor]:
    """All tensors by name, sharing memory with those in use: model.NAME, ema.NAME and optimizer.NAME.KEY."""
    parameters, saved = dict(model.named_parameters()), model.state_dict().keys()
    tensors = {f"model.{name}": p for name, p in parameters.items()}
    tensors |= {f"model.{name}": x for name, x in model.named_buffers() if name in saved}
    tensors |= {f"ema.{name}": x for name, x in zip(parameters, averages.averages, strict=True)}
    for name, p in parameters.items():
        tensors |= {f"optimizer.{name}.{key}": x for key, x in optimizer.state.get(p, {}).items()}
    return {name: x.detach() if x.ndim else x.detach().view(1) for name, x in tensors.items()}


def _prepare(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer the state tensors that are stored, which it otherwise creates in its first step."""
    parameters = dict(model.named_parameters())
    for name in _names(folder):
        if name.startswith("optimizer."):
            of, key = name.removeprefix("optimizer.").rsplit(".", 1)
            p = parameters[of]
            optimizer.state[p][key] = torch.zeros((), device=p.device) if key == "step" else torch.zeros_like(p)


def _names(folder: Path) -> set[str]:
    names: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            names |= set(file.keys())
    return names


# --- random states --------------------------------------------------------------------------------------------------


def save_random(folder: Path, accelerator: Accelerator) -> None:
    """Write the states of this process's random generators: torch's, and the device's."""
    states = {"torch": _hex(torch.get_rng_state())}
    if (device := _generator_of(accelerator)) is not None:
        states["device"] = _hex(device.get_rng_state())
    write_json(_random_file(folder, accelerator), states)


def load_random(folder: Path, accelerator: Accelerator) -> None:
    """Restore what `save_random` wrote; if this process has no file, as with more processes, nothing changes."""
    path = _random_file(folder, accelerator)
    if not path.is_file():
        return
    states = read_json(path, "torch")
    torch.set_rng_state(_bytes(states["torch"]))
    if "device" in states and (device := _generator_of(accelerator)) is not None:
        device.set_rng_state(_bytes(states["device"]))


def _generator_of(accelerator: Accelerator) -> ModuleType | None:
    """torch.cuda or the like, if the device is not the CPU and has a random state."""
    module = None if accelerator.device.type == "cpu" else torch.get_device_module(accelerator.device)
    return module if hasattr(module, "get_rng_state") else None


def _random_file(folder: Path, accelerator: Accelerator) -> Path:
    return folder / f"random-{accelerator.process_index}.json"


def _hex(state: Tensor) -> str:
    return bytes(state.tolist()).hex()


def _bytes(text: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
