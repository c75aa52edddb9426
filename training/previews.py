"""Helpers for preview images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from t2i.contact_sheet import contact_sheet
from t2i.data.sources import Source
from t2i.images import to_pil, to_tensor


@torch.no_grad()
def reconstructions(source: Source, reconstruct: Callable[[Tensor], Tensor], count: int = 8) -> Image.Image:
    """The first images of the data above their reconstructions; `reconstruct` keeps the shape (B, 3, S, S)."""
    items = [source[i] for i in range(min(count, len(source)))]
    images = to_tensor(torch.from_numpy(np.stack([item["image"] for item in items])))
    labels = [item["text"] for item in items] + ["reconstructed"] * len(items)
    return contact_sheet(to_pil(images) + to_pil(reconstruct(images)), labels, columns=len(items))


def text_lines(lines: list[str]) -> Image.Image:
    """Render lines of text, black on white."""
    font = ImageFont.load_default(14)
    width = int(max(font.getlength(line) for line in lines))
    image = Image.new("RGB", (width + 24, 22 * len(lines) + 16), "white")
    draw = ImageDraw.Draw(image)
    for i, line in enumerate(lines):
        draw.text((12, 8 + 22 * i), line, fill=(52, 50, 58), font=font)
    return image
