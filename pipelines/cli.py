"""`t2i generate "a zebra teapot" …`"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from PIL import Image, PngImagePlugin
from tyro.conf import Positional, UseAppendAction, arg

from t2i import __version__
from t2i.cli_errors import Dtype, UsageError, parse
from t2i.files import slug


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
    """A PNG file for a labelled grid, or a folder (its name ends in /) for single pictures."""
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
RECORDED = (*SETTINGS, "lora", "lora_scale", "dtype", "strength", "image_size", "num")  # the last three of edit_cli.py


def main(args: Sequence[str]) -> None:
    """Draw what `args` ask for and say where it is; raises UsageError for bad arguments."""
    ask = parse(Generate(), args, prog="t2i generate", description="Draw pictures of prompts.")
    if not ask.prompts or not all(p.strip() for p in ask.prompts):
        raise UsageError('give a prompt in quotes, as in: t2i generate "an avocado armchair"')
    if ask.num_images < 1:
        raise UsageError(f"--num-images must be at least 1, not {ask.num_images}")
    if ask.seed < 0:
        raise UsageError(f"--seed must be at least 0, not {ask.seed}")
    single = is_folder(ask.out)

    from t2i.pipelines.auto import open_pipeline  # not before: torch takes seconds to import, mistakes should not

    loading, pipes = time.perf_counter(), {}
    for name in ask.pipeline or (DEFAULT,):
        pipe = open_pipeline(name, ask.device, ask.lora, ask.lora_scale, ask.dtype)
        pipes[name] = pipe, time.perf_counter() - loading
        loading = time.perf_counter()
    drawn: dict[str, list[Image.Image]] = {}
    for name, (pipe, loaded) in pipes.items():
        drawing = time.perf_counter()
        drawn[name] = draw(pipe, ask, name)
        where = save_each(drawn[name], ask, name, apart=len(pipes) > 1) if single else Path(ask.out)
        say(where, len(drawn[name]), time.perf_counter() - drawing, loaded, name)
    if not single:
        save_grid(drawn, ask)


def say(where: Path, num: int, drawing: float, loading: float, pipeline: str) -> None:
    """Where the pictures are, and the seconds that it took."""
    print(f"{where}: {num} picture{'s' * (num > 1)} in {drawing:.1f} s (and {loading:.1f} s to load {pipeline})")


def draw(pipe, ask: Generate, name: str = "this pipeline") -> list[Image.Image]:
    """The pictures, those of the first prompt first; picture i of each prompt from the seed `ask.seed` + i."""
    import inspect

    import torch

    check_draws_from_words(pipe, name)
    given = {name: getattr(ask, name) for name in SETTINGS if getattr(ask, name) is not None}
    takes = inspect.signature(pipe.__call__).parameters
    if odd := [name for name in given if name not in takes]:
        raise UsageError(f"{name} takes no --{odd[0].replace('_', '-')}")
    seeds = list(range(ask.seed, ask.seed + ask.num_images)) * len(ask.prompts)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipe(list(ask.prompts), num_images_per_prompt=ask.num_images, generator=generators, **given).images


def check_draws_from_words(pipe, name: str) -> None:
    """Raise UsageError, with the command to take, for a pipeline that asks for a small picture or a map."""
    if type(pipe).__name__ in _NEEDS:
        what, command = _NEEDS[type(pipe).__name__]
        raise UsageError(f"{name} draws from {what}: t2i {command} --pipeline {name}")


def save_grid(drawn: dict[str, list[Image.Image]], ask: Generate) -> Path:
    """One sheet, a prompt under each picture, up to four in a row, the pictures of one pipeline after the other."""
    from t2i.data.toybox.sheet import contact_sheet

    labels = [f"{p} · {ask.seed + i}" for p in ask.prompts for i in range(ask.num_images)]
    if len(drawn) > 1:
        labels = [f"{label} · {name}" for name in drawn for label in labels]
    columns = min(4, ask.num_images) if ask.num_images != 9 else 3
    sheet = contact_sheet([image for images in drawn.values() for image in images], labels, columns, cell=192)
    return write_picture(sheet, Path(ask.out), record(ask, ask.prompts, ask.seed, " | ".join(drawn)))


def save_each(images: list[Image.Image], ask, system: str, apart: bool = False) -> Path:
    """One file a picture, named after its prompt and seed, in the folder `ask.out`; `apart` in one of the system's."""
    names = [slug(p)[:60].strip("-") or "picture" for p in ask.prompts]
    if len(set(names)) < len(names):  # prompts in other scripts, or alike up to punctuation
        names = [f"{i}-{name}" for i, name in enumerate(names)]
    seeds = range(ask.seed, ask.seed + ask.num_images)
    wanted = [(prompt, name, seed) for prompt, name in zip(ask.prompts, names, strict=True) for seed in seeds]
    folder = Path(ask.out) / slug(system) if apart else Path(ask.out)
    for image, (prompt, name, seed) in zip(images, wanted, strict=True):
        write_picture(image, folder / f"{name}-{seed}.png", record(ask, [prompt], seed, system))
    return folder


def record(ask, prompts: Sequence[str], seed: int | str, system: str) -> dict[str, str]:
    """What it takes to make a picture again, as the text chunks of its PNG file; `ask` is a command's options."""
    given = {k: v for k, v in dataclasses.asdict(ask).items() if k in RECORDED and v is not None}
    return {
        "prompt": " | ".join(prompts),
        "seed": str(seed),
        "system": system,
        "version": f"t2i {__version__}",
        "settings": json.dumps(given),
        **{name: getattr(ask, name) for name in ("image", "mask", "map") if hasattr(ask, name)},
    }


def write_picture(image: Image.Image, path: Path, record: dict[str, str]) -> Path:
    """As PNG, whole or not at all, with the record as its text chunks; returns the path."""
    chunks = PngImagePlugin.PngInfo()
    for key, value in record.items():
        chunks.add_itxt(key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    image.save(part, format="PNG", pnginfo=chunks)
    part.replace(path)
    return path


def is_folder(out: str) -> bool:
    """Raises UsageError for a file that would not be a PNG."""
    if out.endswith(("/", os.sep)) or Path(out).is_dir():
        return True
    if not out.lower().endswith(".png"):
        raise UsageError(f"--out must end in .png (a grid) or / (single pictures), not {out!r}")
    return False
