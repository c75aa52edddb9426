"""What the commands that generate images share: their options, how a pipeline is called, and how images are saved."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from PIL import Image, ImageOps

from t2i import __version__
from t2i.checks import MAX_SIDE, UsageError, check_choice, check_options, check_seeds, check_text, check_whole
from t2i.data.image_file import open_image, to_mask, to_rgb
from t2i.devices import PipelineDtype
from t2i.files import slug
from t2i.pipelines.commands.outputs import Output, check_out, file_names, printable, write_images
from t2i.pipelines.sampling_options import SAMPLING_OPTIONS, DiffusionOptions

RECORDED = (  # the options that the chunk `settings` of a PNG file holds, where they are set
    *SAMPLING_OPTIONS,
    *("negative_prompt", "lora", "lora_scale", "dtype", "strength", "image_size", "height", "width"),
    *("keep", "text_temperature", "text_top_p"),  # of t2i complete and t2i create
    *("label", "complete", "steps", "method", "eta"),  # of t2i sample
    *("strengths", "num_components"),  # of t2i text-diff and t2i reconstruct
)
COMMAND_OF = {  # pipelines that are conditioned on more than a prompt: on what, and the command for it
    "LatentDiffusionUpscalePipeline": ("a low-resolution image", "upscale IMAGE"),
    "LatentDiffusionLayoutPipeline": ("a label map", "layout MAP"),
}


@dataclass(frozen=True)
class LoadingOptions:
    """How a pipeline is opened."""

    device: str = "auto"
    """'cpu', 'cuda', 'mps', …; by default the fastest available."""
    dtype: PipelineDtype | None = None
    """Precision of the weights and of the computation, by default float32; half precision takes half the memory, and
    int8 (DALL·E, Muse) less time on a CPU."""
    lora: str | None = None
    """Folder of `t2i train lora`, or LoRA file, that was trained on this pipeline; by default none."""
    lora_scale: float | None = None
    """Weight of the LoRA, from 0 (none) to 1 (full, the default)."""


@dataclass(frozen=True)
class PipelineOptions(LoadingOptions):
    """How a pipeline is opened, what its images should not show, and where they go."""

    out: str = "t2i.png"
    """File for a labelled grid (.png, .jpg, .webp), or folder (ending in /) for single images; never overwritten."""
    negative_prompt: str | None = None
    """What the images should not show; by default nothing in particular."""

    def check_pipeline_options(self, prompts: Sequence[str]) -> None:
        """Raise UsageError or ValueError for prompts, numbers and outputs that are not valid."""
        for prompt in (*prompts, self.negative_prompt or ""):
            check_text("the prompt", prompt)
        check_options({name: getattr(self, name, None) for name in ("lora_scale", "strength")}, flags=True)
        check_out(self.out)


@dataclass(frozen=True)
class SeedOptions:
    """How many images a command generates, and from which seeds."""

    num_images: int = 4
    """Images per prompt."""
    seed: int = 0
    """Seed of the first image; image i has the seed `seed` + i, so that it does not depend on how many there are."""

    def check_seed_options(self) -> None:
        """Raise UsageError for numbers out of range."""
        check_whole("--num-images", self.num_images)
        check_seeds("--seed", self.seed, self.num_images)

    def generators(self, num_prompts: int = 1) -> list:
        """One `torch.Generator` per image, those of the first prompt first."""
        import torch

        seeds = range(self.seed, self.seed + self.num_images)
        return [torch.Generator().manual_seed(seed) for _ in range(num_prompts) for seed in seeds]


class OnePipelineOptions(Protocol):
    """What `run` reads of the options of a command with a single pipeline."""

    @property
    def pipeline(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> PipelineDtype | None: ...
    @property
    def lora(self) -> str | None: ...
    @property
    def lora_scale(self) -> float | None: ...
    @property
    def scheduler(self) -> str | None: ...


@dataclass(frozen=True)
class LatentDiffusionOptions(DiffusionOptions, PipelineOptions):
    """Options of the commands that need latent diffusion."""

    pipeline: str = "toybox/ldm"
    """A latent diffusion pipeline: an embedded system, a folder, or a model of the Hub."""


@dataclass(frozen=True)
class ImageOptions(LatentDiffusionOptions, SeedOptions):
    """Options of the commands that take an image or a label map."""

    image_size: int | None = None
    """Resize and crop the given files to squares of this many pixels first; by default they keep their size."""

    def check(self, given: str, prompt: str, example: str, what: str = "an image") -> None:
        """Raise UsageError or ValueError unless `given`, the first file, is named, and the options are valid."""
        if not given:
            raise UsageError(f"give {what}, as in: {example}")
        self.check_seed_options()
        if self.image_size is not None:
            check_whole("--image-size", self.image_size, most=MAX_SIDE)
        self.sampling_options()
        self.check_pipeline_options([prompt])


# --- input and pipelines ----------------------------------------------------------------------------------------------


def open_input(path: str, kind: Literal["image", "mask", "map"], size: int | None) -> Image.Image:
    """An image file, cropped and resized to a square of `size` where that is given.

    An image becomes RGB, a mask grey; the pixels of a label map stay as they are. It keeps its file's name, for
    messages. Raises ImageError, a ValueError, for a file that cannot be read, and for a mask that is not black and
    white.
    """
    image = open_image(path)
    if kind == "image":
        image = to_rgb(image, path)
    elif kind == "mask":
        image = Image.fromarray(to_mask(image, path))
    if size is not None:
        resampling = Image.Resampling.NEAREST if kind == "map" else Image.Resampling.BICUBIC
        image = ImageOps.fit(image, (size, size), resampling)
    vars(image)["filename"] = printable(path)
    return image


def check_scheduler(name: str | None) -> None:
    """Raise UsageError, naming the nearest, for an unknown scheduler. Loads torch."""
    from t2i.diffusion.schedulers import SCHEDULERS

    if name is not None:
        check_choice("scheduler", name, SCHEDULERS)


def check_prompts_suffice(pipe, name: str) -> None:
    """Raise UsageError, with the command to use, for a pipeline that also takes a low-resolution image or a map."""
    if type(pipe).__name__ in COMMAND_OF:
        condition, command = COMMAND_OF[type(pipe).__name__]
        raise UsageError(f"{name} generates from {condition}: t2i {command} --pipeline {name}")


def call_options(pipe, options: DiffusionOptions, name: str, method: Callable | None = None) -> dict[str, Any]:
    """The options that are set, for a call of the pipeline; of diffusers' own pipelines, the scheduler is set here.

    Args:
        method: the method that is called instead of the pipeline itself.

    Raises UsageError for an option that the pipeline, opened as `name`, or the method does not take.
    """
    import inspect

    from t2i.pipelines.commands.tasks import use_scheduler

    further = {name: getattr(options, name, None) for name in ("negative_prompt", "height", "width")}
    values = options.sampling_options() | {name: value for name, value in further.items() if value is not None}
    takes = inspect.signature(method or pipe.__call__).parameters
    if method is None and "scheduler" in values and "scheduler" not in takes:
        use_scheduler(pipe, values.pop("scheduler"), name)
    check_takes(name, [option for option in values if option not in takes])
    return values


def check_takes(name: str, unknown: Sequence[str], when: str = "") -> None:
    """Raise UsageError for the first of the options that a pipeline or model does not take."""
    if unknown:
        raise UsageError(f"{name} takes no --{unknown[0].replace('_', '-')}{when}")


def run(
    options: OnePipelineOptions,
    task: Literal["image", "inpainting", "tokens", "embeddings"] | None,
    generate: Callable[[Any], list[Image.Image]],
    save: Callable[[list[Image.Image]], str],
) -> None:
    """Open the pipeline (for a task, or as t2i's latent diffusion), generate, save, and print where and how long.

    The task "tokens" is what only an autoregressive pipeline does, "embeddings" what only DALL·E 2 does.
    """
    started = time.perf_counter()
    from t2i.pipelines.commands.tasks import for_task  # after all checks: loading torch takes seconds
    from t2i.pipelines.loading.auto import as_autoregressive, as_latent_diffusion, as_unclip, open_pipeline

    check_scheduler(options.scheduler)
    pipe = open_pipeline(options.pipeline, options.device, options.lora, options.lora_scale, options.dtype)
    if task is None:
        pipe = as_latent_diffusion(pipe, options.pipeline)
    elif task == "tokens":
        pipe = as_autoregressive(pipe, options.pipeline)
    elif task == "embeddings":
        pipe = as_unclip(pipe, options.pipeline)
    else:
        check_prompts_suffice(pipe, options.pipeline)
        pipe = for_task(pipe, task, options.pipeline)
    loaded = time.perf_counter()
    images = generate(pipe)
    generated = time.perf_counter()
    print_summary(save(images), len(images), {options.pipeline: (generated - loaded, loaded - started)})


# --- output -----------------------------------------------------------------------------------------------------------


def print_summary(where: str, num: int, seconds: Mapping[str, tuple[float, float]]) -> None:
    """Print what was written where, and for each pipeline the seconds that generating and loading took."""
    images = f"{where}: {num} image{'s' * (num > 1)}"
    if len(seconds) == 1:
        [(name, (generating, loading))] = seconds.items()
        print(f"{images} in {generating:.1f} s (and {loading:.1f} s to load {printable(name)})")
        return
    each = [f"{printable(name)} in {s:.1f} s (and {loading:.1f} s to load)" for name, (s, loading) in seconds.items()]
    print(f"{images}, {num // len(seconds)} of each pipeline: {', '.join(each)}")


def save_each(
    images: list[Image.Image], options, prompts: Sequence[str], pipeline: str, subfolder: bool = False
) -> str:
    """One file per image, named after its prompt and seed, in the folder `options.out`, or in one in it."""
    folder = Path(options.out) / slug(pipeline) if subfolder else Path(options.out)
    seeds = range(options.seed, options.seed + options.num_images)
    places = [(p, name, seed) for p, name in zip(prompts, file_names(prompts), strict=True) for seed in seeds]
    outputs = [
        Output(image, folder / f"{name}-{seed}.png", record(options, [prompt], seed, pipeline))
        for image, (prompt, name, seed) in zip(images, places, strict=True)
    ]
    return write_images(outputs, folder=True)


def save_with_input(
    images: list[Image.Image], options, prompt: str, given: Image.Image, label: str = "original"
) -> str:
    """Single images, or a grid that begins with the image or map they were generated from, under that label."""
    from t2i.contact_sheet import contact_sheet, whole_cell

    if check_out(options.out):
        return save_each(images, options, [prompt], options.pipeline)
    labels = [label, *(f"{prompt} · {options.seed + i}".removeprefix(" · ") for i in range(len(images)))]
    grid = contact_sheet([given, *images], labels, min(5, len(labels)), cell=whole_cell(images))
    return save_grid(grid, options, [prompt], options.seed, options.pipeline)


def save_series(
    images: list[Image.Image], labels: Sequence[str], options, prompts: Sequence[str], seed: int | str
) -> str:
    """Single images, numbered, or a strip with a label under each."""
    from t2i.contact_sheet import contact_sheet

    if check_out(options.out):
        text = record(options, prompts, seed, options.pipeline)
        digits = len(str(len(images) - 1))
        files = [Output(image, Path(options.out) / f"{i:0{digits}}.png", text) for i, image in enumerate(images)]
        return write_images(files, folder=True)
    return save_grid(contact_sheet(images, labels, 8, cell=128), options, prompts, seed, options.pipeline)


def save_grid(grid: Image.Image, options, prompts: Sequence[str], seed: int | str, pipeline: str) -> str:
    """The file `options.out`, with what it takes to generate it again."""
    return write_images([Output(grid, Path(options.out), record(options, prompts, seed, pipeline))], folder=False)


def record(options, prompts: Sequence[str], seed: int | str, pipeline: str) -> dict[str, str]:
    """What it takes to generate an image again, as the text chunks of its PNG file."""
    values = dataclasses.asdict(options)
    # An image of one seed does not depend on how many there are, one of an interpolation does.
    recorded = RECORDED if isinstance(options, SeedOptions) else (*RECORDED, "num_images")
    settings = {k: v for k, v in values.items() if k in recorded and v is not None and v is not False}
    return {
        "prompt": " | ".join(prompts),
        "seed": str(seed),
        "system": printable(pipeline),
        "version": f"t2i {__version__}",
        "settings": json.dumps(settings),
        **{name: printable(values[name]) for name in ("image", "mask", "map") if name in values},
    }
