"""`t2i sample RUN`: images from an unconditional model."""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from t2i.arguments import parse
from t2i.checks import UsageError, check_choice, check_real, check_whole
from t2i.notes import with_article
from t2i.pipelines.commands.common import SeedOptions, check_takes, print_summary, record, save_grid
from t2i.pipelines.commands.outputs import Output, check_out, write_images

MODEL_OPTIONS = ("temperature", "steps", "method", "eta")  # which only some models' `sample` takes
BATCH_SIZE = 64


@dataclass(frozen=True)
class Sample(SeedOptions):
    """Options of `t2i sample`. Raises UsageError for values out of range."""

    model: Annotated[Positional[str], arg(metavar="RUN")] = ""
    """Folder of an unconditional model, or of a run, whose best checkpoint is used."""
    num_images: int = 64
    """Images to generate."""
    out: str = "samples.png"
    """File for a grid (.png, .jpg, .webp), or folder (ending in /) for single images; files are never overwritten."""
    label: int | None = None
    """Class label (class-conditional models); by default all classes in turn."""
    complete: bool = False
    """Keep the upper halves of test images of the model's data set and sample the lower halves (models that generate
    pixel by pixel)."""
    temperature: float | None = None
    """Sampling temperature (flows, hierarchical VAEs): below 1, samples are closer to the mode; by default 1."""
    steps: int | None = None
    """Sampling steps (diffusion models); by default the model's own."""
    method: Literal["sde", "pc", "ode"] | None = None
    """Sampler (score SDE): the reverse-time SDE, predictor-corrector, or the probability-flow ODE; by default the
    model's own."""
    eta: float | None = None
    """Noise of DDIM sampling (DDPM with --steps), from 0 (deterministic) to 1 (as DDPM); by default 0."""
    device: str = "auto"
    """'cpu', 'cuda', 'mps', …; by default the fastest available."""

    def __post_init__(self) -> None:
        self.check_seed_options()
        if self.method == "ode" and self.steps is not None:
            raise UsageError("--method ode takes no --steps: its solver chooses its steps")
        if self.steps is not None:
            check_whole("--steps", self.steps)
        if self.temperature is not None:
            check_real("--temperature", self.temperature)
        if self.eta is not None:
            check_real("--eta", self.eta, most=1.0)


def main(args: Sequence[str]) -> None:
    """Generate the images and print where they are. Raises UsageError for invalid arguments."""
    options = parse(Sample(), args, prog="t2i sample", description="Generate images from an unconditional model.")
    if not options.model:
        raise UsageError("give the folder of a run, as in: t2i sample runs/glow")
    single = check_out(options.out)

    import torch  # after all checks: it takes seconds to load

    from t2i.contact_sheet import contact_sheet
    from t2i.devices import to_device
    from t2i.images import check_finite, to_pil
    from t2i.models import load_pretrained

    started = time.perf_counter()
    model = to_device(load_pretrained(options.model), options.device)
    loaded = time.perf_counter()
    n = options.num_images
    batches = [range(start, min(start + BATCH_SIZE, n)) for start in range(0, n, BATCH_SIZE)]
    pixels = torch.cat([_generate(model, options, indices) for indices in batches])
    seconds = time.perf_counter() - loaded
    check_finite(pixels)
    images = to_pil(pixels.float().cpu().expand(-1, 3, -1, -1))
    if single:
        outputs = [
            Output(image, Path(options.out) / f"{seed}.png", record(options, [], seed, options.model))
            for seed, image in enumerate(images, start=options.seed)
        ]
        where = write_images(outputs, folder=True)
    else:
        grid = contact_sheet(images, [""] * n, columns=8, cell=max(64, images[0].width))
        where = save_grid(grid, options, [], options.seed, options.model)
    print_summary(where, n, {options.model: (seconds, loaded - started)})


def _generate(model, options: Sample, indices: range):
    """The images of these indices, (n, C, S, S) in [-1, 1]."""
    import torch

    name = type(model).__name__
    values = {key: value for key in MODEL_OPTIONS if (value := getattr(options, key)) is not None}
    takes = inspect.signature(model.sample).parameters if model.samples else {}
    refused = [key for key in values if options.complete or key not in takes]
    check_takes(name, refused, " with --complete" * options.complete)
    generators = [torch.Generator().manual_seed(options.seed + i) for i in indices]
    y = _labels(model, options, indices)
    if not options.complete:
        if not model.samples:
            raise UsageError(f"{with_article(name)} has nothing to sample from: it only reconstructs given images")
        return model.sample(len(indices), y, generators, **values)
    if not hasattr(model, "complete"):
        raise UsageError(f"{with_article(name)} does not generate pixel by pixel: --complete needs a model that does")
    images, labels = _test_images(model, options, indices)
    known = torch.zeros(model.shape[1:], dtype=torch.bool)
    known[: model.shape[1] // 2] = True
    return model.complete(images, known, labels if model.conditional and options.label is None else y, generators)


def _labels(model, options: Sample, indices: range):
    """(n,), or None for a model without classes."""
    import torch

    if not model.conditional:
        if options.label is not None:
            raise UsageError(f"{with_article(type(model).__name__)} that was trained without labels takes no --label")
        return None
    if options.label is not None:
        check_choice("label", str(options.label), map(str, range(model.num_classes)))
    labels = [i % model.num_classes if options.label is None else options.label for i in indices]
    return torch.tensor(labels, device=model.device)


def _test_images(model, options: Sample, indices: range):
    """Test images of the model's data set, (n, C, S, S) as the model takes them, and labels (n,)."""
    from t2i.data.levels import PreparePixels, first_levels
    from t2i.models.base import from_levels
    from t2i.runs import open_training_data

    test = open_training_data(options.model).test
    if options.num_images > len(test):
        raise UsageError(f"there are {len(test)} test images to complete: set --num-images")
    prepare = PreparePixels(model.levels, model.shape[0])
    k, labels = first_levels(test, prepare, indices.stop, skip=indices.start)
    return from_levels(k, model.levels).to(model.device), labels.to(model.device)
