"""Base class of feature extractors: images in, one vector per image out, with a description of what computed it.

Shapes: N images · H × W pixels · S side of the network's input · D dimensions
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from t2i.eval.metrics.common import Array

# SHA-256 of the FID network's file, weights-inception-2015-12-05-6726825d.pth, in torch-fidelity's release v0.2.0.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
VALUE_RANGES = ("0..1", "-1..1")
LAYOUTS = ("NCHW", "NHWC")
_CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
_ROUNDING = 1e-5  # how far rounding alone may move a float out of range


class Extractor(ABC):
    """Turns images into features. Two sets of features are comparable if the first four attributes agree.

    Attributes:
        name: printed name, such as "inception" or "clip:clip-vit-base-patch32", without folder names.
        dim: D.
        preprocess_id: identifies how images are resized, cropped and scaled.
        weights_sha256: SHA-256 of the weights; 64 hexadecimal digits.
        device: device of the network. Features are always returned on the CPU.

    Subclasses define `prepare` and `forward`. Calling an extractor is `embed(prepare(images))`: they are separate so
    that a folder's images, which may differ in size, can be prepared one by one in threads while the network runs.
    """

    def __init__(self, name: str, dim: int, preprocess_id: str, weights_sha256: str, device: str = "cpu"):
        self.name, self.dim, self.preprocess_id, self.weights_sha256 = name, dim, preprocess_id, weights_sha256
        self.device = torch.device(device)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) -> float32 (N, D) on the CPU. Raises ValueError for other types or shapes."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"an extractor takes uint8 (N, 3, H, W), not {images.dtype} {tuple(images.shape)}; use as_uint8 first"
            )
        return self.embed(self.prepare(images.cpu()))

    @abstractmethod
    def prepare(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) on the CPU -> float32 (N, 3, S, S), each image independently."""

    @abstractmethod
    def forward(self, prepared: Tensor) -> Tensor:
        """(N, 3, S, S) on `device` -> (N, D)."""

    @torch.no_grad()
    def embed(self, prepared: Tensor) -> Tensor:
        """Output of `prepare`, (N, 3, S, S) -> float32 (N, D) on the CPU."""
        # Convolutions with few channels are faster in this memory format, by a third on a CPU; others are unaffected.
        prepared = prepared.to(self.device, memory_format=torch.channels_last)
        with exact_convolutions():
            return self.forward(prepared).float().cpu()

    def describe(self) -> dict:
        """{"name", "dim", "preprocess_id", "weights_sha256"}, plain data for JSON."""
        return {key: getattr(self, key) for key in ("name", "dim", "preprocess_id", "weights_sha256")}


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Run float32 convolutions on a GPU in full precision, without torch's default rounding of inputs to 10 bits
    (TF32): features and scores are then the same on every device.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@dataclass(frozen=True, eq=False)
class Features:
    """The features of a set of images, and how they were computed.

    Attributes:
        values: float32 (N, D), finite.
        extractor: output of `Extractor.describe`.
        images_sha256: SHA-256 of each image's decoded pixels (`t2i.eval.images.sets.image_digest`).
        names: each image's path inside the folder, or its index in the array.
        skipped: unreadable images, "name: why". They have no row.
        black: names of images that are 0 everywhere. They have a row like any other.

    Raises ValueError for other shapes, and for NaN or infinity, naming the image.
    """

    values: Tensor = field(repr=False)
    extractor: dict
    images_sha256: tuple[str, ...] = field(repr=False)
    names: tuple[str, ...] = field(default=(), repr=False)
    skipped: tuple[str, ...] = ()
    black: tuple[str, ...] = ()

    def __post_init__(self):
        shape, n = tuple(self.values.shape), len(self.images_sha256)
        if shape != (n, self.extractor["dim"]):
            raise ValueError(f"{n} images need features ({n}, {self.extractor['dim']}), not {shape}")
        if self.names and len(self.names) != n:
            raise ValueError(f"{n} images have {len(self.names)} names")
        if not (fine := self.values.isfinite().all(1)).all():
            row = int((~fine).nonzero()[0])
            raise ValueError(f"the features of image {self.names[row] if self.names else row} have NaN or infinity")

    def __len__(self) -> int:
        return len(self.values)


