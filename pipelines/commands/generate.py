"""`t2i generate "a zebra teapot" …`: images from prompts."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from PIL import Image
from tyro.conf import Positional, UseAppendAction, arg

from t2i.arguments import parse
from t2i.checks import MAX_SIDE, UsageError, check_distinct, check_whole, shortened
from t2i.pipelines.commands.common import (
    PipelineOptions,
    SeedOptions,
    call_options,
    check_prompts_suffice,
    check_scheduler,
    print_summary,
    save_each,
    save_grid,
)
from t2i.pipelines.commands.outputs import check_out
from t2i.pipelines.sampling_options import SamplingOptions

DEFAULT = "toybox/dalle"


@dataclass(frozen=True)
class Generate(SamplingOptions, PipelineOptions, SeedOptions):
    """Options of `t2i generate`."""

    prompts: Annotated[Positional[tuple[str, ...]], arg(metavar="PROMPT …")] = ()
    """One or more prompts, each in quotes."""
    pipeline: UseAppendAction[tuple[str, ...]] = ()
    """Embedded system, folder, or model of the Hub, by default toybox/dalle; may be repeated to compare several."""
    height: int | None = None
    """Height of the images in pixels; by default the pipeline's own. DALL·E and Muse generate only that."""
    width: int | None = None
    """Width of the images in pixels; by default the pipeline's own."""


def main(args: Sequence[str]) -> None:
    """Generate the images and print where they are. Raises UsageError for invalid arguments."""
    options = parse(Generate(), args, prog="t2i generate", description="Generate images from prompts.")
    _check(options)

    from t2i.pipelines.loading.auto import open_pipeline  # after all checks: loading torch takes seconds

    check_scheduler(options.scheduler)
    pipes, loading = {}, {}
    for name in options.pipeline or (DEFAULT,):
        started = time.perf_counter()
        pipes[name] = open_pipeline(name, options.device, options.lora, options.lora_scale, options.dtype)
        loading[name] = time.perf_counter() - started
    single = check_out(options.out)
    images: dict[str, list[Image.Image]] = {}
    seconds: dict[str, tuple[float, float]] = {}
    written: list[str] = []
    try:
        for name, pipe in pipes.items():
            started = time.perf_counter()
            images[name] = generate(pipe, options, name)
            seconds[name] = time.perf_counter() - started, loading[name]
            if single:
                written.append(save_each(images[name], options, options.prompts, name, subfolder=len(pipes) > 1))
                print_summary(written[-1], len(images[name]), {name: seconds[name]})
        if not single:
            print_summary(_save_grid(images, options), sum(map(len, images.values())), seconds)
    except KeyboardInterrupt:
        print(f"interrupted; written so far: {', '.join(written) or 'nothing'}", file=sys.stderr)
        raise


def generate(pipe, options: Generate, name: str = "this pipeline") -> list[Image.Image]:
    """The images, those of the first prompt first; image i of each prompt has the seed `options.seed` + i.

    Raises UsageError, naming the pipeline as `name`, for options that it does not take.
    """
    from t2i.pipelines.commands.tasks import finite_images, for_task

    check_prompts_suffice(pipe, name)
    pipe = for_task(pipe, "text", name)
    values = call_options(pipe, options, name)
    n, generators = options.num_images, options.generators(len(options.prompts))
    return finite_images(pipe, list(options.prompts), num_images_per_prompt=n, generator=generators, **values)


def _check(options: Generate) -> None:
    """Raise UsageError or ValueError for what is wrong before anything is loaded."""
    if not options.prompts or not all(p.strip() for p in options.prompts):
        raise UsageError('give a prompt in quotes, as in: t2i generate "an avocado armchair"')
    options.check_seed_options()
    options.sampling_options()
    options.check_reranker()
    options.check_pipeline_options(options.prompts)
    for name, side in (("--height", options.height), ("--width", options.width)):
        if side is not None:
            check_whole(name, side, most=MAX_SIDE)
    if "" in options.pipeline:
        raise UsageError("--pipeline is empty; give the name of an embedded system, a folder, or a model of the Hub")
    check_distinct("--pipeline", options.pipeline)
    _check_distinct_prompts(options.prompts)


def _check_distinct_prompts(prompts: Sequence[str]) -> None:
    """Raise UsageError for a prompt given twice, and note that each word without quotes is a prompt."""
    if len(prompts) < 2 or any(" " in prompt for prompt in prompts):
        check_distinct("the prompt", prompts, "its images would be the same; for more give --num-images")
        return
    remedy = f'for a single one, put it in quotes: "{shortened(" ".join(prompts))[1:-1]}"'
    check_distinct("the prompt", prompts, remedy)
    print(f"note: these are {len(prompts)} prompts of one word each; {remedy}", file=sys.stderr)


def _save_grid(images: dict[str, list[Image.Image]], options: Generate) -> str:
    """One grid with the prompt under each image, up to four in a row, those of one pipeline after the other's."""
    from t2i.contact_sheet import contact_sheet, whole_cell

    labels = [f"{p} · {options.seed + i}" for p in options.prompts for i in range(options.num_images)]
    if len(images) > 1:
        labels = [f"{label} · {name}" for name in images for label in labels]
    columns = min(4, options.num_images) if options.num_images != 9 else 3
    shown = [image for each in images.values() for image in each]
    grid = contact_sheet(shown, labels, columns, cell=whole_cell(shown))
    return save_grid(grid, options, options.prompts, options.seed, " | ".join(images))
