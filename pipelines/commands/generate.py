"""`t2i generate "a zebra teapot" …`"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from PIL import Image
from tyro.conf import Positional, UseAppendAction, arg

from t2i import __version__
from t2i.arguments import parse
from t2i.checks import (
    UsageError,
    check_choice,
    check_distinct,
    check_options,
    check_seeds,
    check_text,
    check_whole,
    shortened,
)
from t2i.devices import Dtype
from t2i.files import slug
from t2i.pipelines.outputs import Output, check_out, file_names, printable, write_images


@dataclass(frozen=True)
class Generate:
    prompts: Positional[tuple[str, ...]] = ()
    """One or more prompts, each in quotes."""
    pipeline: UseAppendAction[tuple[str, ...]] = ()
    """An embedded system, a folder, or a model of the Hub; by default toybox/dalle. Given more than once, all of them
    draw, side by side."""
    num_images: int = 4
    """Pictures of each prompt."""
    seed: int = 0
    """Picture i of each prompt has the seed `seed` + i, and with it can be made again alone."""
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
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    num_candidates: Annotated[int | None, arg(aliases=["--best-of"])] = None
    """Draw so many for each picture and keep the one that the prompt explains best."""
    num_inference_steps: int | None = None
    """Steps of a diffusion pipeline."""
    scheduler: str | None = None
    """Another sampler of a diffusion pipeline: 'ddim', 'dpm++', 'euler', … """
    lora: str | None = None
    """A folder of `t2i train lora`, for a pipeline of latent diffusion: the one that it was trained on."""
    lora_scale: float | None = None
    """How much of it: 0 nothing, 1 all; by default 1."""


SETTINGS = (
    "negative_prompt",
    "guidance_scale",
    "temperature",
    "top_k",
    "top_p",
    "num_candidates",
    "num_inference_steps",
    "scheduler",
)
DEFAULT = "toybox/dalle"
_NEEDS = {  # pipelines that draw from more than words, and with which command
    "LatentDiffusionUpscalePipeline": ("a small picture", "upscale PICTURE"),
    "LatentDiffusionLayoutPipeline": ("a map", "layout MAP"),
}
RECORDED = (  # the second line is of edit_cli.py, the last of sample_cli.py
    *(*SETTINGS, "lora", "lora_scale", "dtype"),
    *("strength", "image_size", "num"),
    *("label", "complete", "steps", "method", "eta"),
)


def main(args: Sequence[str]) -> None:
    """Generate what `args` ask for and say where it is; raises UsageError for bad arguments."""
    ask = parse(Generate(), args, prog="t2i generate", description="Generate images of prompts.")
    single = _check(ask)

    from t2i.pipelines.loading.auto import (
        open_pipeline,  # not before: torch takes seconds to import, mistakes should not
    )

    check_scheduler(ask.scheduler)
    loading, pipes = time.perf_counter(), {}
    if "" in ask.pipeline:
        raise UsageError("--pipeline is empty; give the name of an embedded system, a folder, or a model of the Hub")
    check_distinct("--pipeline", ask.pipeline)
    for name in ask.pipeline or (DEFAULT,):
        pipe = open_pipeline(name, ask.device, ask.lora, ask.lora_scale, ask.dtype)
        pipes[name] = pipe, time.perf_counter() - loading
        loading = time.perf_counter()
    written: list[str] = []
    images: dict[str, list[Image.Image]] = {}
    took: dict[str, tuple[float, float]] = {}
    try:
        for name, (pipe, loaded) in pipes.items():
            started = time.perf_counter()
            images[name] = draw(pipe, ask, name)
            took[name] = time.perf_counter() - started, loaded
            if single:
                where = save_each(images[name], ask, name, apart=len(pipes) > 1)
                written.append(where)
                say(where, len(images[name]), {name: took[name]})
        if not single:
            where = save_grid(images, ask)
            say(where, sum(map(len, images.values())), took)
    except KeyboardInterrupt:
        print(f"interrupted; written so far: {', '.join(written) or 'nothing'}", file=sys.stderr)
        raise


def _check(ask: Generate) -> bool:
    """Raise UsageError or ValueError for what is wrong before anything is loaded; whether single images are written."""
    if not ask.prompts or not all(p.strip() for p in ask.prompts):
        raise UsageError('give a prompt in quotes, as in: t2i generate "an avocado armchair"')
    for prompt in (*ask.prompts, ask.negative_prompt or ""):
        check_text("the prompt", prompt)
    check_whole("--num-images", ask.num_images)
    check_seeds("--seed", ask.seed, ask.num_images)
    check_options({name: getattr(ask, name) for name in (*SETTINGS, "lora_scale")}, flags=True)
    _check_distinct(ask.prompts)
    return check_out(ask.out)


def _check_distinct(prompts: Sequence[str]) -> None:
    """Refuse a prompt that is given twice, and say that words without quotes are prompts of their own."""
    if len(prompts) < 2 or any(" " in prompt for prompt in prompts):
        check_distinct("the prompt", prompts, "its images would be the same; for more give --num-images")
        return
    quoted = f'for a single one, put it in quotes: "{shortened(" ".join(prompts))[1:-1]}"'
    check_distinct("the prompt", prompts, quoted)
    print(f"note: these are {len(prompts)} prompts of one word each; {quoted}", file=sys.stderr)


def check_scheduler(name: str | None) -> None:
    """Raise UsageError, naming the nearest, for a scheduler that is not there."""
    from t2i.diffusion.schedulers import SCHEDULERS

    if name is not None:
        check_choice("scheduler", name, SCHEDULERS)


def say(where: str, num: int, took: Mapping[str, tuple[float, float]]) -> None:
    """What was written and where, and of each pipeline the seconds that it took to generate and to load."""
    images = f"{where}: {num} image{'s' * (num > 1)}"
    if len(took) == 1:
        [(name, (seconds, loading))] = took.items()
        print(f"{images} in {seconds:.1f} s (and {loading:.1f} s to load {printable(name)})")
        return
    each = [f"{printable(name)} in {s:.1f} s (and {loading:.1f} s to load)" for name, (s, loading) in took.items()]
    print(f"{images}, {num // len(took)} of each pipeline: {', '.join(each)}")


def draw(pipe, ask: Generate, name: str = "this pipeline") -> list[Image.Image]:
    """The images, those of the first prompt first; image i of each prompt from the seed `ask.seed` + i."""
    import torch

    from t2i.pipelines.commands.tasks import for_task

    check_draws_from_words(pipe, name)
    pipe = for_task(pipe, "text", name)
    given = options_for(pipe, ask, SETTINGS, name)
    seeds = list(range(ask.seed, ask.seed + ask.num_images)) * len(ask.prompts)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return finite_images(pipe, list(ask.prompts), num_images_per_prompt=ask.num_images, generator=generators, **given)


def finite_images(pipe, *args, **options) -> list[Image.Image]:
    """The images of a call. Raises FloatingPointError where they are not finite, of diffusers' own pipelines too: those
    would write black ones.
    """
    import torch
    from diffusers.image_processor import VaeImageProcessor

    from t2i.images import check_finite

    if type(pipe).__module__.startswith("t2i."):
        return pipe(*args, **options).images
    arrays = pipe(*args, **options, output_type="np").images
    check_finite(torch.from_numpy(arrays))
    return VaeImageProcessor.numpy_to_pil(arrays)


def options_for(pipe, ask, names: Sequence[str], pipeline: str) -> dict:
    """Those of the options that were given, for a call of the pipeline; of diffusers' own, --scheduler is set here.

    Raises UsageError for one that it does not take.
    """
    import inspect

    from t2i.pipelines.commands.tasks import use_scheduler

    given = {name: getattr(ask, name) for name in names if getattr(ask, name) is not None}
    takes = inspect.signature(pipe.__call__).parameters
    if "scheduler" in given and "scheduler" not in takes:
        use_scheduler(pipe, given.pop("scheduler"), pipeline)
    if odd := [name for name in given if name not in takes]:
        raise UsageError(f"{pipeline} takes no --{odd[0].replace('_', '-')}")
    return given


def check_draws_from_words(pipe, name: str) -> None:
    """Raise UsageError, with the command to take, for a pipeline that asks for a small picture or a map."""
    if type(pipe).__name__ in _NEEDS:
        what, command = _NEEDS[type(pipe).__name__]
        raise UsageError(f"{name} draws from {what}: t2i {command} --pipeline {name}")


def save_grid(images: dict[str, list[Image.Image]], ask: Generate) -> str:
    """One sheet, a prompt under each image, up to four in a row, those of one pipeline after the other's; its name."""
    from t2i.data.toybox.sheet import contact_sheet

    labels = [f"{p} · {ask.seed + i}" for p in ask.prompts for i in range(ask.num_images)]
    if len(images) > 1:
        labels = [f"{label} · {name}" for name in images for label in labels]
    columns = min(4, ask.num_images) if ask.num_images != 9 else 3
    sheet = contact_sheet([image for several in images.values() for image in several], labels, columns, cell=192)
    made = record(ask, ask.prompts, ask.seed, " | ".join(images))
    return write_images([Output(sheet, Path(ask.out), made)], folder=False)


