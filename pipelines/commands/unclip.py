"""Commands of DALL·E 2: `t2i variations`, `t2i text-diff` and `t2i reconstruct`, each of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from PIL import Image
from tyro.conf import Positional, arg

from t2i.arguments import Hidden, parse
from t2i.checks import MAX_SIDE, UsageError, check_distinct, check_real, check_seeds, check_whole
from t2i.pipelines.commands.common import (
    PipelineOptions,
    SeedOptions,
    call_options,
    open_input,
    run,
    save_series,
    save_with_input,
)
from t2i.pipelines.sampling_options import DiffusionOptions

DEFAULT = "runs/unclip-decoder/latest"


@dataclass(frozen=True)
class EmbeddingOptions(DiffusionOptions, PipelineOptions):
    """Options of the commands that work on the CLIP embedding of an image."""

    image: Annotated[Positional[str], arg(metavar="IMAGE")] = ""
    """The image."""
    pipeline: str = DEFAULT
    """Folder of a DALL·E 2 system or of its decoder, as `t2i train unclip-decoder` writes it."""
    image_size: int | None = None
    """Resize and crop the image to a square of this many pixels first; by default it keeps its size."""
    # Options of other pipelines; the sampler is DDIM.
    scheduler: Hidden[str | None] = None
    negative_prompt: Hidden[str | None] = None
    lora: Hidden[str | None] = None
    lora_scale: Hidden[float | None] = None

    def check(self, example: str, prompts: Sequence[str] = ()) -> None:
        """Raise UsageError or ValueError for options that are not valid."""
        if not self.image:
            raise UsageError(f"give an image, as in: {example}")
        if self.image_size is not None:
            check_whole("--image-size", self.image_size, most=MAX_SIDE)
        self.sampling_options()
        self.check_pipeline_options(prompts)
        if self.pipeline == DEFAULT and not Path(DEFAULT).exists():
            raise UsageError(
                f"there is no {DEFAULT} yet: train it with `t2i train unclip-decoder`, or give another --pipeline"
            )


@dataclass(frozen=True)
class Variations(EmbeddingOptions, SeedOptions):
    """Options of `t2i variations`."""

    eta: float | None = None
    """Noise of DDIM sampling: 0 reconstructs the image, 1 (the default) varies it the most."""


@dataclass(frozen=True)
class TextDiff(EmbeddingOptions):
    """Options of `t2i text-diff`."""

    base: Annotated[Positional[str], arg(metavar="BASE")] = ""
    """What the image shows, as in "a cat"."""
    target: Annotated[Positional[str], arg(metavar="TARGET")] = ""
    """What it is to show, as in "a zebra cat"."""
    strengths: tuple[float, ...] = (0.25, 0.5)
    """How far the embedding moves, from 0 (the image) to 1 (the difference alone); one image for each."""


@dataclass(frozen=True)
class Reconstruct(EmbeddingOptions):
    """Options of `t2i reconstruct`."""

    num_components: tuple[int, ...] = (4, 16, 64)
    """Principal components of the embedding that are kept; one image for each number."""
    seed: int = 0
    """Seed of the noise, which is the same for all images."""


def variations(args: Sequence[str]) -> None:
    """Variations of an image. Raises UsageError for invalid arguments."""
    description = "Generate variations of an image from its CLIP embedding."
    options = parse(Variations(), args, prog="t2i variations", description=description)
    options.check("t2i variations photo.png")
    options.check_seed_options()
    if options.eta is not None:
        check_real("--eta", options.eta, most=1.0)
    image = open_input(options.image, "image", options.image_size)
    eta = {} if options.eta is None else {"eta": options.eta}

    def generate(pipe) -> list[Image.Image]:
        how = _call_options(pipe, pipe.variations, options)
        return pipe.variations(image, options.num_images, seed=options.seed, **eta, **how)

    run(options, "embeddings", generate, lambda images: save_with_input(images, options, "", image))


def text_diff(args: Sequence[str]) -> None:
    """Change an image as one text differs from another. Raises UsageError for invalid arguments."""
    description = "Change an image as one text differs from another, through CLIP embeddings."
    options = parse(TextDiff(), args, prog="t2i text-diff", description=description)
    example = 't2i text-diff photo.png "a cat" "a zebra cat"'
    options.check(example, [options.base, options.target])
    if not options.base.strip() or not options.target.strip():
        raise UsageError(f"give two texts in quotes after the image, as in: {example}")
    check_distinct("the text", [options.base, options.target], "the image would not change")
    for strength in options.strengths:
        check_real("--strengths", strength, most=1.0)
    image = open_input(options.image, "image", options.image_size)

    def generate(pipe) -> list[Image.Image]:
        how = _call_options(pipe, pipe.text_diff, options)
        return pipe.text_diff(image, options.base, options.target, options.strengths, **how)

    texts = [options.base, options.target]
    labels = [f"{options.target} · {strength:g}" for strength in options.strengths]
    _run_series(options, generate, labels, texts, "", image)


def reconstruct(args: Sequence[str]) -> None:
    """Images of parts of an embedding. Raises UsageError for invalid arguments."""
    description = "Decode the first principal components of an image's CLIP embedding."
    options = parse(Reconstruct(), args, prog="t2i reconstruct", description=description)
    options.check("t2i reconstruct photo.png --num-components 4 16")
    check_seeds("--seed", options.seed)
    for number in options.num_components:
        check_whole("--num-components", number, least=0)
    image = open_input(options.image, "image", options.image_size)

    def generate(pipe) -> list[Image.Image]:
        how = _call_options(pipe, pipe.__call__, options)
        return pipe.reconstruct(image, options.num_components, options.seed, **how)

    labels = [f"{number} components" for number in options.num_components]
    _run_series(options, generate, labels, [], options.seed, image)


def _run_series(
    options: TextDiff | Reconstruct,
    generate: Callable[[Any], list[Image.Image]],
    labels: Sequence[str],
    texts: Sequence[str],
    seed: int | str,
    image: Image.Image,
) -> None:
    """Generate one image for each label, and save them after the given image."""

    def save(images: list[Image.Image]) -> str:
        return save_series([image, *images], ["original", *labels], options, texts, seed)

    run(options, "embeddings", generate, save)


def _call_options(pipe, method: Callable, options: EmbeddingOptions) -> dict[str, Any]:
    return call_options(pipe, options, options.pipeline, method)
