"""`t2i eval METRIC …`, which is also `python -m t2i.eval METRIC …` and `accelerate launch -m t2i.eval METRIC …`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from t2i.arguments import parse
from t2i.checks import UsageError, check_choice, check_distinct, check_options, check_seeds, check_whole
from t2i.devices import Dtype
from t2i.eval.ask import OPTIONS, Ask, Bits
from t2i.files import check_folder


@dataclass(frozen=True)
class Binding:
    pipeline: str = "toybox/dalle"
    """An embedded system, a folder, or a model of the Hub."""
    num: int = 500
    """Prompts of each of the four categories."""
    seed: int = 0
    """Fixes the prompts and the pictures."""
    out: str = "reports/binding"
    """Folder of report.json and successes-and-failures.png."""
    reader: str | None = None
    """Folder of the network that reads the pictures; by default the one that comes with the package."""
    batch_size: int = 32
    """Pictures drawn at once."""
    device: str = "auto"
    """'cpu', 'cuda', 'mps', … ; by default the fastest there is."""
    dtype: Dtype = "float32"
    """Precision in which the pipeline computes."""
    guidance_scale: float | None = None
    """How closely to follow the prompt; by default the pipeline's own, as for the rest of these."""
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    num_candidates: int | None = None
    """Draw so many for each picture and keep the one that the prompt explains best."""
    num_inference_steps: int | None = None
    scheduler: str | None = None
    """Another sampler of a diffusion pipeline, by name."""


def main(args: Sequence[str]) -> None:
    """Run the metric that `args` name; raises UsageError for arguments that name none."""
    args = list(args)
    if not args or args[0] in ("-h", "--help"):
        print(_overview())
        return
    check_choice("metric", args[0], METRICS)
    METRICS[args[0]][0](args[1:])


def binding(args: Sequence[str]) -> None:
    """Are the right things, with the right attributes, in the right places? On toybox, exactly."""
    ask = parse(Binding(), args, prog="t2i eval binding", description=binding.__doc__)
    check_whole("--num", ask.num)
    check_whole("--batch-size", ask.batch_size)
    check_seeds("--seed", ask.seed)
    check_options({name: getattr(ask, name) for name in OPTIONS}, flags=True)
    out = Path(ask.out)
    check_folder(ask.out)

    from t2i.data.toybox.reader import load_reader
    from t2i.eval import binding as metric  # not before: torch takes seconds to import, --help should not
    from t2i.eval.processes import is_main_process
    from t2i.eval.tools import open_to_draw

    reader = load_reader(ask.reader)  # before the pipeline, which takes longer to open
    pipe = open_to_draw(ask.pipeline, ask.device, ask.dtype)
    out.mkdir(parents=True, exist_ok=True)  # fails now rather than after all the drawing
    options = {name: getattr(ask, name) for name in OPTIONS}
    evaluation = metric.evaluate(
        pipe, reader.to(pipe.device), ask.num, ask.seed, ask.batch_size, name=ask.pipeline, **options
    )
    if is_main_process():
        metric.write(evaluation, out)
        print(metric.table(evaluation.report))
        print(f"{out}: report.json and successes-and-failures.png")


def report(part: str, args: Sequence[str]) -> None:
    """A part of the report, or all of it."""
    ask = parse(Ask(out=f"reports/{part}"), args, prog=f"t2i eval {part}", description=PARTS[part])
    from t2i.eval import commands

    commands.evaluate(part, ask)


def bits(args: Sequence[str]) -> None:
    """Bits a number of test pictures under unconditional models: exact, or a bound."""
    ask = parse(Bits(), args, prog="t2i eval bits", description=bits.__doc__)
    if not ask.models:
        raise UsageError("give the folder of a run, as in: t2i eval bits runs/glow")
    check_distinct("the run", ask.models)
    from t2i.eval.bits import measure

    measure(ask)


PARTS = {  # the same names as in t2i.eval.sections, which takes seconds to import (a test compares them)
    "all": "Every part below that pictures, prompts and pipeline allow, in one report.",
    "composition": "Colour, skin, counting, position, two objects … per category. On toybox, exactly.",
    "fid": "Fréchet distance (FID and Inception score with Inception alone), precision, recall, density, coverage.",
    "kid": "Kernel distance to real pictures; with CLIP also CMMD.",
    "clip": "CLIP score of a named variant, and R-precision.",
    "likelihood": "Nats a code of real pictures, given their captions.",
    "reconstruction": "What the image tokenizer keeps of real pictures: PSNR, SSIM.",
    "memorization": "Nearest training pictures, and the share of near copies.",
    "bias": "What one word of a prompt changes, and what is drawn where it says nothing.",
    "lecture": "The prompts of the lecture's slides, a picture of each.",
}
METRICS: dict[str, tuple[Callable[[Sequence[str]], None], str]] = {
    "binding": (binding, binding.__doc__),
    **{part: (partial(report, part), about) for part, about in PARTS.items()},
    "bits": (bits, bits.__doc__),
}


def _overview() -> str:
    lines = ["usage: t2i eval METRIC [options]; t2i eval METRIC --help lists them", ""]
    return "\n".join(lines + [f"  {name:13} {about.splitlines()[0]}" for name, (_, about) in METRICS.items()])
