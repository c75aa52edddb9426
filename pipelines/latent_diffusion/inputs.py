"""Input validation: images, masks and label maps as tensors.

Shapes: n images · H, W image
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t2i.data.image_file import name_of, to_mask, to_rgb
from t2i.data.layouts import read_labels
from t2i.images import to_tensor

logger = logging.getLogger(__name__)
Images = Image.Image | np.ndarray | Tensor | Sequence[Image.Image | np.ndarray | Tensor]


def read_images(images: Images | None, stride: int) -> Tensor:
    """PIL images of one size, a tensor (n, 3, H, W) or array (n, H, W, 3) in [0, 1] -> float32 (n, 3, H, W) in [-1, 1].

    PIL images of any mode become RGB as in `t2i.data.read_image`: transparency on white, 16 bits scaled to 8. Arrays of
    uint8 range to 255. A single image (3, H, W) or (H, W, 3) is accepted, and a list of any of these. As in diffusers,
    values below 0 mean the range [-1, 1], with a warning. Raises ValueError for anything else, and for sides that
    `stride` does not divide.
    """
    images, name = _as_tensor(images), "an image"
    if isinstance(images, Tensor):
        _check_tensor("images", images, 3, least=-1)
        pixels = images.float()
        if pixels.min() < 0:
            logger.warning("the image has values below 0, and so is read as in [-1, 1]: tensors should be in [0, 1]")
        else:
            pixels = pixels * 2 - 1
    else:
        given = _as_list("image", images)
        rgb, name = [to_rgb(image, name_of(image, "the image")) for image in given], name_of(given[0], name)
        _check_same_size("images", rgb)
        pixels = to_tensor(torch.from_numpy(np.stack([np.asarray(image) for image in rgb])))
    _check_divisible(name, pixels.shape[2:], stride)
    return pixels


def read_latents(images: Images | None, channels: int) -> Tensor | None:
    """Scaled latents (n, C, h, w) that were given in place of images; None for images.

    As in diffusers, tensors of C channels are latents: (n, C, h, w), (C, h, w) or a list of these. With C = 3 they are
    images. Raises ValueError for latents that are not finite.
    """
    first = images[0] if isinstance(images, (list, tuple)) and images else images
    if channels == 3 or not isinstance(first, Tensor) or first.ndim not in (3, 4) or first.shape[-3] != channels:
        return None
    latents = _as_tensor(images)
    if not isinstance(latents, Tensor):
        return None
    if latents.numel() == 0 or not latents.isfinite().all():
        raise ValueError(f"the latents given as image, {tuple(latents.shape)}, must be finite numbers, at least one")
    return latents


def read_masks(masks: Images | None, count: int, size: Sequence[int]) -> Tensor:
    """PIL images, or a tensor or array in [0, 1], for `count` = n images of size (H, W) -> bool (1 or n, 1, H, W).

    True is white, above a threshold of 1/2. Tensors are (H, W), (1 or n, H, W) or (1 or n, 1, H, W), or a list of such;
    arrays may also be (1 or n, H, W, 1), and those of uint8 range to 255. Raises ValueError for anything else, and for
    masks of another size or number.
    """
    if isinstance(masks, (list, tuple)) and masks and all(isinstance(mask, Tensor) for mask in masks):
        masks = torch.cat([mask.view(-1, 1, *mask.shape[-2:]) for mask in masks])
    if isinstance(masks, np.ndarray):
        masks = torch.from_numpy(masks / np.float32(255) if masks.dtype == np.uint8 else masks)
        masks = masks[..., 0] if masks.ndim == 4 and masks.shape[-1] == 1 else masks
    if isinstance(masks, Tensor):
        masks = masks.view(-1, 1, *masks.shape[-2:]) if masks.ndim in (2, 3) else masks
        _check_tensor("masks", masks, 1)
        given = list((masks.float() >= 0.5)[:, 0].cpu())
    else:
        grey = [to_mask(mask, name_of(mask, "the mask")) for mask in _as_list("mask_image", masks)]
        given = [torch.from_numpy(mask) >= 128 for mask in grey]
    H, W = size
    for mask in given:
        if mask.shape != (H, W):
            h, w = mask.shape
            raise ValueError(f"the mask is {_size((w, h))}, the image {_size((W, H))}: they must have one size")
    if len(given) not in (1, count):
        raise ValueError(f"give one mask, or one for each image: there are {len(given)} for {count}")
    return torch.stack(given)[:, None]


def read_label_maps(maps: Images | None, labels: Sequence[str] | int, stride: int) -> Tensor:
    """PIL images of one size and of mode P or L, or a tensor of integers (n, H, W) -> int64 (n, H, W).

    Args:
        labels: their names, or their number.

    Raises ValueError for anything else, for labels out of range, and for sides that `stride` does not divide.
    """
    name = "a map"
    if isinstance(maps, Tensor):
        num = labels if isinstance(labels, int) else len(labels)
        whole = maps.ndim == 3 and maps.numel() > 0 and not (maps.is_floating_point() or maps.is_complex())
        if not whole or maps.min() < 0 or maps.max() >= num:
            raise ValueError(
                f"a tensor of maps must be integers (n, H, W) from 0 to {num - 1}, not {tuple(maps.shape)} of "
                f"{maps.dtype}" + (f" from {maps.min()} to {maps.max()}" if whole else "")
            )
        pixels = maps.long()
    else:
        given = _as_list("layout", maps)
        _check_same_size("maps", given)
        name = name_of(given[0], name)
        pixels = torch.from_numpy(np.stack([read_labels(image, labels) for image in given])).long()
    _check_divisible(name, pixels.shape[1:], stride)
    return pixels


def check_size(size: Sequence[int], options: dict) -> None:
    """Remove height and width from the options of a call. Raises ValueError where they are not `size`, the result's."""
    for name, side in zip(("height", "width"), size, strict=True):
        if options.pop(name, None) not in (None, side):
            raise ValueError(
                f"the result's {name} is {side}, as the image has it: scale the image instead of giving {name}"
            )


