"""`t2i edit IMAGE "a zebra teapot"`, `t2i inpaint IMAGE MASK "…"`, `t2i interpolate "a red cat" "a blue car"`"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from PIL import Image, ImageOps
from tyro.conf import Positional, arg

from t2i.arguments import parse
from t2i.checks import MAX_SIDE, UsageError, check_distinct, check_options, check_seeds, check_text, check_whole
from t2i.data.image_file import open_image, to_mask, to_rgb
from t2i.devices import Dtype
from t2i.pipelines.commands.generate import check_draws_from_words, check_scheduler, options_for, record, save_each, say
from t2i.pipelines.outputs import Output, check_out, printable, write_images

PASSED_ON = ("negative_prompt", "guidance_scale", "num_inference_steps", "scheduler")


@dataclass(frozen=True)
class Draw:
    """What the three commands have in common."""

    pipeline: str = "toybox/ldm"
    """A latent-diffusion pipeline: an embedded system, a folder, or a model of the Hub."""
    out: str = "t2i.png"
    """A PNG file for a labelled grid, or a folder (its name ends in /) for single images. Where the name is taken by
    another image, the new one gets a number behind it: t2i-2.png."""
    device: str = "auto"
    """'cpu', 'cuda', 'mps', … ; by default the fastest there is."""
    dtype: Dtype | None = None
    """Of the weights in memory, by default float32; half precision takes half of it, and on GPUs less time."""
    negative_prompt: str | None = None
    """What to lead away from."""
    guidance_scale: float | None = None
    """How closely to follow the prompt; by default the pipeline's own."""
    num_inference_steps: int | None = None
    """Steps of the sampler from noise alone; `strength` takes a part of them."""
    scheduler: str | None = None
    """Another sampler: 'ddim', 'dpm++', 'euler', … """
    lora: str | None = None
    """A folder of `t2i train lora` for this pipeline."""
    lora_scale: float | None = None
    """How much of it: 0 nothing, 1 all; by default 1."""


@dataclass(frozen=True)
class Change(Draw):
    """What the commands that start from a picture have in common."""

    num_images: int = 4
    seed: int = 0
    """Picture i has the seed `seed` + i, and with it can be made again alone."""
    image_size: int | None = None
    """Scale and crop what is given to a square of so many pixels first."""

    @property
    def prompts(self) -> tuple[str]:
        return (self.prompt,)


@dataclass(frozen=True)
class Edit(Change):
    image: Annotated[Positional[str], arg(metavar="IMAGE")] = ""
    """The picture to start from."""
    prompt: Annotated[Positional[str], arg(metavar="PROMPT")] = ""
    """What it should become; without a prompt, variations of the picture."""
    strength: float = 0.6
    """How much may change: 0 nothing, 1 everything."""


@dataclass(frozen=True)
class Inpaint(Change):
    image: Annotated[Positional[str], arg(metavar="IMAGE")] = ""
    """The picture; what the mask keeps of it stays as it is, bit for bit."""
    mask: Annotated[Positional[str], arg(metavar="MASK")] = ""
    """A picture of the same size, white where to repaint and black where to keep."""
    prompt: Annotated[Positional[str], arg(metavar="PROMPT")] = ""
    """What the picture shows then."""
    strength: float = 1.0
    """How much may change inside of the mask: 0 nothing, 1 everything."""


@dataclass(frozen=True)
class Interpolate(Draw):
    prompts: Positional[tuple[str, ...]] = ()
    """One prompt, or two to go from one to the other, each in quotes."""
    num: int = 8
    """Pictures, the two ends included."""
    seeds: tuple[int, ...] = (0,)
    """One seed, or two to go from one to the other."""


def edit(args: Sequence[str]) -> None:
    """Image to image and variations, as `args` ask; raises UsageError for bad arguments."""
    ask = parse(Edit(), args, prog="t2i edit", description="Make a picture more like a prompt, or variations of it.")
    check_change(ask, ask.image, 't2i edit photo.png "a zebra teapot"')
    image = open_picture(ask.image, "picture", ask.image_size)

    def draw(pipe) -> list[Image.Image]:
        from t2i.pipelines import LatentDiffusionImg2ImgPipeline
        from t2i.pipelines.commands import tasks

        given = options_for(pipe, ask, PASSED_ON, ask.pipeline)
        if isinstance(pipe, LatentDiffusionImg2ImgPipeline):
            return pipe.variations(image, ask.num_images, ask.strength, ask.prompt, ask.seed, **given)
        return tasks.edit(pipe, image, ask.strength, _seeded(ask) | given)

    run(ask, "image", draw, lambda images: save_beside(images, ask, image))


