"""Devices and precisions, as options name them."""

from __future__ import annotations

from typing import Literal, TypeVar

Dtype = Literal["float32", "bfloat16", "float16"]
M = TypeVar("M")


def to_device(model: M, device: str) -> M:
    """A model or a pipeline on a device, "auto" being the fastest there is; ValueError for one that cannot be used."""
    device = fastest_device() if device == "auto" else device
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"cannot use --device {device}: {str(error).splitlines()[0]}") from error


def fastest_device() -> str:
    """ "cuda", "mps" or "cpu": what "auto" stands for."""
    import torch  # not before: it takes seconds to import, and options name devices too

    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