def measure_name(metric: str, extractor: Extractor | Mapping) -> str:
    """Name of a score: "FID" and "KID" are reserved for FID's Inception network, identified by its weights' hash.

    Args:
        metric: "FD" (the Fréchet distance), "KID", or any other name.
        extractor: an extractor or its description.

    Returns:
        "FID", "KID", … for that network; otherwise "FD[name]", "KID[name]", …
    """
    about = extractor.describe() if isinstance(extractor, Extractor) else extractor
    if about["name"] == "inception" and about["weights_sha256"] == INCEPTION_SHA256:
        return "FID" if metric == "FD" else metric
    return f"{metric}[{about['name']}]"


# --- pixels ---------------------------------------------------------------------------------------------------------


def as_uint8(images: Array, value_range: str = "0..1", layout: str | None = None) -> Tensor:
    """Images in any of the usual forms -> uint8 (N, 3, H, W).

    Args:
        images: (N, C, H, W) or (N, H, W, C) with C = 1 (grey), 3 (RGB) or 4 (RGBA, composited on white); one image
            (C, H, W), (H, W, C) or, grey, (H, W). uint8 or floats.
        value_range: of floats, "0..1" or "-1..1"; ignored for uint8. Values are rounded to the nearest 8-bit level.
        layout: "NCHW" or "NHWC", needed only if the shape is ambiguous.

    Raises ValueError for another shape, type or range, and for NaN.
    """
    if value_range not in VALUE_RANGES or layout not in (None, *LAYOUTS):
        raise ValueError(f"value_range is one of {VALUE_RANGES} and layout of {LAYOUTS}: {value_range=}, {layout=}")
    images = torch.as_tensor(np.ascontiguousarray(images) if isinstance(images, np.ndarray) else images).detach()
    images = _channels_first(images, layout)
    if images.is_floating_point():
        images = _levels(images, value_range)
    elif images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8 or floats, not {images.dtype}; use .to(torch.uint8) for 0 to 255")
    if images.shape[1] == 4:
        images = _over_white(images)
    return images.expand(-1, 3, -1, -1).contiguous()


def _channels_first(images: Tensor, layout: str | None) -> Tensor:
    """Permute to (N, C, H, W)."""
    shape = tuple(images.shape)
    if images.ndim == 2:
        return images[None, None]
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4 or 0 in shape:
        raise ValueError(f"images must have the shape (N, C, H, W) or (N, H, W, C), not {shape}")
    first, last = images.shape[1] in _CHANNELS, images.shape[3] in _CHANNELS
    if layout is None and first and last:
        raise ValueError(f"the shape {shape} may be NCHW or NHWC; give layout=")
    layout = layout or ("NCHW" if first else "NHWC")
    if not (first if layout == "NCHW" else last):
        raise ValueError(f"images of the shape {shape} have no 1, 3 or 4 channels; add that axis to grey ones")
    return images if layout == "NCHW" else images.permute(0, 3, 1, 2)


def _levels(images: Tensor, value_range: str) -> Tensor:
    """Floats -> the nearest of 256 levels. Truncating instead would darken by half a level."""
    images = images.float()
    if images.isnan().any():
        raise ValueError("the images contain NaN; check how they were generated")
    lowest, low, high = (0.0 if value_range == "0..1" else -1.0), images.min().item(), images.max().item()
    if low < lowest - _ROUNDING or high > 1 + _ROUNDING:
        raise ValueError(
            f"images of value_range {value_range!r} go from {low:g} to {high:g}; give the right value_range, or clamp"
        )
    unit = images if value_range == "0..1" else (images + 1) / 2
    return (unit.clamp(0, 1) * 255).round().to(torch.uint8)


def _over_white(images: Tensor) -> Tensor:
    """Composite uint8 (N, 4, H, W) on white -> uint8 (N, 3, H, W)."""
    colour, alpha = images[:, :3].float(), images[:, 3:].float() / 255
    return (colour * alpha + 255 * (1 - alpha)).round().to(torch.uint8)


def area_resize(images: Tensor, side: int) -> Tensor:
    """(N, C, H, W) -> float32 (N, C, side, side): each new pixel is the mean of the area that it covers.

    Exact for any ratio: it does not alias and preserves the mean of an image.
    """
    rows, columns = (_overlaps(n, side).to(images.device) for n in images.shape[2:])
    return rows @ images.float() @ columns.T


def _overlaps(before: int, after: int) -> Tensor:
    """(after, before): the share of each old pixel in each new one; rows sum to 1."""
    edges = torch.arange(after + 1, dtype=torch.float64) * before / after
    old = torch.arange(before, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], old + 1) - torch.maximum(edges[:-1, None], old)
    return (overlap.clamp(min=0) * after / before).float()