def _check_same_size(what: str, images: Sequence[Image.Image]) -> None:
    sizes = sorted({image.size for image in images})
    if len(sizes) > 1:
        raise ValueError(f"the {what} of one call must have one size, not {_size(sizes[0])} and {_size(sizes[1])}")


def _check_divisible(name: str, size: Sequence[int], stride: int) -> None:
    H, W = size
    if H % stride or W % stride:
        near = _size([max(1, round(side / stride)) * stride for side in (W, H)])
        raise ValueError(f"{name} of {_size((W, H))} is not divisible by {stride}: scale it, to {near} for instance")


def _as_tensor(images: Images | None) -> Images | None:
    """Arrays, and lists of arrays or tensors of one shape -> a tensor (n, 3, H, W); anything else as it is."""
    if isinstance(images, (list, tuple)) and images:
        kind = next((kind for kind in (Tensor, np.ndarray) if all(isinstance(i, kind) for i in images)), None)
        if kind is None or len({tuple(i.shape[-3:]) for i in images}) > 1 or images[0].ndim not in (3, 4):
            return images
        join = (torch.stack, np.stack) if images[0].ndim == 3 else (torch.cat, np.concatenate)
        images = join[kind is np.ndarray](list(images))
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(images / np.float32(255) if images.dtype == np.uint8 else images)
        images = images.movedim(-1, -3) if images.ndim > 2 else images
    return images[None] if isinstance(images, Tensor) and images.ndim == 3 else images


def _as_list(name: str, given) -> list[Image.Image]:
    images = [given] if isinstance(given, Image.Image) else given
    if not isinstance(images, (list, tuple)) or not images or not all(isinstance(i, Image.Image) for i in images):
        others = {"layout": "a tensor of integers"}.get(name, "a tensor or an array")
        raise ValueError(
            f"{name} must be a PIL image, a list of them, or {others}, not {_kind(given)}: Image.open(file) opens one"
        )
    return list(images)


def _kind(given) -> str:
    if isinstance(given, (list, tuple)):
        return f"a list with {_kind(next((i for i in given if not isinstance(i, Image.Image)), None))}"
    return "nothing" if given is None else f"a {type(given).__name__}"


def _check_tensor(what: str, tensor: Tensor, channels: int, least: int = 0) -> None:
    inside = tensor.numel() > 0 and bool(((tensor >= least) & (tensor <= 1)).all())  # NaN is outside
    if tensor.ndim != 4 or tensor.shape[1] != channels or not inside:
        values = f" from {tensor.min():.3g} to {tensor.max():.3g}" if tensor.numel() else ""
        raise ValueError(
            f"a tensor of {what} must be (n, {channels}, H, W) in [0, 1], not {tuple(tensor.shape)}{values}"
        )


def _size(size: Sequence[int]) -> str:
    return f"{size[0]}×{size[1]}"
