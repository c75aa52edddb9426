"""`t2i edit IMAGE "a zebra teapot"`, `t2i inpaint IMAGE MASK "…"`, `t2i interpolate "a red cat" "a blue car"`"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from PIL import Image
from tyro.conf import Positional, arg

from t2i.arguments import parse
from t2i.checks import UsageError, check_distinct, check_seeds, check_whole
from t2i.pipelines.commands.common import (
    ImageOptions,
    LatentDiffusionOptions,
    call_options,
    check_prompts_suffice,
    open_input,
    run,
    save_series,
    save_with_input,
)


@dataclass(frozen=True)
class Edit(ImageOptions):
    """Options of `t2i edit`."""

    image: Annotated[Positional[str], arg(metavar="IMAGE")] = ""
    """The image to start from."""
    prompt: Annotated[Positional[str], arg(metavar="PROMPT")] = ""
    """What it should become; without a prompt, variations of the image."""
    strength: float = 0.6
    """How much may change, from 0 (nothing) to 1 (everything): the fraction of the denoising steps that is run."""


@dataclass(frozen=True)
class Inpaint(ImageOptions):
    """Options of `t2i inpaint`."""

    image: Annotated[Positional[str], arg(metavar="IMAGE")] = ""
    """The image; outside of the mask it stays as it is, bit for bit."""
    mask: Annotated[Positional[str], arg(metavar="MASK")] = ""
    """An image of the same size: white where to repaint, black where to keep."""
    prompt: Annotated[Positional[str], arg(metavar="PROMPT")] = ""
    """What the result shows."""
    strength: float = 1.0
    """How much may change inside the mask, from 0 (nothing) to 1 (everything)."""
    pipeline: str = "toybox/ldm"
    """A latent diffusion pipeline or a MusePipeline: an embedded system, a folder, or a model of the Hub."""


@dataclass(frozen=True)
class Interpolate(LatentDiffusionOptions):
    """Options of `t2i interpolate`."""

    prompts: Annotated[Positional[tuple[str, ...]], arg(metavar="PROMPT …")] = ()
    """One prompt, or two to interpolate between, each in quotes; or two image files, for a DALL·E 2 pipeline."""
    num_images: int = 8
    """Images, both ends included."""
    seeds: tuple[int, ...] = (0,)
    """One seed, or two to interpolate between."""


def edit(args: Sequence[str]) -> None:
    """Image to image, and variations. Raises UsageError for invalid arguments."""
    description = "Change an image towards a prompt, or generate variations of it."
    options = parse(Edit(), args, prog="t2i edit", description=description)
    options.check(options.image, options.prompt, 't2i edit photo.png "a zebra teapot"')
    image = open_input(options.image, "image", options.image_size)

    def generate(pipe) -> list[Image.Image]:
        from t2i.pipelines.commands.tasks import edit_image

        return edit_image(pipe, image, options.strength, _call_options(pipe, options))

    run(options, "image", generate, lambda images: save_with_input(images, options, options.prompt, image))


def inpaint(args: Sequence[str]) -> None:
    """Repaint a part of an image. Raises UsageError for invalid arguments."""
    options = parse(Inpaint(), args, prog="t2i inpaint", description="Repaint the masked part of an image.")
    options.check(options.image, options.prompt, 't2i inpaint photo.png mask.png "a zebra teapot"')
    if not options.mask:
        raise UsageError("give a mask after the image: an image of its size, white where to repaint")
    image = open_input(options.image, "image", options.image_size)
    mask = open_input(options.mask, "mask", options.image_size)
    if image.size != mask.size:
        sizes = [
            f"{path} has {opened.width}×{opened.height} pixels"
            for path, opened in ((options.image, image), (options.mask, mask))
        ]
        raise UsageError(f"{' and '.join(sizes)}: scale one of them, or both with --image-size")

    def generate(pipe) -> list[Image.Image]:
        from t2i.pipelines.commands.tasks import inpaint_image

        return inpaint_image(pipe, image, mask, options.strength, _call_options(pipe, options))

    run(options, "inpainting", generate, lambda images: save_with_input(images, options, options.prompt, image))


def interpolate(args: Sequence[str]) -> None:
    """Images from one prompt, seed or image to another. Raises UsageError for invalid arguments."""
    description = "Interpolate between two prompts, seeds or images."
    options = parse(Interpolate(), args, prog="t2i interpolate", description=description)
    if len(options.prompts) == 2 and all(map(_is_file, options.prompts)):
        _interpolate_images(options)
        return
    if len(options.prompts) not in (1, 2) or not all(p.strip() for p in options.prompts):
        raise UsageError('give one prompt or two in quotes, as in: t2i interpolate "a red cat" "a blue car"')
    if len(options.seeds) not in (1, 2):
        raise UsageError("--seeds takes one number or two, each at least 0")
    for seed in options.seeds:
        check_seeds("--seeds", seed)
    check_distinct("--seeds", options.seeds, "give two different ones, or a single one")
    check_distinct("the prompt", options.prompts, "give two different ones, or a single one and two --seeds")
    if len(options.prompts) == len(options.seeds) == 1:
        raise UsageError('give a second prompt, or a second seed, as in: t2i interpolate "a red cat" --seeds 0 1')
    check_whole("--num-images", options.num_images, least=2)
    options.sampling_options()
    options.check_pipeline_options(options.prompts)
    prompts, seeds = (pair if len(pair) == 2 else pair * 2 for pair in (options.prompts, options.seeds))

    def generate(pipe) -> list[Image.Image]:
        check_prompts_suffice(pipe, options.pipeline)
        return pipe.interpolate(prompts, seeds, options.num_images, **call_options(pipe, options, options.pipeline))

    run(options, None, generate, lambda images: _save_interpolation(images, options, prompts, seeds))


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a prompt that cannot be the name of a file
        return False


def _interpolate_images(options: Interpolate) -> None:
    """Images from one image file to another, through their embeddings."""
    check_distinct("the image", options.prompts, "give two different ones")
    check_whole("--num-images", options.num_images, least=2)
    if options.seeds != Interpolate.seeds:
        raise UsageError("--seeds has no effect between images, whose noise is their own: leave it out")
    options.sampling_options()
    options.check_pipeline_options([])
    images = [open_input(path, "image", None) for path in options.prompts]

    def generate(pipe) -> list[Image.Image]:
        how = call_options(pipe, options, options.pipeline, pipe.interpolate)
        return pipe.interpolate(images, options.num_images, **how)

    names = [Path(path).name for path in options.prompts]
    labels = [names[0], *[""] * (options.num_images - 2), names[1]]
    run(options, "embeddings", generate, lambda made: save_series(made, labels, options, options.prompts, ""))


def _call_options(pipe, options: Edit | Inpaint) -> dict[str, Any]:
    """The pipeline's options, the prompt and a generator per image; without a prompt there is no guidance."""
    prompt = {
        "prompt": options.prompt,
        "num_images_per_prompt": options.num_images,
        "generator": options.generators(),
    }
    if not options.prompt and not options.negative_prompt:
        prompt["guidance_scale"] = 1.0
    return prompt | call_options(pipe, options, options.pipeline)


def _save_interpolation(
    images: list[Image.Image], options: Interpolate, prompts: Sequence[str], seeds: Sequence[int]
) -> str:
    """Single images, numbered, or a strip with labels at its ends."""
    first, last = (f"{prompt} · {seed}" for prompt, seed in zip(prompts, seeds, strict=True))
    labels = [first, *[""] * (len(images) - 2), last]
    return save_series(images, labels, options, options.prompts, " ".join(map(str, options.seeds)))
