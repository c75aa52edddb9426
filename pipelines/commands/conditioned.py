"""`t2i upscale IMAGE ["a zebra teapot"]`, `t2i layout MAP "a zebra teapot"`"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from PIL import Image
from tyro.conf import Positional, arg

from t2i.arguments import parse
from t2i.checks import UsageError
from t2i.pipelines.commands.edit import Change, check_change, open_picture, passed_on, run, save_beside


@dataclass(frozen=True)
class Upscale(Change):
    image: Annotated[Positional[str], arg(metavar="IMAGE")] = ""
    """The small picture."""
    prompt: Annotated[Positional[str], arg(metavar="PROMPT")] = ""
    """What it shows, if that is to help."""
    pipeline: str = "runs/upscale-toybox/latest"
    """What `t2i train upscale-toybox` made; by how much a picture grows is its own."""


@dataclass(frozen=True)
class FromLayout(Change):
    map: Annotated[Positional[str], arg(metavar="MAP")] = ""
    """A picture of mode P or L whose pixels are labels, as `t2i data toybox --layouts` writes them."""
    prompt: Annotated[Positional[str], arg(metavar="PROMPT")] = ""
    """What things look like; without it that is left to chance."""
    pipeline: str = "runs/layout-toybox/latest"
    """What `t2i train layout-toybox` made."""


def upscale(args: Sequence[str]) -> None:
    """Super-resolution, as `args` ask; raises UsageError for bad arguments."""
    ask = parse(Upscale(), args, prog="t2i upscale", description="Make a small picture larger.")
    check_change(ask, ask.image, "t2i upscale small.png")
    _check_trained(ask, "upscale")
    image = open_picture(ask.image, "picture", ask.image_size)

    def draw(pipe) -> list[Image.Image]:
        _check_kind(pipe, "LatentDiffusionUpscalePipeline", "upscale", ask)
        return pipe(ask.prompt, image, **_seeded(ask)).images

    run(ask, None, draw, lambda images: save_beside(images, ask, image))


def layout(args: Sequence[str]) -> None:
    """Pictures from a map, as `args` ask; raises UsageError for bad arguments."""
    ask = parse(FromLayout(), args, prog="t2i layout", description="Draw pictures of what a map says is where.")
    check_change(ask, ask.map, 't2i layout map.png "a red cat on top of a blue car"')
    _check_trained(ask, "layout")
    labels = open_picture(ask.map, "map", ask.image_size)

    def draw(pipe) -> list[Image.Image]:
        _check_kind(pipe, "LatentDiffusionLayoutPipeline", "layout", ask)
        how = _seeded(ask)
        if not ask.prompt and not ask.negative_prompt:
            how.setdefault("guidance_scale", 1.0)  # there is nothing to guide to
        return pipe(ask.prompt, labels, **how).images

    run(ask, None, draw, lambda images: save_beside(images, ask, _coloured(labels), "map"))


def _seeded(ask: Change) -> dict:
    import torch

    generators = [torch.Generator().manual_seed(ask.seed + i) for i in range(ask.num_images)]
    return {"num_images_per_prompt": ask.num_images, "generator": generators, **passed_on(ask)}


def _check_trained(ask: Change, command: str) -> None:
    """The default pipeline comes with no package; one that is asked for by name is looked for where it is opened."""
    if ask.pipeline == type(ask).pipeline and not Path(ask.pipeline).exists():
        raise UsageError(
            f"there is no {ask.pipeline} yet: train it with `t2i train {command}-toybox`, or give another --pipeline"
        )


def _check_kind(pipe, kind: str, command: str, ask: Change) -> None:
    from t2i import pipelines

    if not isinstance(pipe, getattr(pipelines, kind)):
        raise UsageError(
            f"{ask.pipeline} holds a {type(pipe).__name__}, which does not {command}: train one that does with "
            f"`t2i train {command}-toybox`, and give its folder with --pipeline"
        )


def _coloured(labels: Image.Image) -> Image.Image:
    """A map without a palette is as good as black."""
    import numpy as np

    from t2i.data.toybox import layout_image

    return labels if labels.mode == "P" else layout_image(np.asarray(labels))