def inpaint(args: Sequence[str]) -> None:
    """Repaint a part of a picture, as `args` ask; raises UsageError for bad arguments."""
    ask = parse(Inpaint(), args, prog="t2i inpaint", description="Make a part of a picture anew.")
    check_change(ask, ask.image, 't2i inpaint photo.png mask.png "a zebra teapot"')
    if not ask.mask:
        raise UsageError("give a mask after the picture: a picture of its size, white where to repaint")
    image, mask = (
        open_picture(path, kind, ask.image_size) for path, kind in ((ask.image, "picture"), (ask.mask, "mask"))
    )
    if image.size != mask.size:
        sizes = [
            f"{path} has {found.width}×{found.height} pixels" for path, found in ((ask.image, image), (ask.mask, mask))
        ]
        raise UsageError(f"{' and '.join(sizes)}: scale one of them, or both with --image-size")

    def draw(pipe) -> list[Image.Image]:
        from t2i.pipelines import LatentDiffusionInpaintPipeline
        from t2i.pipelines.commands import tasks

        how = _seeded(ask) | options_for(pipe, ask, PASSED_ON, ask.pipeline)
        if isinstance(pipe, LatentDiffusionInpaintPipeline):
            return pipe(image=image, mask_image=mask, strength=ask.strength, **how).images
        return tasks.inpaint(pipe, image, mask, ask.strength, how)

    run(ask, "inpainting", draw, lambda images: save_beside(images, ask, image))


def _seeded(ask: Edit | Inpaint) -> dict:
    """The prompt, and a generator for each image; with nothing to guide to no guidance."""
    import torch

    generators = [torch.Generator().manual_seed(ask.seed + i) for i in range(ask.num_images)]
    how = {"prompt": ask.prompt, "num_images_per_prompt": ask.num_images, "generator": generators}
    return how if ask.prompt or ask.negative_prompt else how | {"guidance_scale": 1.0}


def interpolate(args: Sequence[str]) -> None:
    """Pictures from one prompt or seed to another, as `args` ask; raises UsageError for bad arguments."""
    ask = parse(Interpolate(), args, prog="t2i interpolate", description="Draw the way from one prompt to another.")
    if len(ask.prompts) not in (1, 2) or not all(p.strip() for p in ask.prompts):
        raise UsageError('give one prompt or two in quotes, as in: t2i interpolate "a red cat" "a blue car"')
    if len(ask.seeds) not in (1, 2):
        raise UsageError("--seeds takes one number or two, each at least 0")
    for seed in ask.seeds:
        check_seeds("--seeds", seed)
    check_distinct("--seeds", ask.seeds, "give two different ones, or a single one")
    check_distinct("the prompt", ask.prompts, "give two different ones, or a single one and two --seeds")
    if len(ask.prompts) == len(ask.seeds) == 1:
        raise UsageError('give a second prompt, or a second seed, as in: t2i interpolate "a red cat" --seeds 0 1')
    check_whole("--num", ask.num, least=2)
    _check_draw(ask, ask.prompts)
    prompts, seeds = (pair if len(pair) == 2 else pair * 2 for pair in (ask.prompts, ask.seeds))

    def draw(pipe) -> list[Image.Image]:
        check_draws_from_words(pipe, ask.pipeline)
        return pipe.interpolate(prompts, seeds, ask.num, **passed_on(ask))

    run(ask, None, draw, lambda images: _save_way(images, ask, prompts, seeds))


def check_change(ask: Change, given: str, example: str) -> None:
    """Raise UsageError unless something is given and the numbers can be."""
    if not given:
        raise UsageError(f"give a picture, as in: {example}")
    check_whole("--num-images", ask.num_images)
    check_seeds("--seed", ask.seed, ask.num_images)
    if ask.image_size is not None:
        check_whole("--image-size", ask.image_size, most=MAX_SIDE)
    _check_draw(ask, ask.prompts)


