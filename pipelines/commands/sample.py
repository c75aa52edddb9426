"""`t2i sample RUN`: pictures of an unconditional model."""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from t2i.arguments import parse
from t2i.checks import UsageError, check_choice, check_real, check_seeds, check_whole
from t2i.pipelines.commands.generate import record, say
from t2i.pipelines.outputs import Output, check_out, write_images

OPTIONS = ("temperature", "steps", "method", "eta")  # of some models' sampling, given only if asked for
BATCH = 64  # pictures drawn at once


@dataclass(frozen=True)
class Sample:
    model: Annotated[Positional[str], arg(metavar="RUN")] = ""
    """Folder of an unconditional model, or of a run, whose best is taken."""
    num: int = 64
    """Pictures."""
    seed: int = 0
    """Picture i has the seed `seed` + i, and with it can be made again alone."""
    out: str = "samples.png"
    """A PNG file for a grid, or a folder (its name ends in /) for single pictures."""
    label: int | None = None
    """Of a conditional model, the class; by default all in turn."""
    complete: bool = False
    """Draw only the lower halves, of test pictures of what the model was trained on."""
    temperature: float | None = None
    """Of a flow or a hierarchical VAE: below 1, nearer to what is most probable."""
    steps: int | None = None
    """Of a diffusion model."""
    method: Literal["sde", "pc", "ode"] | None = None
    """Of a score SDE: the reverse-time SDE, with corrector steps too, or the probability-flow ODE."""
    eta: float | None = None
    """Of a DDPM with --steps, DDIM's share of fresh noise, from 0 (the default) to 1."""
    device: str = "auto"
    """'cpu', 'cuda', 'mps', … ; by default the fastest there is."""

    def __post_init__(self) -> None:
        check_whole("--num", self.num)
        check_seeds("--seed", self.seed, self.num)
        if self.method == "ode" and self.steps is not None:
            raise UsageError("--method ode takes no --steps: its solver's are the model's own")
        if self.steps is not None:
            check_whole("--steps", self.steps)
        if self.temperature is not None:
            check_real("--temperature", self.temperature)
        if self.eta is not None:
            check_real("--eta", self.eta, most=1.0)


def main(args: Sequence[str]) -> None:
    """Draw what `args` ask for and say where it is; raises UsageError for bad arguments."""
    ask = parse(Sample(), args, prog="t2i sample", description="Draw pictures of an unconditional model.")
    if not ask.model:
        raise UsageError("give the folder of a run, as in: t2i sample runs/glow")
    single = check_out(ask.out)

    import torch  # not before: it takes seconds to import, mistakes should not

    from t2i.data.toybox.sheet import contact_sheet
    from t2i.devices import to_device
    from t2i.images import check_finite, to_pil
    from t2i.models import load_pretrained

    loading = time.perf_counter()
    model = to_device(load_pretrained(ask.model), ask.device)
    drawing = time.perf_counter()
    images = torch.cat([_draw(model, ask, range(i, min(i + BATCH, ask.num))) for i in range(0, ask.num, BATCH)])
    took = time.perf_counter() - drawing
    check_finite(images)
    pictures = to_pil(images.float().cpu().expand(-1, 3, -1, -1))
    if single:
        outputs = [
            Output(picture, Path(ask.out) / f"{ask.seed + i}.png", record(ask, [], ask.seed + i, ask.model))
            for i, picture in enumerate(pictures)
        ]
    else:
        sheet = contact_sheet(pictures, [""] * len(pictures), columns=8, cell=max(64, pictures[0].width))
        outputs = [Output(sheet, Path(ask.out), record(ask, [], ask.seed, ask.model))]
    say(write_images(outputs, single), len(pictures), {ask.model: (took, drawing - loading)})


def _draw(model, ask: Sample, places: range):
    """Pictures of these places, (n, C, S, S) in [-1, 1]."""
    import torch

    name, given = type(model).__name__, {key: value for key in OPTIONS if (value := getattr(ask, key)) is not None}
    takes = inspect.signature(model.sample).parameters if model.samples else {}
    if odd := [key for key in given if ask.complete or key not in takes]:
        raise UsageError(f"{name} takes no --{odd[0]}" + " with --complete" * ask.complete)
    generators = [torch.Generator().manual_seed(ask.seed + i) for i in places]
    y = _labels(model, ask, places)
    if not ask.complete:
        if not model.samples:
            raise UsageError(f"a {name} has nothing to sample from: only given pictures go through it")
        return model.sample(len(places), y, generators, **given)
    if not hasattr(model, "complete"):
        raise UsageError(f"a {name} does not draw pixel by pixel: --complete needs a model that does")
    images, labels = _test_pictures(model, ask, places)
    known = torch.zeros(model.shape[1:], dtype=torch.bool)
    known[: model.shape[1] // 2] = True
    return model.complete(images, known, labels if model.conditional and ask.label is None else y, generators)


def _labels(model, ask: Sample, places: range):
    """(n,), or None for a model that knows no classes."""
    import torch

    if not model.conditional:
        if ask.label is not None:
            raise UsageError(f"a {type(model).__name__} that was trained without labels takes no --label")
        return None
    if ask.label is not None:
        check_choice("label", str(ask.label), map(str, range(model.num_classes)))
    numbers = [i % model.num_classes if ask.label is None else ask.label for i in places]
    return torch.tensor(numbers, device=model.device)


def _test_pictures(model, ask: Sample, places: range):
    """Of the run's data, as the model takes them: (n, C, S, S) and labels (n,)."""
    from t2i.data.levels import PreparePixels, first_levels
    from t2i.models.base import from_levels
    from t2i.runs import open_training_data

    test = open_training_data(ask.model).test
    if ask.num > len(test):
        raise UsageError(f"there are {len(test)} test pictures to complete: set --num")
    k, labels = first_levels(test, PreparePixels(model.levels, model.shape[0]), places.stop)
    images = from_levels(k, model.levels)[places.start :]
    return images.to(model.device), labels[places.start :].to(model.device)
