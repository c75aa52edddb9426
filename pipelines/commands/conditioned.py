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
from t2i.notes import with_article
from t2i.pipelines.commands.common import ImageOptions, call_options, open_input, run, save_with_input


@dataclass(frozen=True)
class Upscale(ImageOptions):
    """Options of `t2i upscale`."""

    image: Annotated[Positional[str], arg(metavar="IMAGE")] = ""
    """The low-resolution image."""
    prompt: Annotated[Positional[str], arg(metavar="PROMPT")] = ""
    """The prompt; optional."""
    pipeline: str = "runs/upscale-toybox/latest"
    """Folder of a super-resolution pipeline, as `t2i train upscale-toybox` writes it; it determines the factor."""


@dataclass(frozen=True)
class Layout(ImageOptions):
    """Options of `t2i layout`."""

    map: Annotated[Positional[str], arg(metavar="MAP")] = ""
    """A label map: an image of mode P or L whose pixels are labels, as `t2i data toybox --layouts` writes them."""
    prompt: Annotated[Positional[str], arg(metavar="PROMPT")] = ""
    """The prompt; optional."""
    pipeline: str = "runs/layout-toybox/latest"
    """Folder of a label-map pipeline, as `t2i train layout-toybox` writes it."""


def upscale(args: Sequence[str]) -> None:
    """Super-resolution. Raises UsageError for invalid arguments."""
    options = parse(Upscale(), args, prog="t2i upscale", description="Upscale a low-resolution image.")
    options.check(options.image, options.prompt, "t2i upscale small.png")
    _check_trained(options, "upscale")
    image = open_input(options.image, "image", options.image_size)
    _run(options, "LatentDiffusionUpscalePipeline", "upscale", image, image, "original")


def layout(args: Sequence[str]) -> None:
    """Images from a label map. Raises UsageError for invalid arguments."""
    options = parse(Layout(), args, prog="t2i layout", description="Generate images from a label map.")
    example = 't2i layout map.png "a red cat on top of a blue car"'
    options.check(options.map, options.prompt, example, "a label map")
    _check_trained(options, "layout")
    labels = open_input(options.map, "map", options.image_size)
    _run(options, "LatentDiffusionLayoutPipeline", "layout", labels, _coloured(labels), "map")


def _run(
    options: Upscale | Layout, kind: str, command: str, condition: Image.Image, shown: Image.Image, label: str
) -> None:
    """Generate from the condition with a pipeline of class `kind`, and save the images with the condition as shown."""

    def generate(pipe) -> list[Image.Image]:
        if type(pipe).__name__ != kind:
            raise UsageError(
                f"{options.pipeline} holds {with_article(type(pipe).__name__)}, which does not {command}: "
                f"train one that does with `t2i train {command}-toybox`, and give its folder with --pipeline"
            )
        values = call_options(pipe, options, options.pipeline)
        if not options.prompt and not options.negative_prompt:
            values.setdefault("guidance_scale", 1.0)  # there is nothing to guide towards
        n, generators = options.num_images, options.generators()
        return pipe(options.prompt, condition, num_images_per_prompt=n, generator=generators, **values).images

    run(options, None, generate, lambda images: save_with_input(images, options, options.prompt, shown, label))


def _check_trained(options: Upscale | Layout, command: str) -> None:
    """No such pipeline comes with the package; one that is named is looked for where it is opened."""
    if options.pipeline == type(options).pipeline and not Path(options.pipeline).exists():
        raise UsageError(
            f"there is no {options.pipeline} yet: train it with `t2i train {command}-toybox`, or give another "
            "--pipeline"
        )


def _coloured(labels: Image.Image) -> Image.Image:
    """A label map in colours: without a palette, labels would be almost black."""
    import numpy as np

    from t2i.data.toybox import label_image

    return labels if labels.mode == "P" else label_image(np.asarray(labels))