def _check_draw(ask: Draw, prompts: Sequence[str]) -> None:
    for prompt in (*prompts, ask.negative_prompt or ""):
        check_text("the prompt", prompt)
    numbers = (*PASSED_ON, "lora_scale", "strength")
    check_options({name: getattr(ask, name) for name in numbers if hasattr(ask, name)}, flags=True)
    check_out(ask.out)


def open_picture(path: str, kind: Literal["picture", "mask", "map"], size: int | None) -> Image.Image:
    """An image file, cut and resampled to a square where that is asked for.

    A picture is RGB, a mask grey; the pixels of a map are labels and stay as they are. It keeps its file's name, for
    messages. Raises ImageError, a ValueError, for a file that cannot be read, and for a mask that is not black and
    white.
    """
    image = open_image(path)
    if kind == "picture":
        image = to_rgb(image, path)
    elif kind == "mask":
        image = Image.fromarray(to_mask(image, path))
    if size is not None:
        how = Image.Resampling.NEAREST if kind == "map" else Image.Resampling.BICUBIC
        image = ImageOps.fit(image, (size, size), how)
    vars(image)["filename"] = printable(path)
    return image


def run(ask: Draw, task: str | None, draw: Callable, save: Callable[[list[Image.Image]], str]) -> None:
    """Open the pipeline, for a task if one is named or else as ours, draw with it, save, and say where and how long."""
    started = time.perf_counter()
    from t2i.pipelines.commands.tasks import for_task
    from t2i.pipelines.loading.auto import (  # torch takes seconds, mistakes should not
        as_latent_diffusion,
        open_pipeline,
    )

    check_scheduler(ask.scheduler)
    pipe = open_pipeline(ask.pipeline, ask.device, ask.lora, ask.lora_scale, ask.dtype)
    if task is None:
        pipe = as_latent_diffusion(pipe, ask.pipeline)
    else:
        check_draws_from_words(pipe, ask.pipeline)
        pipe = for_task(pipe, task, ask.pipeline)
    loaded = time.perf_counter()
    images = draw(pipe)
    drawn = time.perf_counter()
    say(save(images), len(images), {ask.pipeline: (drawn - loaded, loaded - started)})


def passed_on(ask: Draw) -> dict:
    """The options of a pipeline that were given."""
    return {name: getattr(ask, name) for name in PASSED_ON if getattr(ask, name) is not None}


def save_beside(images: list[Image.Image], ask: Change, original: Image.Image, name: str = "original") -> str:
    """Single pictures, or a sheet that begins with the original, under that name."""
    from t2i.data.toybox.sheet import contact_sheet

    if check_out(ask.out):
        return save_each(images, ask, ask.pipeline)
    labels = [name, *(f"{ask.prompt} · {ask.seed + i}".removeprefix(" · ") for i in range(len(images)))]
    sheet = contact_sheet([original, *images], labels, min(5, len(labels)), cell=192)
    made = record(ask, ask.prompts, ask.seed, ask.pipeline)
    return write_images([Output(sheet, Path(ask.out), made)], folder=False)


def _save_way(images: list[Image.Image], ask: Interpolate, prompts: Sequence[str], seeds: Sequence[int]) -> str:
    """Single pictures, numbered, or a strip."""
    from t2i.data.toybox.sheet import contact_sheet

    chunks = record(ask, ask.prompts, " ".join(map(str, ask.seeds)), ask.pipeline)
    if check_out(ask.out):
        digits = len(str(len(images) - 1))
        files = [Output(image, Path(ask.out) / f"{i:0{digits}}.png", chunks) for i, image in enumerate(images)]
        return write_images(files, folder=True)
    ends = [f"{prompt} · {seed}" for prompt, seed in zip(prompts, seeds, strict=True)]
    labels = [ends[0], *[""] * (len(images) - 2), ends[1]]
    return write_images([Output(contact_sheet(images, labels, 8, cell=128), Path(ask.out), chunks)], folder=False)