def save_each(images: list[Image.Image], ask, system: str, apart: bool = False) -> str:
    """One file an image, named after its prompt and seed, in the folder `ask.out`; `apart` in one of the system's."""
    seeds = range(ask.seed, ask.seed + ask.num_images)
    wanted = [(p, name, seed) for p, name in zip(ask.prompts, file_names(ask.prompts), strict=True) for seed in seeds]
    folder = Path(ask.out) / slug(system) if apart else Path(ask.out)
    outputs = [
        Output(image, folder / f"{name}-{seed}.png", record(ask, [prompt], seed, system))
        for image, (prompt, name, seed) in zip(images, wanted, strict=True)
    ]
    return write_images(outputs, folder=True)


def record(ask, prompts: Sequence[str], seed: int | str, system: str) -> dict[str, str]:
    """What it takes to make an image again, as the text chunks of its PNG file; `ask` is a command's options."""
    given = {k: v for k, v in dataclasses.asdict(ask).items() if k in RECORDED and v is not None and v is not False}
    return {
        "prompt": " | ".join(prompts),
        "seed": str(seed),
        "system": printable(system),
        "version": f"t2i {__version__}",
        "settings": json.dumps(given),
        **{name: printable(getattr(ask, name)) for name in ("image", "mask", "map") if hasattr(ask, name)},
    }
