"""Devices and precisions as named by options."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Literal, TypeVar

Dtype = Literal["float32", "bfloat16", "float16"]
PipelineDtype = Literal["float32", "bfloat16", "float16", "int8"]  # int8: float32, but see CodePipeline.use_int8
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


def cpu_name() -> str:
    """The processor's model, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
