"""Devices and precisions as named by options."""

from __future__ import annotations

from typing import Literal, TypeVar

Dtype = Literal["float32", "bfloat16", "float16"]
M = TypeVar("M")


def to_device(model: M, device: str) -> M:
    """Move a model or pipeline to a device, "auto" for the fastest one; ValueError for an unavailable device."""
    device = fastest_device() if device == "auto" else device
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"cannot use --device {device}: {str(error).splitlines()[0]}") from error


def fastest_device() -> str:
    """The device that "auto" stands for: "cuda", "mps" or "cpu"."""
    import torch  # imported here: it takes seconds, and options use this module too

    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
