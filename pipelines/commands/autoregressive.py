"""`t2i complete IMAGE "a zebra teapot"` and `t2i create`: commands of DALL·E."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from PIL import Image, ImageOps
from tyro.conf import Positional, arg

from t2i.arguments import Hidden, parse
from t2i.checks import UsageError, check_options, check_real
from t2i.notes import note
from t2i.pipelines.commands.common import (
    PipelineOptions,
    SeedOptions,
    call_options,
    open_input,
    record,
    run,
    save_grid,
    save_with_input,
)
from t2i.pipelines.commands.outputs import Output, check_out, file_names, printable, write_images
from t2i.pipelines.sampling_options import SamplingOptions


@dataclass(frozen=True)
class AutoregressiveOptions(SamplingOptions, PipelineOptions, SeedOptions):
    """Options of the commands that need an autoregressive pipeline."""

    pipeline: str = "toybox/dalle"
    """An autoregressive pipeline: an embedded system, a folder, or a model of the Hub."""
    # Options of other pipelines.
    num_inference_steps: Hidden[int | None] = None
    schedule: Hidden[str | None] = None
    guidance_schedule: Hidden[str | None] = None
    choice_temperature: Hidden[float | None] = None
    thresholding: Hidden[str | None] = None
    percentile: Hidden[float | None] = None
    augmentation_level: Hidden[float | None] = None
    prior_guidance_scale: Hidden[float | None] = None
    num_prior_steps: Hidden[int | None] = None
    scheduler: Hidden[str | None] = None
    lora: Hidden[str | None] = None
    lora_scale: Hidden[float | None] = None


@dataclass(frozen=True)
class Complete(AutoregressiveOptions):
    """Options of `t2i complete`."""

    image: Annotated[Positional[str], arg(metavar="IMAGE")] = ""
    """The image to complete; it is cropped and scaled to the size of the pipeline's images."""
    prompt: Annotated[Positional[str], arg(metavar="PROMPT")] = ""
    """What the result shows; without a prompt, anything."""
    keep: float = 0.5
    """The part of the image that is kept, from the top, between 0 and 1: whole rows of image tokens."""


@dataclass(frozen=True)
class Create(AutoregressiveOptions):
    """Options of `t2i create`."""

    num_images: int = 4
    """Images, each with a caption of its own."""
    text_temperature: float | None = None
    """Temperature at which the captions are sampled: lower is less diverse; by default 1."""
    text_top_p: float | None = None
    """Sample each text token from the smallest set whose probability reaches p; by default from all."""
    # There is no prompt to follow or to rank by.
    negative_prompt: Hidden[str | None] = None
    num_candidates: Hidden[int | None] = None
    reranker: Hidden[str | None] = None


def complete(args: Sequence[str]) -> None:
    """Complete an image from its top part. Raises UsageError for invalid arguments."""
    description = "Keep the top of an image and generate the rest."
    options = parse(Complete(), args, prog="t2i complete", description=description)
    if not options.image:
        raise UsageError('give an image, as in: t2i complete photo.png "a zebra teapot" --keep 0.5')
    check_real("--keep", options.keep, most=1.0)
    options.check_reranker()
    _check(options, [options.prompt])
    given = open_input(options.image, "image", None)

    def generate(pipe) -> list[Image.Image]:
        image, num_rows = _fit(given, pipe.image_size, options), pipe.prior.config.grid_size
        kept = round(options.keep * num_rows)
        if not 0 < kept < num_rows:
            raise UsageError(
                f"--keep {options.keep:g} keeps {kept} of {num_rows} rows of image tokens: give a number from "
                f"{1 / num_rows:.3g} to {1 - 1 / num_rows:.3g}"
            )
        values = call_options(pipe, options, options.pipeline)
        if not options.prompt and not options.negative_prompt:
            values.setdefault("guidance_scale", 1.0)
        of_call = {"num_images_per_prompt": options.num_images, "generator": options.generators()}
        return pipe(options.prompt, image=image, keep_codes=kept * num_rows, **of_call, **values).images

    def save(images: list[Image.Image]) -> str:
        return save_with_input(images, options, options.prompt, ImageOps.fit(given, images[0].size))

    run(options, "tokens", generate, save)


def create(args: Sequence[str]) -> None:
    """Generate captions and an image of each. Raises UsageError for invalid arguments."""
    description = "Generate captions and an image of each, from nothing."
    options = parse(Create(), args, prog="t2i create", description=description)
    text = {name: getattr(options, name) for name in ("text_temperature", "text_top_p")}
    check_options(text, flags=True)
    _check(options, [])
    captions: list[str] = []

    def generate(pipe) -> list[Image.Image]:
        values = options.sampling_options() | {name: value for name, value in text.items() if value is not None}
        out = pipe.create(options.num_images, generator=options.generators(), **values)
        captions.extend(out.captions)
        return out.images

    run(options, "tokens", generate, lambda images: _save_creations(images, captions, options))


def _check(options: AutoregressiveOptions, prompts: Sequence[str]) -> None:
    """Raise UsageError or ValueError for what is wrong before anything is loaded."""
    options.check_seed_options()
    options.sampling_options()
    options.check_pipeline_options(prompts)


def _fit(image: Image.Image, side: int, options: Complete) -> Image.Image:
    """The image, cropped and scaled to a square of `side`, with a note if it has another size."""
    if image.size != (side, side):
        size, of = f"{image.width}×{image.height}", printable(options.pipeline)
        note(f"the image of {size} is cropped and scaled to {side}×{side}, as {of} makes them")
    return ImageOps.fit(image, (side, side))


def _save_creations(images: list[Image.Image], captions: Sequence[str], options: Create) -> str:
    """Single images, named after their captions and seeds, or a grid with these as labels."""
    from t2i.contact_sheet import contact_sheet

    seeds = range(options.seed, options.seed + len(images))
    if check_out(options.out):
        files = [
            Output(image, Path(options.out) / f"{name}-{seed}.png", record(options, [caption], seed, options.pipeline))
            for image, name, caption, seed in zip(images, file_names(captions), captions, seeds, strict=True)
        ]
        return write_images(files, folder=True)
    labels = [f"{caption} · {seed}" for caption, seed in zip(captions, seeds, strict=True)]
    grid = contact_sheet(images, labels, min(4, len(labels)), cell=192)
    return save_grid(grid, options, captions, options.seed, options.pipeline)
